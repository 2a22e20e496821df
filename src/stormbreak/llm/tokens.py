"""How many tokens a request will use, told from its body before it is sent.

An estimate and no count: a quarter of the bytes, and the most that the answer may have (`max_tokens` and its other names,
for each of `n` choices). This is what providers themselves reserve. What the answer says it used is settled afterwards.

Pictures and other data in base64 are tokens of another kind: they count as `DATA` each, whatever their size. Where
the request does not bound its answer, `ANSWER` is assumed.
"""

import re
from typing import Any

BYTES_PER_TOKEN = 4
ANSWER = 512
DATA = 1024
_LARGEST = 10_000_000  # no model answers with more: a bound gone wrong
_BASE64 = re.compile(
    rb'[",][A-Za-z0-9+/=\\]{512,}"'
)  # a string, or what follows the comma of a data URL; no run is read twice


def estimate(body: bytes, *, bound: Any = None, choices: int = 1, answers: bool = True) -> int:
    """Estimate the tokens of prompt and answer together.

    Args:
        body: the request.
        bound: the most tokens of one answer, as the request has it; anything but a count is none.
        choices: how many answers are asked for.
        answers: whether text comes back at all; embeddings are free.
    """
    size = len(body)
    data = 0
    if size > BYTES_PER_TOKEN * DATA:
        blobs = [len(blob) for blob in _BASE64.findall(body)]
        size -= sum(blobs)
        data = DATA * len(blobs)
    prompt = size // BYTES_PER_TOKEN + 1 + data
    if not answers:
        return prompt
    bounded = type(bound) is int and 0 < bound <= _LARGEST
    return prompt + max(1, choices) * (bound if bounded else ANSWER)
