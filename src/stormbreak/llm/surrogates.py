"""Lone surrogates: an answer cut in the middle of an emoji has one, and strict decoders reject it."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)  # all that decoding JSON raises
MAX_SURROGATES = 50_000
"""Maximum escaped surrogates, paired or lone, to check in one text: 30 ms. A cut leaves at most one in a string."""

_SURROGATES = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole character
    rb"|[89a-fA-F][0-9a-fA-F]{2})"
)
_ALONE = len(rb"\ud83d")


def replace_lone_surrogates(body: bytes) -> bytes:
    r"""Replace every lone surrogate in the strings of a JSON text by \ufffd.

    A text with more than `MAX_SURROGATES` is returned unchanged. The time is linear in the size of the text.
    """
    parts: list[bytes] = []
    copied = at = checked = 0
    while found := _SURROGATES.search(body, at):
        checked += 1
        if checked > MAX_SURROGATES:
            return body
        start, end = found.span()
        before = body[at:start]
        if (len(before) - len(before.rstrip(b"\\"))) % 2:  # its backslash is escaped: it is text
            at = start + len(rb"\u")
            continue
        at = end
        if end - start == _ALONE:
            parts += body[copied:start], rb"\ufffd"
            copied = end
    return b"".join((*parts, body[copied:])) if parts else body


def decoded(data: bytes, decode: Callable[[bytes], T] = msgspec.json.decode) -> T:
    """Decode JSON; if that fails, replace lone surrogates and try again. Raise what `decode` raises."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeError):
        whole = replace_lone_surrogates(data)
        if whole == data:
            raise
        return decode(whole)
