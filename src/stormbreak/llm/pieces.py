"""JSON values that come in pieces, as the deltas of a stream bring them.

Text is joined, a list is extended, an object grows field by field; a number or a boolean replaces the one
before, unless it is 0 or false; null says nothing. Where kinds clash, an empty text, list or object gives
way, and anything else is refused: nothing that a provider sent may get lost in silence. Three exceptions:

- `id`, `type` and `role` are said, not told: they never come in pieces, and providers repeat them;
- a `name` that repeats what is there already is a repetition, not a piece;
- `content` may change between text and a list of parts: the text becomes a part of its own.
"""

from typing import Any

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
