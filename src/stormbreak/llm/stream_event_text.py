"""A single event of a stream, in every format: whether it is JSON, and the text that it adds to the answer."""

from typing import Any

import msgspec

from stormbreak.llm.responses import ENDS, TEXT, read_response
from stormbreak.llm.surrogates import UNREADABLE, decoded


class _Delta(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None
    message: Any = None
    text: Any = None  # in text completions


class _Chunk(msgspec.Struct):
    type: Any = None
    choices: list[_Choice] | None = None
    delta: Any = None
    content_block: Any = None
    response: msgspec.Raw = msgspec.Raw(b"null")


_CHUNK = msgspec.json.Decoder(_Chunk)
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)


def is_readable(data: bytes) -> bool:
    """Whether it is JSON, without decoding the values."""
    try:
        decoded(data, _ANYTHING.decode)
        if not data.isascii():
            data.decode()
    except UNREADABLE:
        return False
    return True


def is_last(data: bytes, last_events: frozenset[str]) -> bool:
    for last in last_events:
        if data.find(last.encode()) >= 0:
            try:
                return decoded(data, _CHUNK.decode).type in last_events
            except (*UNREADABLE, TypeError):  # a type may be anything
                return False
    return False


def text_of(data: bytes, *, begun: bool = False) -> str:
    """Return the text that an event adds to the first choice; empty if it adds none.

    A whole answer in one event is a repetition if the text has `begun`.
    """
    try:
        text = _text_of(_chunk_of(data), begun=begun)
    except (*UNREADABLE, TypeError):  # a type may be anything
        return ""
    return text if isinstance(text, str) else ""


def _chunk_of(data: bytes) -> _Chunk:
    try:
        return decoded(data, _CHUNK.decode)
    except msgspec.ValidationError:  # a key may occur twice: every reader uses the last one
        return msgspec.convert(decoded(data), _Chunk)


def _text_of(chunk: _Chunk, *, begun: bool) -> Any:
    if chunk.choices:
        return _text_of_choice(chunk.choices, begun=begun)
    if chunk.type == TEXT:
        return chunk.delta
    if chunk.type in ENDS and not begun:
        return read_response(bytes(chunk.response), None, None).text
    if chunk.type == "content_block_start":
        return _field(chunk.content_block, "text")
    return _field(chunk.delta, "text") if chunk.type == "content_block_delta" else None


def _text_of_choice(choices: list[_Choice], *, begun: bool) -> Any:
    first = next((each for each in choices if not each.index), None)
    if first is None:
        return None
    if first.delta is not None:
        return first.delta.content
    if first.text is not None:
        return first.text
    return None if begun else _field(first.message, "content")


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
