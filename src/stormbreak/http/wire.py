"""One request over HTTP, and what came back: the small interface that hides the HTTP library.

A wire makes exactly one attempt: it does not retry, does not follow redirects and never raises for what a
server or a network did. It answers with an `HttpResponse`, or with the `Outcome` of an attempt that got none.
"""

from collections.abc import AsyncIterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from stormbreak.http.body_memory import FREE, Held
from stormbreak.llm.reading import HttpResponse
from stormbreak.types import Outcome

BODY_LIMIT = 64 * 2**20  # bytes of one decoded body
ERROR_LIMIT = 2**20  # bytes of that of an error; the rest says nothing more, and is not read
CONNECT_TIMEOUT = 10.0  # seconds
POOL_LIMIT = 4096  # connections; beyond it even an unlimited policy waits for the pool
EXPLAINED = 5.0  # seconds of silence in the body of an error: its head has said what it is


class HttpRequest(NamedTuple):
    """A POST, unless `method` says otherwise; its answer may have `most` bytes, by default `BODY_LIMIT`.

    Somebody else ends the attempt `within` so many seconds, if need be. Its repr shows neither key nor prompt.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterable[bytes]
    idle_timeout: float | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    method: str = "POST"
    most: float | None = None
    within: float | None = None

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "a stream"
        return f"HttpRequest({self.url.partition('?')[0]!r}, {size})"


ExchangeResult: TypeAlias = HttpResponse | Outcome


MALFORMED = "body cannot be decompressed"
"""Detail of an outcome: what came of the body may not be what was sent, even if it reads well."""


class ResponseStream(Protocol):
    """An answer whose head has come, and whose body comes as it is read. It owns its connection.

    One that is dropped closes its connection, on whatever thread that happens.
    """

    head: HttpResponse

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes: none at the end of the body, an outcome where it ended badly.

        Cancelling closes the connection.
        """
        ...

    def hurry(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        ...

    def close(self) -> None:
        """Close the connection, unless the body was read to its end; whoever reads is woken."""
        ...


async def collected(incoming: ResponseStream) -> ExchangeResult:
    """Read an answer to its end; the connection is closed if that did not come.

    An error is what its head says, however its body ends: cut, silent, endless or garbled, it stays final, or keeps its
    time to come back.
    """
    parts: list[bytes] = []
    succeeded, size, held = incoming.head.succeeded, 0, Held()
    if not succeeded:
        incoming.hurry(EXPLAINED)
    try:
        while (succeeded or size < ERROR_LIMIT) and (got := await incoming.read()):
            if isinstance(got, bytes):
                parts.append(got)
                size += len(got)
                if size > FREE:
                    await held.grow_to(size)
            elif succeeded:
                return got
            else:
                break
        body = parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        incoming.close()
        held.release()
    return incoming.head._replace(body=body if succeeded else body[:ERROR_LIMIT])


class Wire(Protocol):
    """Something that can carry requests."""

    async def exchange(self, request: HttpRequest) -> ExchangeResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        ...

    async def open(self, request: HttpRequest) -> ResponseStream | Outcome:
        """Send once, and wait for no more than the head of the answer. Cancelling closes the connection."""
        ...

    async def close(self) -> None:
        """Close the connections of the running loop."""
        ...
