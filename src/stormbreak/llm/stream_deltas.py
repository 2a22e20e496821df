"""Deltas of a stream: check the parts of each event, and join JSON values that arrive in pieces."""

from abc import ABC, abstractmethod
from typing import Any

# ---------------------------------------------------------------- JSON in pieces
# Text is joined, a list is extended, an object grows field by field. A number or a boolean replaces the value before,
# unless it is 0 or false; null is ignored. If the kinds differ, an empty text, list or object is replaced, and anything
# else is an error: no data of a provider may be lost silently. Three exceptions:
#
# - `id`, `type` and `role` are never joined: they never come in pieces, and providers repeat them;
# - a `name` that repeats the one before is a repetition, not a piece;
# - `content` may change between text and a list of parts: the text becomes a part of its own.

NEVER_JOINED = frozenset({"id", "type", "role"})
_MIXED = {str, list}


class MalformedChunkError(ValueError):
    """A chunk is valid JSON, but not a chunk of a chat completion."""


class JsonAccumulator:
    """An object that comes in pieces. Without `joins`, each text replaces the one before."""

    def __init__(self, *, joins: bool = True) -> None:
        self._joins = joins
        self._fields: dict[str, _Field] = {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def add(self, delta: dict[str, Any]) -> bool:
        """Take a delta and return whether it has content; raise MalformedChunkError if kinds differ."""
        grew = False
        for name, piece in delta.items():
            field = self._fields.get(name)
            if field is None:
                field = self._fields[name] = _Field(name, joins=self._joins)
            grew |= field.add(piece)
        return grew

    def result(self) -> dict[str, Any]:
        return {name: field.result() for name, field in self._fields.items()}


class _Field:
    """One value that comes in pieces. Text is kept as a list of pieces, an object as a `JsonAccumulator`."""

    def __init__(self, name: str, *, joins: bool) -> None:
        self._name = name
        self._joins = joins
        self._kind: type = type(None)
        self._length = 0  # length of the text so far
        self._value: Any = None

    def add(self, piece: Any) -> bool:
        kind = _kind(piece)
        if kind is type(None):
            return False
        if kind is not self._kind and not self._turn_into(kind, piece):
            return False
        if self._kind is str:
            return self._join(piece)
        if self._kind is list:
            self._extend(piece)
        elif self._kind is dict:
            self._value.add(piece)
        elif piece or self._value is None:
            self._value = piece
        return bool(piece)

    def result(self) -> Any:
        if self._kind is str:
            return "".join(self._value)
        if self._kind is list:
            return [part.result() if isinstance(part, _Text) else part for part in self._value]
        return self._value.result() if self._kind is dict else self._value

    def _turn_into(self, kind: type, piece: Any) -> bool:
        """Prepare for a piece of another kind; False if the piece is empty."""
        if self._is_empty():
            self._kind = kind
            if kind is dict:
                self._value = JsonAccumulator(joins=self._joins)
            else:
                self._value = None if kind is float else []
        elif kind is not float and not piece:
            return False
        elif self._name == "content" and {kind, self._kind} == _MIXED:
            if kind is list:
                self._kind, self._value = list, [_Text(self._value)]
        else:
            raise MalformedChunkError
        return True

    def _is_empty(self) -> bool:
        return self._kind is not float and not self._value

    def _join(self, piece: str) -> bool:
        if not self._joins or self._name in NEVER_JOINED:
            if piece:
                self._value = [piece]
            return bool(piece) and self._name not in NEVER_JOINED
        repeated = self._name == "name" and len(piece) == self._length and piece == self.result()
        if piece and not repeated:
            self._value.append(piece)
            self._length += len(piece)
        return bool(piece)

    def _extend(self, piece: Any) -> None:
        if isinstance(piece, list):
            self._value.extend(piece)
        elif isinstance(self._value[-1], _Text):
            self._value[-1].pieces.append(piece)
        else:
            self._value.append(_Text([piece]))


class _Text:
    """Text between the parts of a content."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def result(self) -> dict[str, str]:
        return {"type": "text", "text": "".join(self.pieces)}


def _kind(piece: object) -> type:
    """Return the kind of a JSON value; float stands for numbers, true and false, which replace earlier values."""
    for kind in (str, list, dict, type(None)):
        if isinstance(piece, kind):
            return kind
    return float


# ---------------------------------------------------------------- parts of an event


def expect_object(value: object) -> dict[str, Any]:
    """Return an object; raise MalformedChunkError."""
    if not isinstance(value, dict):
        raise MalformedChunkError
    return value


def expect_list(value: object) -> list[Any]:
    """Return a list, null as an empty one; raise MalformedChunkError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedChunkError
    return value


def expect_index(value: object, default: int = 0) -> int:
    """Return an index, or `default` if there is none; raise MalformedChunkError."""
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise MalformedChunkError
    return value


def expect_finish_reason(value: object) -> str | None:
    """Return a reason or None; some servers write the word "null". Raise MalformedChunkError."""
    if value is not None and not isinstance(value, str):
        raise MalformedChunkError
    return None if value == "null" else value


def delta_of(choice: dict[str, Any], *, begun: bool) -> dict[str, Any]:
    """Return the delta of a choice, or else its message; raise MalformedChunkError.

    Some servers send the whole message in one event. Others repeat it at the end, where it is ignored (`begun`).
    """
    delta = choice.get("delta")
    if delta is None and not begun:
        delta = choice.get("message")
    return expect_object(delta or {})


def text_of(choice: dict[str, Any], *, begun: bool) -> dict[str, Any]:  # noqa: ARG001 - as `delta_of`
    """Return the text of a text completion's choice as a delta; raise MalformedChunkError for a choice of a chat."""
    text = choice.get("text")
    if text is None and (choice.get("delta") or choice.get("message")):
        raise MalformedChunkError
    return {} if text is None else {"text": text}


def brings_output(delta: dict[str, Any]) -> bool:
    """Whether a delta has more than role, id and type."""
    for name, value in delta.items():  # `any` takes twice as long
        if value and not (name in NEVER_JOINED and isinstance(value, str)):
            return True
    return False


# ---------------------------------------------------------------- watchers


class StreamWatcher(ABC):
    """Takes the decoded data of events, and tracks the state of the answer. `quiet` events may be left out.

    `choices` is the number that the call asked for (`n`). `finish_reason` is that of the first choice.
    """

    has_output = False
    ended = False  # no further event can change the answer
    usage: Any = None
    finish_reason: str | None = None

    def __init__(self, choices: int = 1) -> None:
        self._wanted = choices

    @property
    def reasons(self) -> list[str | None]:
        """The finish reason of each choice."""
        return [self.finish_reason]

    @staticmethod
    @abstractmethod
    def quiet(block: bytes) -> bool:
        """Whether these whole events can only be output."""

    def usage_in(self, data: dict[str, Any]) -> Any:  # noqa: ARG002 - only chat completions have it there
        """Find the usage in the data of a quiet event."""
        return None

    @abstractmethod
    def add(self, data: dict[str, Any]) -> None:
        """Take the data of one event; raise MalformedChunkError."""

    @abstractmethod
    def missing(self, *, done: bool = False) -> str | None:
        """Return the missing part if nothing more comes; None for a complete answer. `done`: after ``[DONE]``."""


class StreamAssembly(StreamWatcher):
    """A watcher that also keeps the answer. It must get every event."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """Return the body of the same answer without streaming."""
