"""The values of this package: an `HttpResponse` goes in, a `ParsedResponse` comes out.

Nothing here reads a clock: the time of receipt is part of the input.
"""

from codecs import BOM_UTF8
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Self

import msgspec

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


_FIM = "/fim/completions"  # of Mistral

_SHAPES = {
    "/chat/completions": Shape.CHAT,
    _FIM: Shape.CHAT,
    "/completions": Shape.COMPLETION,
    "/embeddings": Shape.EMBEDDINGS,
    "/responses": Shape.RESPONSES,
    "/messages": Shape.MESSAGES,
}
OPERATIONS: Mapping[Shape, str] = {
    Shape.CHAT: "chat",
    Shape.COMPLETION: "text_completion",
    Shape.EMBEDDINGS: "embeddings",
    Shape.RESPONSES: "chat",
    Shape.MESSAGES: "chat",
}
"""The operation in the words of OpenTelemetry (gen_ai.operation.name), where it is known."""

FREE = ("/moderations", "/messages/count_tokens", "/responses/input_tokens")
"""Endpoints that cost nothing, since no model answers."""

_ENDPOINTS = 64  # that are remembered; few users have more than three

_NOT_ANTHROPIC = "/threads/"  # the messages of a thread are OpenAI objects


@lru_cache(maxsize=_ENDPOINTS)
def endpoint_of(endpoint: str) -> Shape:
    """Return the shape by the end of a path or URL; an unknown endpoint returns any JSON object."""
    path = path_of(endpoint)
    end = None if _NOT_ANTHROPIC in path else known_end(path)
    return Shape.JSON if end is None else _SHAPES[end]


def known_end(path: str) -> str | None:
    """Return the end of a path that says which endpoint it is, such as "/chat/completions"."""
    return next((end for end in _SHAPES if path.endswith(end)), None)


def is_fim(endpoint: str) -> bool:
    """Return whether it takes a prompt and a suffix, no messages, though its answer is that of a chat."""
    return path_of(endpoint).endswith(_FIM)


def without_mark(body: bytes) -> bytes:
    """Return JSON without the byte order mark that some servers write and decoders reject; anything else as it is."""
    if not body.startswith(BOM_UTF8) or not body[len(BOM_UTF8) :].lstrip().startswith((b"{", b"[")):
        return body
    return body[len(BOM_UTF8) :]


def path_of(endpoint: str) -> str:
    """Return the path of an endpoint, with one slash before and none after it."""
    return "/" + endpoint.partition("?")[0].strip("/")


class Value(msgspec.Struct, frozen=True):
    """A value that is made for each response: a NamedTuple's constructor, in Python, takes four times as long."""

    def _replace(self, **changes: Any) -> Self:
        return msgspec.structs.replace(self, **changes)


class HttpResponse(Value, frozen=True):
    """One HTTP response. Header names are lower-case; `received_at` is in unix epoch seconds.

    `repeated` has all values of headers that came several times, `headers` one of them.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    repeated: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status <= 299

    def __reduce__(self) -> tuple[Any, ...]:
        """Be picklable with any mapping of headers."""
        headers, repeated = dict(self.headers), dict(self.repeated)
        return type(self), (self.status, headers, self.body, self.received_at, repeated)

    def __repr__(self) -> str:
        return f"HttpResponse({self.status}, {len(self.body)} bytes)"


class ParsedResponse(Value, frozen=True):
    """What an answer means.

    `code` and `request_id` are identifiers of the provider, never free text. `detail` is in our own words; of a success
    it says what is unusual. `text` and `finish_reason` are those of the first choice. `retry_after` is in seconds, and
    set only if waiting may help.
    """

    verdict: Verdict
    retry_after: float | None = None
    code: str | None = None
    detail: str | None = None
    text: str = ""
    usage: Usage = NO_USAGE
    finish_reason: str | None = None
    request_id: str | None = None
    maybe_processed: bool = False  # the work may have been done, and billed
    forbidden: bool = False  # the server forbids a retry

    def __repr__(self) -> str:
        return f"ParsedResponse({self.verdict}, code={self.code!r}, detail={self.detail!r})"
