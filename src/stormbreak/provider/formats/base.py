"""What all formats share: a parsed request, the text of answers, a refusal, a stream, errors."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from stormbreak.provider.chance import mix

# ---------------------------------------------------------------- text of answers
# Words drawn by the digest of the request, which they name; never any of the prompt.

_VOCABULARY = """
amber anchor basin beacon birch bridge calm canyon cedar cinder cliff cloud copper coral cove current
dawn delta drift dune ember estuary fern field fjord flint frost garden glacier granite grove harbour
haze heather horizon island juniper keel lagoon lantern ledge maple marsh meadow mist moss oak orchard
pebble pine prairie quarry reef ridge river sail shore slate spruce summit thicket tide valley willow
"""
_WORDS = _VOCABULARY.split()
_WORD_COUNT = 12

TOKENS = _WORD_COUNT + 2
"""Tokens of every answer."""


def text_for(digest: str) -> str:
    """Compose the text that answers the request of this digest."""
    bits = mix(int(digest, 16))
    words = [_WORDS[(bits >> (5 * place)) % len(_WORDS)] for place in range(_WORD_COUNT)]
    return f"Answer {digest}: {' '.join(words)}."


def words_for(digest: str) -> list[str]:
    """Cut that text into the pieces in which it is streamed."""
    first, *rest = text_for(digest).split(" ")
    return [first, *(f" {word}" for word in rest)]


# ---------------------------------------------------------------- format interface

BORN = 1_700_000_000
"""A time of creation that is the same in every run."""

encode = msgspec.json.Encoder().encode


class Refusal(NamedTuple):
    """A request that cannot be answered: the type and the code as the OpenAI API has them, `metadata` as OpenRouter."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | int | None = None
    metadata: Mapping[str, str] | None = None


class CacheWrites(NamedTuple):
    """Tokens of a prompt that are written to a cache: for five minutes, and for an hour."""

    short: int = 0
    hour: int = 0


def nothing_written(_: Mapping[str, Any]) -> CacheWrites:
    """The format has no such cache."""
    return CacheWrites()


class Asked(NamedTuple):
    """A request, understood: what its answer is made from."""

    format: "Format"
    model: str
    digest: str  # 16 hexadecimal digits
    essence: (
        bytes  # the body as JSON in one fixed form, without what says how the answer should come
    )
    payload: Mapping[str, Any]
    streamed: bool
    fills: bool = False  # its answer uses all tokens that it may have

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt, as a provider estimates them."""
        return len(self.essence) // 4 + 1

    @property
    def written(self) -> CacheWrites:
        """Those of the prompt that it has written to a cache."""
        return self.format.written(self.payload)

    @property
    def tokens(self) -> int:
        """What the request counts in a limit of tokens."""
        return self.input_tokens + self.format.output_tokens(self.payload)

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer, as it reports and bills them; those that its text has not are thoughts."""
        allowed = self.format.output_tokens(self.payload)
        return allowed if self.fills else min(allowed, TOKENS)

    @property
    def key(self) -> int:
        """The digest as a number."""
        return int(self.digest, 16)

    def __repr__(self) -> str:
        return f"Asked({self.digest})"


class Events(NamedTuple):
    """A streamed answer, event by event."""

    opening: list[bytes]  # nothing of the answer yet
    output: list[bytes]  # its words
    finish: list[bytes]  # why it finished, and its usage
    end: list[bytes]  # the end marker

    def all(self) -> list[bytes]:
        """Every event in its order."""
        return [*self.opening, *self.output, *self.finish, *self.end]


class Format(NamedTuple):
    """One address of the API.

    Attributes:
        complaint: says what is wrong with a body that is a JSON object and names a model.
        output_tokens: what an answer counts in a limit of tokens, as far as the body tells.
        body: writes a plain answer.
        events: writes a streamed one; None where there is none.
        error: writes an error.
        late_error: the error that is found inside a 200.
        late_event: the same as an event of a stream.
        demands: headers without which a request is refused.
        written: what of a prompt is written to a cache.
    """

    complaint: Callable[[Mapping[str, Any]], str | None]
    output_tokens: Callable[[Mapping[str, Any]], int]
    body: Callable[[Asked], bytes]
    events: Callable[[Asked], Events] | None
    error: Callable[[Refusal], bytes]
    late_error: bytes
    late_event: bytes
    demands: tuple[bytes, ...] = ()
    written: Callable[[Mapping[str, Any]], CacheWrites] = nothing_written


def whole_number(value: Any, default: int) -> int:
    """Read a whole number; anything else is `default`."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def messages_complaint(payload: Mapping[str, Any]) -> str | None:
    """Ask for messages."""
    messages = payload.get("messages")
    fits = isinstance(messages, list) and bool(messages)
    return None if fits else "'messages' must be a list that is not empty"


def named_event(name: str, said: Mapping[str, Any]) -> bytes:
    """Write an event that has a name."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(said))


# ---------------------------------------------------------------- errors in OpenAI's form

LATE_ERROR = b'{"error":{"message":"the upstream provider failed","code":502}}'
LATE_EVENT = b"data: %b\n\n" % LATE_ERROR


def error(refusal: Refusal) -> bytes:
    """Write an error."""
    said: dict[str, Any] = {
        "message": refusal.message,
        "type": refusal.kind,
        "param": None,
        "code": refusal.code,
    }
    if refusal.metadata is not None:
        said["metadata"] = refusal.metadata
    return encode({"error": said})
