"""What a single event of a stream holds: whether it can be read, and the text that it adds to the answer.

For all formats: chat completions, Responses, Messages.
"""

from typing import Any

import msgspec

from stormbreak.llm.halves import decoded

_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


class _Delta(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None
    message: Any = None


class _Chunk(msgspec.Struct):
    type: Any = None
    choices: list[_Choice] | None = None
    delta: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)


def is_sound(data: bytes) -> bool:
    """Whether it is JSON, as far as that can be told without making anything of it."""
    try:
        decoded(data, _ANYTHING.decode)
        if not data.isascii():
            data.decode()
    except _UNREADABLE:
        return False
    return True


def ends(data: bytes, lasts: frozenset[str]) -> bool:
    """Whether the event is of one of these types."""
    if not any(data.find(last.encode()) >= 0 for last in lasts):
        return False
    try:
        return decoded(data, _CHUNK.decode).type in lasts
    except (*_UNREADABLE, TypeError):  # a type may be anything
        return False


def text_of(data: bytes, *, begun: bool = False) -> str:
    """Read the text that an event adds to the first choice; empty where it adds none, or is no such event.

    A whole message in a chunk is the text of a choice that has not `begun`, and else a repetition.
    """
    try:
        chunk = decoded(data, _CHUNK.decode)
    except _UNREADABLE:
        return ""
    text: Any = None
    if chunk.choices:
        first = next((each for each in chunk.choices if not each.index), None)
        if first is not None and first.delta is not None:
            text = first.delta.content
        elif first is not None and isinstance(first.message, dict) and not begun:
            text = first.message.get("content")
    elif chunk.type == "response.output_text.delta":
        text = chunk.delta
    elif chunk.type == "content_block_delta" and isinstance(chunk.delta, dict):
        text = chunk.delta.get("text")
    return text if isinstance(text, str) else ""
