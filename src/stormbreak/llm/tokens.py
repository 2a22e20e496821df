"""Token counts: read from an answer, estimated from a request's body, and bounded from above by it.

The estimate is no count: a quarter of the bytes, and the most that the answer may have (`max_tokens` and its other names,
for each of `n` choices). This is what providers themselves reserve. What the answer says it used is settled afterwards.

Pictures and other data in base64 are tokens of another kind: they count as `DATA` each, whatever their size. Where
the request does not bound its answer, `ANSWER` is assumed.
"""

import re
from typing import Any

import msgspec

from stormbreak.llm.models import NO_USAGE
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import Usage

# ---------------------------------------------------------------- usage of an answer

_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_TIMES = "cache_creation"  # the latter, by how long it is kept
_SHORT, _HOUR = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
_SANE = 10**7  # more than any call can use: a counter gone wrong


def usage_of(usage: object) -> Usage:
    """Read a `usage` object, in the words of chat completions or of newer APIs.

    Where one of its numbers is no count, none of them is believed: half a usage would be taken for the whole, and billed.

    Anthropic counts what was written to a cache, or read from one, beside the other input: here it is part of it, as it is
    where a gateway tells of it in the words of chat completions. Some (xAI, Gemini) count what a model has thought beside
    its output, in the total alone: it is billed as output.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    try:
        return _read(usage)
    except _NoCountError:
        return NO_USAGE


def _read(usage: dict[str, Any]) -> Usage:
    if (_READ in usage or _WRITTEN in usage) and not usage.get("prompt_tokens"):
        return _anthropic(usage)
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    if type(details) is not dict:
        details = {}
    entry = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    cached = min(_count(details.get("cached_tokens", usage.get(_READ))), entry)
    written = _count(details.get("cache_write_tokens", usage.get(_WRITTEN)))
    hour = _by_time(usage)[1] if written else 0
    written = min(written, entry - cached)
    return Usage(
        input_tokens=entry,
        output_tokens=max(output, total - entry) if entry else output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
    )


def _anthropic(usage: dict[str, Any]) -> Usage:
    cached, written = _count(usage.get(_READ)), _count(usage.get(_WRITTEN))
    short, hour = _by_time(usage)
    written = max(written, short + hour)
    return Usage(
        input_tokens=_count(usage.get("input_tokens")) + cached + written,
        output_tokens=_count(usage.get("output_tokens")),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


def _by_time(usage: dict[str, Any]) -> tuple[int, int]:
    """What was written for five minutes, and for an hour."""
    said = usage.get(_TIMES)
    return (_count(said.get(_SHORT)), _count(said.get(_HOUR))) if type(said) is dict else (0, 0)


class _NoCountError(Exception):
    """It is there, and no number of tokens."""


def _count(value: Any) -> int:
    """A number of tokens; what is not there is 0. Some servers write 12.0."""
    if value is None:
        return 0
    if type(value) not in (int, float) or not 0 <= value <= _SANE or value % 1:
        raise _NoCountError
    return int(value)


# ---------------------------------------------------------------- estimate

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


# ---------------------------------------------------------------- upper bound
# A token of text stands for one byte of it at least, and JSON makes no text shorter; what a
# template adds to each message is less than the JSON around it. So the bytes of the body, and what
# templates put around the whole of it, bound the prompt. The answer is bounded by what the body
# says (`max_tokens` and its other names, for each of `n` choices). All of the prompt may be written
# to a cache: for an hour, where the body says for how long something is kept there.
#
# Pictures are billed by their size, which no body tells: each counts as `PICTURE`. Of some requests
# nothing in the body tells the most: they refer to what lies on the server (files, earlier answers,
# stored prompts), or have tools run there; they hold a document, such as a PDF, whose pages are
# billed however few bytes they have; they leave the model to the server, or ask for what is dearer
# than its text: the priority tier, sounds, pictures.

TEMPLATE = 64
TOOLS = 2048
"""What providers write around a prompt: always, and where it has tools."""

PICTURE = 50_000
"""More than any model is known to bill: GPT-4o mini counts 48,169 for the largest."""

_LARGEST_BOUND = 10_000_000  # no model answers with more: a bound gone wrong
_PICTURES = re.compile(rb'"(?:image_url|input_image|image)"\s*[:,}]')
_ELSEWHERE = re.compile(
    rb'"(file_id|file_ids|file_url|file_data|video_url|document_url)"\s*:\s*[^n\s]'
    rb'|"type"\s*:\s*"(web_search|file_search|code_interpreter|code_execution|computer|mcp|image_generation|web_fetch|document)'
)
_KEPT = re.compile(rb'"ttl"\s*:\s*"(?!5m"|30m")')  # for longer than a cache does unasked
_NOTHING = msgspec.Raw(b"null")


_REFERRING = (
    "previous_response_id", "conversation", "container", "mcp_servers", "prediction", "plugins", "web_search_options",
    "search_parameters", "models",
)  # fmt: skip


class _CostFields(msgspec.Struct):
    """The fields of a body that make more of it than it says."""

    previous_response_id: msgspec.Raw = _NOTHING
    conversation: msgspec.Raw = _NOTHING
    container: msgspec.Raw = _NOTHING
    mcp_servers: msgspec.Raw = _NOTHING
    prediction: msgspec.Raw = _NOTHING
    plugins: msgspec.Raw = _NOTHING
    web_search_options: msgspec.Raw = _NOTHING
    search_parameters: msgspec.Raw = _NOTHING
    models: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    modalities: Any = None
    service_tier: Any = None
    speed: Any = None

    @property
    def more(self) -> str | None:
        """The name of one of them that does; None where there is none."""
        for name in _REFERRING:
            said = getattr(self, name)
            if said is not _NOTHING and bytes(said) != b"null":
                return name
        if self.prompt is not _NOTHING and bytes(self.prompt).startswith(b"{"):
            return "prompt"  # one that is stored; else it is a text
        if self.modalities not in (None, ["text"]):
            return "modalities"
        if self.service_tier == "priority":
            return "service_tier"
        return "speed" if self.speed == "fast" else None


_ASKS = msgspec.json.Decoder(_CostFields)


def unbounded_by(body: bytes) -> str | None:
    """What in a body keeps the most from being told, in the word that stands there; None: nothing does."""
    try:
        more = _ASKS.decode(body).more
    except UNREADABLE:
        more = None
    if more is not None:
        return more
    found = _ELSEWHERE.search(body)
    return None if found is None else (found[1] or found[2]).decode()


def input_bound(body: bytes) -> int | None:
    """The most tokens of the prompt; None where the body does not tell."""
    if unbounded_by(body) is not None:
        return None
    pictures = len(_PICTURES.findall(body))
    tools = TOOLS if b'"tools"' in body or b'"functions"' in body else 0
    return len(body) + TEMPLATE + tools + PICTURE * pictures


def is_bounded(said: Any) -> bool:
    """Whether what a body says of the length of its answer is a number that bounds it."""
    return type(said) is int and 0 < said <= _LARGEST_BOUND


def bound_of(
    body: bytes, *, bound: Any = None, choices: int = 1, answers: bool = True
) -> Usage | None:
    """The most tokens of prompt and answer; None where the body does not tell. The arguments are those of `estimate`."""
    most = input_bound(body)
    if most is None or not (is_bounded(bound) or not answers):
        return None
    hour = most if b'"ttl"' in body and _KEPT.search(body) else 0  # `in` takes a fifth of the time
    return Usage(
        input_tokens=most,
        output_tokens=max(1, choices) * bound if answers else 0,
        cache_write_tokens=hour,
        cache_write_1h_tokens=hour,
    )
