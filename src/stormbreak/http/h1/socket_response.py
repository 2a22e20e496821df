"""A response over one of our own connections, after its head: the body as it comes, unpacked and bounded."""

from collections.abc import Awaitable, Iterator
from typing import Protocol

from stormbreak.drivers.locks import LiveSet
from stormbreak.http.h1.connection import BODY_LIMIT, ExchangeResult, Judge, broken_body, collect
from stormbreak.http.h1.decompression import (
    Decoder,
    UnacceptedCodingError,
    UndecodableError,
    decoder_of,
)
from stormbreak.http.h1.exchange import Exchange
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict


class ResponseOwner(Protocol):
    """The pool of the connection."""

    @property
    def streams(self) -> "LiveSet[SocketResponse]":
        """Responses whose body may still be read."""


class SocketResponse:
    """A response whose head has arrived. If it is dropped, it closes its connection, on any thread."""

    def __init__(
        self, exchange: Exchange, head: HttpResponse, request: PreparedRequest, pool: ResponseOwner
    ) -> None:
        self.head = head
        self.pool = pool  # keeps the pool open: an unreferenced pool closes
        self._exchange = exchange
        encoding = head.headers.get("content-encoding")
        self._decoder: Decoder | None = None if encoding is None else decoder_of(encoding)
        self._pieces: Iterator[bytes] | None = None  # unpacked, not taken yet
        self._max_bytes = BODY_LIMIT if request.max_bytes is None else request.max_bytes
        self._size = 0
        self._closed = False
        pool.streams.add(self)

    async def read(self) -> bytes | Outcome:
        while (got := self.take()) is None:
            await self.wait()
        return got

    def wait(self) -> Awaitable[None]:
        return self._exchange.wait() if self._decoder is None else self._wait_for_packed()

    async def _wait_for_packed(self) -> None:
        if self._pieces is None:
            await self._exchange.wait()

    def take(self) -> bytes | Outcome | None:
        if self._closed:
            return self._exchange.failure or broken_body(self.head.status)
        decoder = self._decoder
        try:
            got = self._exchange.take() if decoder is None else self._unpacked(decoder)
        except UndecodableError as error:
            got = broken_body(self.head.status, str(error))
            if isinstance(error, UnacceptedCodingError):
                got = got._replace(verdict=Verdict.UNREPEATABLE)
        if got is None:
            return None
        if isinstance(got, bytes):
            self._size += len(got)
            if self._size <= self._max_bytes:
                return got
            got = broken_body(self.head.status, f"larger than {int(self._max_bytes) >> 20} MiB")
        self.spoil()
        self.close()
        return got

    def limit_silence(self, seconds: float) -> None:
        self._exchange.limit_silence(seconds)

    def spoil(self) -> None:
        """Make `close` close the connection even if the whole body was read: it does not answer the request."""
        self._exchange.parser.reusable = False

    def close(self) -> None:
        """Close the connection, unless the whole body was read; wake the reader."""
        if not self._closed:
            self._closed = True
            self._exchange.close(broken_body(self.head.status))

    def abandon(self) -> None:
        """Detach from the connection, which belongs to a parent process."""
        self._closed = True
        self._exchange.failure = broken_body(self.head.status)

    def __del__(self) -> None:
        # an interrupt may have come before it was made
        if not getattr(self, "_closed", True) and not self._exchange.over:
            self._exchange.drop()

    def _unpacked(self, decoder: Decoder) -> bytes | Outcome | None:
        while True:
            for piece in self._pieces or ():
                return piece
            self._pieces = None
            packed = self._exchange.take()
            if not isinstance(packed, bytes):
                return packed
            if not packed:
                decoder.end()
                return b""
            self._pieces = decoder.feed(packed)


async def open_response(
    exchange: Exchange, request: PreparedRequest, pool: ResponseOwner
) -> SocketResponse | Outcome:
    """Wait for the head of a response."""
    head = await exchange.head()
    return head if isinstance(head, Outcome) else SocketResponse(exchange, head, request, pool)


async def whole_response(
    exchange: Exchange, request: PreparedRequest, pool: ResponseOwner, judge: Judge | None
) -> ExchangeResult:
    """Wait for a whole response, and release its connection if `judge` accepts it as an answer."""
    head = await exchange.head()
    if isinstance(head, Outcome):
        return head
    whole = came_whole(exchange, judge)
    return whole or await collect(SocketResponse(exchange, head, request, pool), judge)


def came_whole(exchange: Exchange, judge: Judge | None) -> ExchangeResult | None:
    """Return a success whose body came with its head, the usual case; None for other or compressed responses."""
    parser = exchange.parser
    status, headers = parser.status, parser.headers
    if status is None or exchange.failure is not None or not parser.complete:
        return None
    if not 200 <= status <= 299 or "content-encoding" in headers:
        return None
    body = b"".join(parser.body)
    if len(body) > BODY_LIMIT:
        exchange.leave()
        return broken_body(status, f"larger than {BODY_LIMIT >> 20} MiB")
    response = HttpResponse(status, headers, body, exchange.received_at, parser.repeated)
    is_answer = False
    try:
        is_answer = judge is None or judge(response)
    finally:
        exchange.leave(reusable=is_answer and parser.reusable)
    return response
