"""The parts of an event's data, each of the kind that it must be; anything else is a malformed chunk."""

from typing import Any

from stormbreak.llm.pieces import SAID, MalformedChunkError


def expect_object(value: object) -> dict[str, Any]:
    """Pass an object; raise MalformedChunkError."""
    if not isinstance(value, dict):
        raise MalformedChunkError
    return value


def expect_list(value: object) -> list[Any]:
    """Pass a list, null as an empty one; raise MalformedChunkError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedChunkError
    return value


def expect_index(value: object, default: int = 0) -> int:
    """Pass a position, `default` where there is none; raise MalformedChunkError."""
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise MalformedChunkError
    return value


def expect_finish_reason(value: object) -> str | None:
    """Pass a reason or none, as which some write the word; raise MalformedChunkError."""
    if value is not None and not isinstance(value, str):
        raise MalformedChunkError
    return None if value == "null" else value


def delta_of(choice: dict[str, Any], *, begun: bool) -> dict[str, Any]:
    """What a choice of a chunk brings: its delta, or else its message; raise MalformedChunkError.

    Some servers give the whole message in one event. Others repeat it at the end: once a choice has `begun`, it is none.
    """
    delta = choice.get("delta")
    if delta is None and not begun:
        delta = choice.get("message")
    return expect_object(delta or {})


def text_of(choice: dict[str, Any], *, begun: bool) -> dict[str, Any]:
    """What a choice of a chunk of a text completion brings: its text, as a delta.

    Mistral answers as a chat to what is to be filled in.
    """
    text = choice.get("text")
    return delta_of(choice, begun=begun) if text is None else {"text": text}


def brings_output(delta: dict[str, Any]) -> bool:
    """Whether a delta brings anything but who speaks, and of what kind it is."""
    return any(
        value and not (name in SAID and isinstance(value, str)) for name, value in delta.items()
    )
