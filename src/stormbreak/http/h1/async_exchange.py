"""One exchange on an event loop: a request, its response as it comes, and the socket that carries both."""

import asyncio
import os
import time
from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from fcntl import ioctl
from math import inf
from termios import FIONREAD
from typing import Any, Protocol
from weakref import ref

from stormbreak.http.h1.address import Address
from stormbreak.http.h1.connection import broken_body, silent_body
from stormbreak.http.h1.decoding import ACCEPTED
from stormbreak.http.h1.message import (
    CutResponseError,
    MalformedResponseError,
    ResponseParser,
    given_names,
    request_head,
)
from stormbreak.http.models import PreparedRequest
from stormbreak.llm.models import HttpResponse
from stormbreak.types import Outcome, Verdict

UNREAD = 256 * 1024  # bytes of a body that wait to be read; beyond it the server has to wait
SMALL = 1024 * 1024  # bytes of a body that are sent together with the head
_ACCEPT = f"Accept-Encoding: {ACCEPTED}"
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_ZERO = bytes(4)  # a C int

LOST = Outcome(Verdict.RESET, detail="connection lost", maybe_processed=True)
_SILENT = Outcome(Verdict.TIMEOUT, detail="went silent", maybe_processed=True)
_NOT_HTTP = Outcome(Verdict.BROKEN, detail="not HTTP", maybe_processed=True)
_EARLY = Outcome(
    Verdict.BROKEN, detail="answered before the whole request was sent", maybe_processed=True
)


class Owner(Protocol):
    """The pool of a socket."""

    closed: bool

    def put(self, connection: "Socket") -> None:
        """Keep a free socket for the next request."""

    def gone(self, connection: "Socket") -> None:
        """A socket was closed."""


