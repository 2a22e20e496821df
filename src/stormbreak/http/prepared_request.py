"""A request as an attempt sends it, complete except for the connection."""

from collections.abc import AsyncIterable, Mapping

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import Value

CONNECT_TIMEOUT = 10.0  # seconds
IDEMPOTENCY_KEY = "Idempotency-Key"


class FixedHead:
    """The URL of an endpoint and the common headers of all requests there, `encoded` once."""

    __slots__ = ("encoded", "headers", "url")

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.headers = headers
        self.encoded: bytes | None = None  # without the empty line at the end


class KeyedHeaders(dict[str, str]):
    """The `fixed` headers plus an idempotency key. Immutable."""

    __slots__ = ("fixed",)
    fixed: FixedHead


class PreparedRequest(Value, frozen=True):
    """One request as it is sent, and the requested answer. Its repr shows neither key nor prompt.

    Timeouts are in seconds. The caller ends the attempt after `attempt_timeout`, if set. The response has at most
    `max_bytes`, by default `BODY_LIMIT`. The request asks for `choices`, or for embeddings of `inputs` (None: unknown).
    """

    url: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterable[bytes]
    idle_timeout: float | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    method: str = "POST"
    max_bytes: float | None = None
    attempt_timeout: float | None = None
    shape: Shape = Shape.RESOURCE
    streamed: bool = False
    choices: int = 1
    inputs: int | None = None

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "a stream"
        return f"PreparedRequest({self.url.partition('?')[0]!r}, {size})"
