"""What goes into the provider semantics, and what comes out.

An `HttpResponse` is everything a server said; a `ParsedResponse` is what it means. Neither holds more than the one
answer, and nothing here reads a clock: the time of receipt is part of the input.
"""

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from stormbreak.types import Usage, Verdict

NO_USAGE = Usage()


class Shape(Enum):
    """What a complete answer of an endpoint looks like."""

    CHAT = "chat completion"
    COMPLETION = "text completion"
    EMBEDDINGS = "list of embeddings"
    RESPONSES = "response"
    MESSAGES = "message"
    JSON = "JSON object"
    RESOURCE = "resource"

    __hash__ = object.__hash__  # for look-ups in every attempt: an Enum's own is written in Python


_SHAPES = {
    "/chat/completions": Shape.CHAT,
    "/completions": Shape.COMPLETION,
    "/embeddings": Shape.EMBEDDINGS,
    "/responses": Shape.RESPONSES,
    "/messages": Shape.MESSAGES,
}
OPERATIONS: Mapping[Shape, str] = MappingProxyType(
    {
        Shape.CHAT: "chat",
        Shape.COMPLETION: "text_completion",
        Shape.EMBEDDINGS: "embeddings",
        Shape.RESPONSES: "chat",
        Shape.MESSAGES: "chat",
    }
)
"""What is asked for, in the words of OpenTelemetry (gen_ai.operation.name); of other shapes it is not known."""

FREE = ("/moderations", "/messages/count_tokens", "/responses/input_tokens")
"""Endpoints that cost nothing, and have no answer of a model."""

_ENDPOINTS = 64  # are remembered; hardly anybody uses more than three
BOM = b"\xef\xbb\xbf"
"""A byte order mark, which some servers write before JSON, and decoders refuse."""

_NOT_ANTHROPIC = "/threads/"  # the messages of a thread are objects of OpenAI's


@lru_cache(maxsize=_ENDPOINTS)
def endpoint_of(endpoint: str) -> Shape:
    """Tell the shape from the end of a path or URL; an endpoint nobody knows answers any JSON object."""
    path = path_of(endpoint)
    if _NOT_ANTHROPIC in path:
        return Shape.JSON
    return next((shape for end, shape in _SHAPES.items() if path.endswith(end)), Shape.JSON)


def without_mark(body: bytes) -> bytes:
    """JSON without the byte order mark in front of it; anything else as it is."""
    if not body.startswith(BOM) or not body[len(BOM) :].lstrip().startswith((b"{", b"[")):
        return body
    return body[len(BOM) :]


def path_of(endpoint: str) -> str:
    """The path of an endpoint, with one slash in front and none behind."""
    return "/" + endpoint.partition("?")[0].strip("/")


class HttpResponse(NamedTuple):
    """One HTTP response. Header names are lower-case; `received_at` is in unix epoch seconds.

    Of headers that came several times, `repeated` has all values, and `headers` what one of them comes to.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    repeated: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def succeeded(self) -> bool:
        """Whether its status says so; no other answer needs its body to be known for what it is."""
        return 200 <= self.status <= 299

    def __reduce__(self) -> tuple[Any, ...]:
        """Be picklable whatever the headers are kept in."""
        repeated = dict(self.repeated)
        return type(self), (*self._replace(headers=dict(self.headers), repeated=repeated),)

    def __repr__(self) -> str:
        return f"HttpAnswer({self.status}, {len(self.body)} bytes)"


class ParsedResponse(NamedTuple):
    """What an answer means.

    `code` and `request_id` are identifiers of the provider's, or None: never free text. `detail` is in our
    own words; of a success it says what is odd about it. `text` and `finish_reason` are those of the first choice. `retry_after` is in seconds, and
    only where waiting may help.
    """

    verdict: Verdict
    retry_after: float | None = None
    code: str | None = None
    detail: str | None = None
    text: str = ""
    usage: Usage = NO_USAGE
    finish_reason: str | None = None
    request_id: str | None = None
    maybe_processed: bool = False  # the work may have been done, and billed, without reaching us
    forbidden: bool = False  # the server says that it must not be sent again

    def __repr__(self) -> str:
        return f"Reading({self.verdict}, code={self.code!r}, detail={self.detail!r})"