class Exchange:
    """One request on one connection, and what has come of the response. `failure` is set when no more can come."""

    __slots__ = (
        "_idle", "_loop", "_timer", "_waiter", "_waiting_since", "failure", "over", "parser", "received_at", "socket", "unsent",
        "upload",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: "Socket", request: PreparedRequest
    ) -> None:
        self._loop = loop
        self.socket = socket
        self.parser = ResponseParser(request.method)
        self.failure: Outcome | None = None
        self.over = False  # the connection is no longer this exchange's
        self.received_at = 0.0
        self.unsent = 0
        self.upload: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._idle = inf
        self._waiting_since = inf
        self._timer: asyncio.TimerHandle | None = None
        if request.idle_timeout is not None:
            self.limit_silence(request.idle_timeout)

    def send(
        self, address: Address, request: PreparedRequest, absolute: str | None, extra: Sequence[str]
    ) -> None:
        """Write the request; a body that is iterated over is sent by a task."""
        body = request.body
        given = given_names(tuple(request.headers))
        lines = [] if "accept-encoding" in given else [_ACCEPT]
        lines += extra
        framing = _framing(request, given)
        head = request_head(
            request.method,
            absolute or address.target,
            address.authority,
            request.headers,
            given,
            (*lines, *framing),
        )
        transport = self.socket.transport
        if not isinstance(body, bytes):
            upload = self._upload(head, body, chunked=bool(framing))
            self.upload = self._loop.create_task(upload)
        elif len(body) <= SMALL:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def _upload(self, head: bytes, body: AsyncIterable[bytes], *, chunked: bool) -> None:
        """Send `head` with the first piece of `body`: nothing, if there is none because the body fails."""
        socket = self.socket
        try:
            async for piece in body:
                if self.over or socket.transport.is_closing():
                    return
                if piece:
                    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    socket.transport.write(head + framed)
                    head = b""
                    await socket.drained()
        except Exception:  # noqa: BLE001 - the owner of the body knows what it raised
            self.fail(LOST)
            self.wake()
            return
        if not self.over:
            socket.transport.write(head + (b"0\r\n\r\n" if chunked else b""))

    # ------------------------------------------------------------ from the socket

    def received(self, data: bytes) -> None:
        """Take what came."""
        parser = self.parser
        had_head = parser.status is not None
        try:
            parser.feed(data)
        except MalformedResponseError:
            self.fail(_NOT_HTTP if parser.status is None else broken_body(parser.status))
        if not had_head and parser.status is not None:
            self.received_at = time.time()
            self._check_sent()
        if parser.complete:
            self._finish()
        elif parser.unread > UNREAD:
            self.socket.pause()
        self.wake()

    def lost(self) -> None:
        """The connection has ended."""
        parser = self.parser
        try:
            parser.end()
        except CutResponseError:
            self.fail(LOST if parser.status is None else broken_body(parser.status))
        else:
            self._finish()
        self.wake()

    def _check_sent(self) -> None:
        """A good response to a request that was not sent whole is none; of an error the connection is spent."""
        upload = self.upload
        if (upload is None or upload.done()) and not self.socket.transport.get_write_buffer_size():
            return
        self.parser.reusable = False
        self.socket.spent = True
        if 200 <= (self.parser.status or 0) <= 299:
            self.fail(_EARLY)

    def _finish(self) -> None:
        """The whole response is here: the connection is free for another request, or closed."""
        if not self.over:
            self._leave()
            self.socket.free(reusable=self.parser.reusable)

    def fail(self, outcome: Outcome) -> None:
        """Close the connection; what came before can still be read."""
        if self.failure is None:
            self.failure = outcome
        if not self.over:
            self._leave()
            self.socket.abort()

    def _leave(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.upload is not None:
            self.upload.cancel()
            self.upload = None  # its traceback holds the body
        self.parser.close()

    def wake(self) -> None:
        """Wake the reader."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ------------------------------------------------------------ from the reader

    async def wait(self) -> None:
        """Wait until something has come. Cancelling closes the connection."""
        waiter = self._waiter = self._loop.create_future()
        self._waiting_since = self._loop.time()
        try:
            await waiter
        except BaseException:
            self.fail(LOST)
            raise
        finally:
            self._waiter = None
            self._waiting_since = inf

    async def head(self) -> HttpResponse | Outcome:
        """Wait for the head of the response."""
        parser = self.parser
        while parser.status is None:
            if self.failure is not None:
                return self.failure
            await self.wait()
        if self.failure is not None and self.failure.status is None:
            return self.failure
        return HttpResponse(parser.status, parser.headers, b"", self.received_at, parser.repeated)

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes of the body: none at its end."""
        parser = self.parser
        while True:
            piece = parser.take()
            if piece:
                if not self.over:
                    self.socket.resume()
                return piece
            if self.failure is not None:
                return self.failure
            if parser.complete:
                return b""
            await self.wait()

    def limit_silence(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        if seconds < self._idle and not self.over:
            self._idle = seconds
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """See how long the server has been silent, or has taken nothing of the request, while we waited for it."""
        now = self._loop.time()
        unsent = self.socket.transport.get_write_buffer_size()
        if unsent < self.unsent:
            self._waiting_since = now
        self.unsent = unsent
        due = self._waiting_since + self._idle
        if now < due:
            self._timer = self._loop.call_at(min(due, now + self._idle), self._look)
            return
        status = self.parser.status
        self.fail(_SILENT if status is None else silent_body(status))
        self.wake()


def _framing(request: PreparedRequest, given: frozenset[str]) -> tuple[str, ...]:
    """The line that says how the body is sent, where the caller's headers do not."""
    if isinstance(request.body, bytes):
        needed = bool(request.body) or request.method not in _WITHOUT_BODY
        return (f"Content-Length: {len(request.body)}",) if needed else ()
    return () if "content-length" in given else ("Transfer-Encoding: chunked",)


class Socket(asyncio.Protocol):
    """A connected socket: at most one exchange at a time. Bytes that come while there is none close it."""

    def __init__(self, owner: "ref[Owner]") -> None:
        self._owner = owner
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.opened_at = self.idle_since = time.monotonic()
        self.closed = False
        self.spent = False  # may carry no other request
        self._paused = False
        self._drained: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio connected it."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio read `data`."""
        if self.exchange is None:
            self.abort()
        else:
            self.exchange.received(data)

    def eof_received(self) -> None:
        """The server sends no more: asyncio closes the connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio closed it."""
        self.resume_writing()
        exchange = self.exchange
        if exc is not None and exchange is not None:
            self._read_rest(exchange)
            exchange = self.exchange
        self._forget()
        if exchange is not None:
            exchange.lost()

    def _read_rest(self, exchange: Exchange) -> None:
        """Take what came before the connection failed: asyncio reads no more after a failed write.

        A server that refuses an upload answers, and closes while we still write.
        """
        self.spent = True
        if self.transport.get_extra_info("sslcontext") is not None:  # asyncio has its state
            return
        descriptor = self.transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            while self.exchange is exchange and (data := os.read(descriptor, UNREAD)):
                exchange.received(data)

    def pause_writing(self) -> None:
        """Asyncio's buffer is full."""
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Asyncio's buffer has room again."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    async def drained(self) -> None:
        """Wait until more may be written."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if not self.closed:
                self.transport.resume_reading()

    def free(self, *, reusable: bool) -> None:
        """The exchange is over: wait for another one, or close."""
        self.exchange = None
        owner = self._owner()
        if owner is None or owner.closed or self.closed or self.spent or not reusable:
            self.abort()
        else:
            self.resume()
            owner.put(self)

    def abort(self) -> None:
        """Close at once."""
        if not self.closed:
            self._forget()
            with suppress(RuntimeError):  # a loop that is closed
                self.transport.abort()

    def _forget(self) -> None:
        self.exchange = None
        if not self.closed:
            self.closed = True
            owner = self._owner()
            if owner is not None:
                owner.gone(self)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come that the loop has not read yet, and the server has not left."""
        if self.closed or self.transport.is_closing():
            return False
        sock = self.transport.get_extra_info("socket")
        try:
            return bool(ioctl(sock.fileno(), FIONREAD, _ZERO) == _ZERO)
        except (OSError, ValueError):  # it is closed
            return False
