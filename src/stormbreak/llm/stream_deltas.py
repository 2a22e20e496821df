"""Deltas of a stream: check the parts of each event, and join JSON values that arrive in pieces."""

from typing import Any, Protocol

# ---------------------------------------------------------------- JSON in pieces
# Text is joined, a list is extended, an object grows field by field; a number or a boolean replaces
# the one before, unless it is 0 or false; null says nothing. Where kinds clash, an empty text, list
# or object gives way, and anything else is refused: nothing that a provider sent may get lost in
# silence. Three exceptions:
#
# - `id`, `type` and `role` are never joined: they never come in pieces, and providers repeat them;
# - a `name` that repeats what is there already is a repetition, not a piece;
# - `content` may change between text and a list of parts: the text becomes a part of its own.

SAID = frozenset({"id", "type", "role"})
_MIXED = {str, list}


class MalformedChunkError(ValueError):
    """A chunk is valid JSON, but no chunk of a chat completion."""


class JsonAccumulator:
    """An object that comes in pieces.

    Args:
        joins: whether text grows; else each text replaces the one before.
    """

    def __init__(self, *, joins: bool = True) -> None:
        self._joins = joins
        self._fields: dict[str, _Field] = {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def add(self, delta: dict[str, Any]) -> bool:
        """Take a delta and tell whether it brought anything; raise MalformedChunkError if kinds clash."""
        grew = False
        for name, piece in delta.items():
            field = self._fields.get(name)
            if field is None:
                field = self._fields[name] = _Field(name, joins=self._joins)
            grew |= field.add(piece)
        return grew

    def result(self) -> dict[str, Any]:
        """Give the object so far."""
        return {name: field.result() for name, field in self._fields.items()}


class _Field:
    """One value that comes in pieces. Text is kept as a list of them, an object as `JsonAccumulator`."""

    def __init__(self, name: str, *, joins: bool) -> None:
        self._name = name
        self._joins = joins
        self._kind: type = type(None)
        self._length = 0  # of the text so far
        self._so_far: Any = None

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
            return bool(piece)
        if self._kind is dict:
            self._so_far.add(piece)
            return bool(piece)
        if piece or self._so_far is None:
            self._so_far = piece
        return bool(piece)

    def result(self) -> Any:
        if self._kind is str:
            return "".join(self._so_far)
        if self._kind is list:
            return [part.result() if isinstance(part, _Text) else part for part in self._so_far]
        return self._so_far.result() if self._kind is dict else self._so_far

    def _turn_into(self, kind: type, piece: Any) -> bool:
        """Get ready for a piece of another kind; False if there is nothing in it."""
        if self._is_empty():
            self._kind = kind
            if kind is dict:
                self._so_far = JsonAccumulator(joins=self._joins)
            else:
                self._so_far = None if kind is float else []
        elif kind is not float and not piece:
            return False
        elif self._name == "content" and {kind, self._kind} == _MIXED:
            if kind is list:
                self._kind, self._so_far = list, [_Text(self._so_far)]
        else:
            raise MalformedChunkError
        return True

    def _is_empty(self) -> bool:
        return self._kind is not float and not self._so_far

    def _join(self, piece: str) -> bool:
        if not self._joins or self._name in SAID:
            if piece:
                self._so_far = [piece]
            return bool(piece) and self._name not in SAID
        repeated = self._name == "name" and len(piece) == self._length and piece == self.result()
        if piece and not repeated:
            self._so_far.append(piece)
            self._length += len(piece)
        return bool(piece)

    def _extend(self, piece: Any) -> None:
        if isinstance(piece, list):
            self._so_far.extend(piece)
        elif isinstance(self._so_far[-1], _Text):
            self._so_far[-1].pieces.append(piece)
        else:
            self._so_far.append(_Text([piece]))


class _Text:
    """Text between the parts of a content."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def result(self) -> dict[str, str]:
        return {"type": "text", "text": "".join(self.pieces)}


def _kind(piece: object) -> type:
    """Tell the kind of a JSON value; float stands for all that replace: numbers, true and false."""
    for kind in (str, list, dict, type(None)):
        if isinstance(piece, kind):
            return kind
    return float


# ---------------------------------------------------------------- parts of an event


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


# ---------------------------------------------------------------- event consumers


class EventConsumer(Protocol):
    """Whatever takes the decoded data of events and knows how far the answer has come."""

    @property
    def has_output(self) -> bool:
        """Whether output has come."""

    @property
    def ended(self) -> bool:
        """Whether nothing that may still come can change the answer."""

    def add(self, said: dict[str, Any], /) -> None:
        """Take the data of one event; raise MalformedChunkError."""

    def wrong(self, *, done: bool = False) -> str | None:
        """Tell what is missing if nothing more comes; None of a complete answer.

        Args:
            done: whether the stream said that it is over.
        """


class WatchedAssembly:
    """Keeps an answer; how far it has come is for its `_watcher` to say, another follower."""

    _watcher: EventConsumer

    @property
    def has_output(self) -> bool:
        """Whether output has come."""
        return self._watcher.has_output

    @property
    def ended(self) -> bool:
        """Whether nothing that may still come can change the answer."""
        return self._watcher.ended

    def wrong(self, *, done: bool = False) -> str | None:
        """Tell what is missing if nothing more comes; None of a complete answer."""
        return self._watcher.wrong(done=done)
