"""The body of a request: written, looked into as far as the client must know it, and made into one that streams."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import msgspec

from stormbreak.errors import ConfigurationError
from stormbreak.llm.models import Shape
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.llm.tokens import is_bounded


class RequestFields(msgspec.Struct):
    """What a body asks for, as far as it matters here. Its repr shows no text."""

    model: str
    stream: bool | None = None
    n: int | None = None
    best_of: Any = None
    stream_options: Any = None
    modalities: Any = None
    audio: Any = None
    deferred: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None

    def bound(self, shape: Shape) -> int | None:
        """The most tokens that an answer may have, as far as the body bounds it in words that the endpoint heeds.

        Of two names for it the larger number counts: some servers know only one of them, and pass over the other.
        """
        match shape:
            case Shape.RESPONSES:
                said = [self.max_output_tokens]
            case Shape.CHAT:
                said = [self.max_completion_tokens, self.max_tokens]
            case _:
                said = [self.max_tokens]
        return max(filter(is_bounded, said), default=None)

    @property
    def choices(self) -> int:
        """How many answers are written, and billed; of `best_of` only the best `n` are shown."""
        return max(self.n or 1, self.best_of if is_bounded(self.best_of) else 1)

    @property
    def may_stream(self) -> bool:
        """Whether the same answer may be had as a stream: nothing in the body is about how it should come.

        A body that says ``"stream": false`` has said how; audio comes in other formats when it is streamed.
        """
        given = (self.stream, self.stream_options, self.modalities, self.audio)
        return all(each is None for each in given)

    def __repr__(self) -> str:
        return f"Wants({self.stream=}, {self.n=})"


class _Embedded(msgspec.Struct):
    input: str | list[msgspec.Raw]


class _Prompted(msgspec.Struct):
    prompt: str | list[msgspec.Raw] | None = None


_FLAT: Any = str | int | float | bool | None
_DEEP: Any = _FLAT
for _ in range(8):  # levels; what is nested more deeply is looked at less quickly
    _DEEP = _FLAT | list[_DEEP] | dict[str, _DEEP]


# A class, since msgspec would prepare any other type at each call.
_Plain = msgspec.defstruct("_Plain", [("value", _DEEP)])


_UNFIT = (bytes, bytearray, memoryview)
_SHOWN = 40  # characters of a name in a path
_WANTS = msgspec.json.Decoder(RequestFields)
_EMBEDDED = msgspec.json.Decoder(_Embedded)
_PROMPTED = msgspec.json.Decoder(_Prompted)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NOTHING = msgspec.Raw(b"null")
_USAGE = msgspec.Raw(b'{"include_usage":true}')
_STREAMED = {"stream": msgspec.Raw(b"true"), "stream_options": _USAGE}


def encoded(payload: Mapping[str, Any], *, name: str = "the payload") -> bytes:
    """Write a payload as JSON.

    Raises ConfigurationError for what JSON cannot hold, with its path but not its value. Bytes would become a string
    otherwise, and numbers that are not finite null.
    """
    try:
        body = msgspec.json.encode(payload)
        if _is_plain(payload, body):
            return body
        whole = msgspec.to_builtins(payload, builtin_types=_UNFIT, enc_hook=_as_it_is)
        wrong = next(_unfit(whole, ""), None)
        if wrong is None:
            return body
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        wrong = next(_unfit(payload, ""), f"it holds what is none ({type(error).__name__})")
    # Raised out here, since a UnicodeError would carry the whole text along.
    raise ConfigurationError(f"{name} cannot be written as JSON: {wrong}")


def _is_plain(payload: object, body: bytes) -> bool:
    """Whether JSON holds it as it is, as far as a quick look can tell. `body` is what was written of it."""
    if b"null" in body:  # or a number that is not finite
        return False
    try:
        msgspec.convert({"value": payload}, _Plain)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def _unfit(value: object, path: str, levels: int = 100) -> Iterator[str]:
    """Say what JSON cannot hold, and where."""
    if isinstance(value, Mapping) and levels:
        for key, each in value.items():
            if isinstance(key, _UNFIT) or (isinstance(key, float) and not isfinite(key)):
                yield f"{path or 'it'} has a key of type {type(key).__name__}"
            name = str(key)
            shown = name if name.isidentifier() and len(name) <= _SHOWN else "..."
            yield from _unfit(each, f"{path}.{shown}".removeprefix("."), levels - 1)
    elif isinstance(value, list | tuple) and levels:
        for index, each in enumerate(value):
            yield from _unfit(each, f"{path}[{index}]", levels - 1)
    elif isinstance(value, float) and not isfinite(value):
        yield f"{path} is {value}"
    elif isinstance(value, _UNFIT) or not _is_encodable(value):
        what = f"is of type {type(value).__name__}"
        if type(value) is str:
            what = "holds half a character (a lone surrogate)"
        yield f"{path} {what}"


def _is_encodable(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _as_it_is(value: object) -> object:
    """Of a type that is sent as it is, and needs no look."""
    if isinstance(value, msgspec.Raw):
        return None
    raise TypeError(type(value).__name__)


def wants(body: bytes) -> RequestFields:
    """Read what a body asks for; raise ConfigurationError if it is no JSON object or names no model."""
    try:
        return _WANTS.decode(body)
    except msgspec.ValidationError as error:
        wrong = str(error)  # it names a type and a path, no value
    except UNREADABLE:
        wrong = "it is no JSON object"
    # Raised out here, since a UnicodeError would carry the whole body along.
    raise ConfigurationError(f"the body cannot be sent: {wrong}")


def streamed(body: bytes) -> bytes:
    """Ask for the same answer as a stream, its usage included. Every other field stays as it was written."""
    return msgspec.json.encode(_FIELDS.decode(body) | _STREAMED)


def delivered(body: bytes, *, with_usage: bool) -> bytes:
    """Ask for a stream; `with_usage` for its usage, too, unless the body says what it wants of that.

    ``"stream_options": null`` wants nothing, and is left out.
    """
    fields = _FIELDS.decode(body)
    options = fields.setdefault("stream_options", _USAGE if with_usage else _NOTHING)
    if bytes(options) == b"null":
        del fields["stream_options"]
    return msgspec.json.encode(fields | {"stream": msgspec.Raw(b"true")})


def bounded(body: bytes, field: str, tokens: int) -> bytes:
    """Bound the answer to so many tokens, by the `field` that says so."""
    return msgspec.json.encode(_FIELDS.decode(body) | {field: tokens})


def renamed(body: bytes, model: str) -> bytes:
    """Ask another model for the same."""
    return msgspec.json.encode(_FIELDS.decode(body) | {"model": model})


def inputs(body: bytes) -> int | None:
    """Count what is to be embedded: a text, its tokens, or a list of either; None if it is no such thing."""
    try:
        return _texts(_EMBEDDED.decode(body).input)
    except UNREADABLE:
        return None


def prompts(body: bytes) -> int | None:
    """Count the prompts of a completion of old, each of which is answered; None if it has no such thing."""
    try:
        given = _PROMPTED.decode(body).prompt
    except UNREADABLE:
        return None
    return 1 if given is None else _texts(given)


def _texts(given: str | list[msgspec.Raw]) -> int | None:
    """How many: a text, its tokens, or a list of either."""
    if isinstance(given, str):
        return 1
    first = bytes(given[0])[:1] if given else b""
    if first in {b'"', b"["}:
        return len(given)
    return 1 if first.isdigit() else None
