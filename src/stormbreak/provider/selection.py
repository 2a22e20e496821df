"""Which requests a trouble picks, besides chance."""

from functools import lru_cache
from typing import NamedTuple

import msgspec

from stormbreak.provider.scenario import Trouble


class Asking(NamedTuple):
    """A request as a trouble sees it; `text` is its body, as JSON without escapes that could be left out."""

    number: int  # the first of the clients' requests is 1
    attempt: int  # the first with this body is 1
    text: bytes = b""


def picked(trouble: Trouble, asking: Asking) -> bool:
    """Whether a trouble may strike this request: all of its keys must fit."""
    if trouble.requests and asking.number not in trouble.requests:
        return False
    if trouble.first is not None and asking.attempt > trouble.first:
        return False
    return trouble.match is None or _written(trouble.match) in asking.text


@lru_cache(maxsize=1000)
def _written(text: str) -> bytes:
    """The text as it stands inside of a JSON string."""
    return msgspec.json.encode(text)[1:-1]
