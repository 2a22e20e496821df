"""Half characters: a model cut in the middle of an emoji leaves one surrogate, which strict decoders refuse."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding JSON raises, whatever the bytes."""

MOST_HALVES = 50_000
"""Escaped halves, in pairs or alone, that are looked at in one text: 30 ms. A model leaves one in a string at most."""

_SURROGATES = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole character
    rb"|[89a-fA-F][0-9a-fA-F]{2})"
)
_ALONE = len(rb"\ud83d")


def mended(body: bytes) -> bytes:
    r"""Put the replacement character, \ufffd, in place of every lone half in the strings of a JSON text.

    A text with more than `MOST_HALVES` comes back as it is. The time is linear in the size of the text.
    """
    parts: list[bytes] = []
    copied = at = looked_at = 0
    while found := _SURROGATES.search(body, at):
        looked_at += 1
        if looked_at > MOST_HALVES:
            return body
        start, end = found.span()
        before = body[at:start]
        if (
            len(before) - len(before.rstrip(b"\\"))
        ) % 2:  # its backslash is escaped: no half, but text
            at = start + len(rb"\u")
            continue
        at = end
        if end - start == _ALONE:
            parts += body[copied:start], rb"\ufffd"
            copied = end
    return b"".join((*parts, body[copied:])) if parts else body


def decoded(data: bytes, decode: Callable[[bytes], T] = msgspec.json.decode) -> T:
    """Decode JSON, with lone halves mended where it cannot be decoded as it is; raise what `decode` does."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeError):
        whole = mended(data)
        if whole == data:
            raise
        return decode(whole)
