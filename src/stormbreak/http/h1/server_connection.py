"""One client's connection to a server: it reads and answers one request at a time.

While a request is answered, no later one is read. A client that closes its sending side has left: its answer is
cancelled, unless the application finishes it. A request that cannot be read, or that exceeds a bound, is answered with
an error status and ends the connection. Times are seconds on the loop's clock.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from traceback import format_tb
from typing import Any, Protocol, cast

import msgspec

from stormbreak.http.h1.request_parser import (
    CHUNKED,
    CONTINUE,
    UNTIL_CLOSE,
    Headers,
    Request,
    RequestParser,
    UnreadableError,
    chunk,
    response_head,
)

LINGER = 1.0  # seconds in which a client can read the last answer before the connection is closed
JSON = "application/json"

_LAST_CHUNK = chunk(b"")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without a time: the connection ends with RST
_MISTAKE = "an internal error: see the log of the server"
_log = logging.getLogger("stormbreak")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBounds:
    """The bounds for clients. `max_held`: bytes of all requests together. `min_body_rate`: bytes per second."""

    max_body: int = 32 << 20
    max_held: int = 512 << 20
    max_connections: int = 10_000
    head_timeout: float = 10.0
    min_body_rate: float = 1024.0
    idle_timeout: float = 75.0


class ServerResponse(msgspec.Struct, frozen=True):  # its constructor is not written in Python
    """A response in one piece. Its repr shows no text."""

    status: int
    body: bytes
    headers: Headers = ()
    media: str = JSON

    def with_headers(self, *headers: tuple[str, str]) -> "ServerResponse":
        return ServerResponse(self.status, self.body, self.headers + headers, self.media)

    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def __repr__(self) -> str:
        return f"ServerResponse({self.status}, {len(self.body)} bytes)"


class Application(Protocol):
    """Answers the requests of all connections."""

    def refuse(self, head: Request, connection: "ServerConnection") -> ServerResponse | None:
        """Reject a request whose body has not arrived yet, or return None."""

    def unreadable(self, status: int, message: str, path: str) -> ServerResponse:
        """Answer a request that is unreadable, exceeds a bound, or made `answer` fail (500). The path may be empty."""

    async def answer(self, request: Request, connection: "ServerConnection") -> None:
        """Answer with `respond`, or with `begin`, `send` and `end`. If the client leaves, this is cancelled."""


class Host(Protocol):
    """The part of the server that its connections use."""

    application: Application
    bounds: ServerBounds
    draining: bool
    held: int

    def admit(self, connection: "ServerConnection") -> bool:
        """Note a new connection; return whether there is room for it."""

    def gone(self, connection: "ServerConnection") -> None:
        """Forget a connection."""


class ServerConnection(asyncio.Protocol):
    """Reads requests and writes responses."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(max_body=server.bounds.max_body)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None  # answers requests
        self._next: asyncio.Future[None] | None = None  # the task waits for the next request
        self._request: Request | None = None  # being answered
        self._started = False  # its answer has begun
        self._keep_alive = True  # after the answer
        # start of its present state: idle, reading a request, writing without progress, or closing
        self._since = 0.0
        self._awaits = False  # the rest of a request
        self._unsent = 0  # bytes at the last check
        self._paused = False  # nothing is read
        self._held = 0  # bytes that the server counts as held
        self._closing = False  # nothing more is read or answered
        self._drained: asyncio.Future[None] | None = None
        self.address = ""
        self.client: Any = None  # for the application
        self.is_full = False  # the client does not read
        self.begun = False  # a response has begun
        self.left = False  # the client has left
        self.survives = False  # the answer continues after its client has left
        self.expired = False  # the answer was cancelled because the server ends

    # ------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._since = self._loop.time()
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        if not self._server.admit(self):
            self._refuse(503, "too many connections")

    def data_received(self, data: bytes) -> None:
        """Parse bytes; answer a request unless another is being answered."""
        if self._closing:
            return
        try:
            self._parser.feed(data)
        except UnreadableError:  # sent ahead, while an answer is written
            self.abort()
            return
        if self._request is None:
            self._read_on()
        elif self._transport is not None:
            self._transport.pause_reading()
            self._paused = True
            self._count_as(self._parser.held + len(self._request.body))

    def eof_received(self) -> bool:
        """Handle the end of the client's data: it has left. Data written before is still sent."""
        transport = self._transport
        if self._closing and transport is not None and transport.get_write_buffer_size():
            return True
        if self.busy or self._closing:
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self.left = True
        self._parser.close()
        self._wake()
        if self._request is None:
            self._count_as(0)
            self._server.gone(self)
            if self._task is not None:
                self._task.cancel()
        elif not self.survives:
            self._cancel()

    def pause_writing(self) -> None:
        self.is_full = True
        self._since = self._loop.time()

    def resume_writing(self) -> None:
        self.is_full = False
        self._wake()

    # ------------------------------------------------------------ called by the application

    def respond(self, response: ServerResponse, headers: Headers = ()) -> None:
        """Answer in one piece, with more `headers`. Nothing is sent to a client that has left."""
        assert not self.begun, "a request has one response"
        self.begun = True
        body = response.body
        head = self._head(response.status, response.media, len(body), response.headers + headers)
        is_head = self._request is not None and self._request.method == "HEAD"
        self._write(head if is_head else head + body)

    def begin(self, status: int, media: str, headers: Iterable[tuple[str, str]]) -> None:
        assert not self.begun, "a request has one response"
        assert self._request is not None
        self.begun = True
        framing = CHUNKED if self._request.version == "1.1" else UNTIL_CLOSE
        self._write(self._head(status, media, framing, headers))

    def send(self, data: bytes) -> None:
        """Send a piece. While `is_full`, wait for `drained` before the next."""
        if data and self._request is not None:
            self._write(chunk(data) if self._request.version == "1.1" else data)

    async def drained(self) -> None:
        """Wait until the client has read, or has left."""
        while self.is_full and not self.left:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def end(self) -> None:
        if self._request is not None and self._request.version == "1.1":
            self._write(_LAST_CHUNK)

    def break_off(self) -> None:
        """End a chunked answer so that the client sees that it is incomplete."""
        if self._transport is None or self._request is None:
            return
        if self._request.version == "1.0":  # any end but a reset would look correct
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._closing = True
            self._transport.abort()
        else:
            self._close()

    # ------------------------------------------------------------ called by the server

    @property
    def busy(self) -> bool:
        return self._request is not None

    def check(self, now: float) -> None:
        """End the connection if a time bound is exceeded."""
        bounds, parser, waited = self._server.bounds, self._parser, now - self._since
        if self._closing or self.is_full:
            self._check_writing(now)
        elif self.busy:
            return
        elif parser.is_between:
            if waited > (LINGER if self._server.draining else bounds.idle_timeout):
                self._close()
        elif parser.in_body:
            if waited > bounds.head_timeout + parser.held / bounds.min_body_rate:
                self._refuse(408, "the request body came too slowly")
        elif waited > bounds.head_timeout:
            self._refuse(408, f"no request head within {bounds.head_timeout:g} s")

    def _check_writing(self, now: float) -> None:
        if self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:
            self._since = now
        self._unsent = unsent
        limit = self._server.bounds.idle_timeout if unsent else LINGER
        if now - self._since > limit:
            self.abort()

    def expire(self) -> None:
        """Cancel the answer because the server ends; the application informs the client."""
        if self.busy:
            self.expired = True
            self._cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ internal

    def _read_on(self) -> None:
        parser = self._parser
        try:
            request = parser.next()
        except UnreadableError as error:
            self._refuse(error.status, str(error))
            return
        if request is None:
            self._await_body()
            return
        self._request = request
        self._keep_alive = request.keep_alive
        self._awaits = self._started = False
        self._count_as(parser.held + len(request.body))
        if self._task is None:
            self._task = self._loop.create_task(self._answer_all())
        else:
            self._go_on()

    def _await_body(self) -> None:
        """Check a request of which only the head has arrived."""
        parser = self._parser
        awaited, self._awaits = self._awaits, not parser.is_between
        if not (awaited and self._awaits):
            self._since = self._loop.time()
        self._count_as(parser.held)
        if self._server.held > self._server.bounds.max_held:
            self._refuse(503, "too many bytes of requests are held", ("retry-after", "1"))
            return
        head = parser.begun()
        if head is not None:
            refusal = self._server.application.refuse(head, self)
            if refusal is not None:
                self._end_with(refusal)
                return
        if parser.continue_wanted and self._transport is not None:
            parser.continue_wanted = False
            self._transport.write(CONTINUE)

    def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()
        if not self._started:  # the answer will never run
            self._answered()

    async def _answer_all(self) -> None:
        """Answer one request after another, until one is cancelled; a task for each would take longer."""
        try:
            while True:
                self._next = None
                if self._request is not None:
                    await self._answer(self._request)
                if self.left:
                    return
                self._next = self._loop.create_future()
                if self._request is not None:  # sent ahead: let other connections run first
                    self._loop.call_soon(self._go_on)
                await self._next
        finally:
            self._task = None

    def _go_on(self) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def _answer(self, request: Request) -> None:
        self._started = True
        try:
            await self._server.application.answer(request, self)
        except asyncio.CancelledError:
            self.break_off()
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not be silent, nor end the server
            frames = "".join(format_tb(error.__traceback__))  # the message may repeat the request
            _log.error("an answer failed with a %s:\n%s", type(error).__name__, frames)
            if self.begun:
                self.break_off()
            else:
                self.respond(self._server.application.unreadable(500, _MISTAKE, request.path))
        finally:
            self._answered()

    def _answered(self) -> None:
        self._request = None
        self.begun = self.survives = False
        ahead = self._parser.held  # unparsed
        self._count_as(ahead)
        self._since = self._loop.time()
        if self._transport is None:
            self._server.gone(self)
            return
        if self._closing:
            return
        if not self._keep_alive or self._server.draining:
            self._close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if ahead:
            self._read_on()

    def _head(
        self, status: int, media: str, framing: int | str, headers: Iterable[tuple[str, str]]
    ) -> bytes:
        request = self._request
        if request is None or self._server.draining or framing == UNTIL_CLOSE:
            self._keep_alive = False
        if not self._keep_alive:
            headers = (*headers, ("connection", "close"))
        elif request is not None and request.version == "1.0":
            headers = (*headers, ("connection", "keep-alive"))
        return response_head(status, media, framing, headers)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._closing:
            self._transport.write(data)

    def _refuse(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        response = self._server.application.unreadable(status, message, self._parser.path)
        self._end_with(response.with_headers(*headers))

    def _end_with(self, response: ServerResponse) -> None:
        """Answer a request without reading it to its end, and end the connection."""
        if not self._closing:
            self.respond(response)
            self._close()

    def _close(self) -> None:
        """Close the sending side; the client can read what was written, even while it sends."""
        self._closing = True
        self._since = self._loop.time()
        self._parser.close()
        self._count_as(0)
        transport = self._transport
        if transport is not None and not transport.is_closing():
            try:
                transport.write_eof()
            except OSError:  # the client has just reset the connection
                transport.abort()
            else:
                transport.resume_reading()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def _count_as(self, held: int) -> None:
        self._server.held += held - self._held
        self._held = held
