"""Half characters: a model cut in the middle of an emoji leaves one surrogate, which strict decoders refuse."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding JSON raises, whatever the bytes."""

_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole character in two halves
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)


def mended(body: bytes) -> bytes:
    r"""Put the replacement character, \ufffd, in place of every lone half in the strings of a JSON text."""
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)


def decoded(data: bytes, decode: Callable[[bytes], T] = msgspec.json.decode) -> T:
    """Decode JSON, with lone halves mended where it cannot be decoded as it is; raise what `decode` does."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeError):
        whole = mended(data)
        if whole == data:
            raise
        return decode(whole)
