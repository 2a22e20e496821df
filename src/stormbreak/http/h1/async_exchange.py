"""An exchange on an event loop, and the asyncio protocol of its socket."""

import asyncio
import os
import select
import ssl
import time
from collections.abc import AsyncIterable
from contextlib import suppress
from math import inf
from typing import Any, Protocol
from weakref import ref

from stormbreak.drivers.timeouts import call_at
from stormbreak.http.h1.address import address_of
from stormbreak.http.h1.exchange import BAD_HEADER, LOST, SMALL, UNREAD, Exchange, head_of
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.response_parser import ResponseParser
from stormbreak.http.prepared_request import PreparedRequest


class Owner(Protocol):
    """The pool of a socket."""

    closed: bool

    def put(self, connection: "Socket") -> None:
        """Keep a free socket for the next request."""

    def gone(self, connection: "Socket") -> None:
        """A socket was closed."""


class AsyncExchange(Exchange, kw_only=True):
    """One exchange on a loop."""

    carrier: "Socket"
    loop: asyncio.AbstractEventLoop
    upload: asyncio.Task[None] | None = None
    _unsent: int = 0  # bytes at the last check
    _waiter: asyncio.Future[None] | None = None
    _idle: float = inf
    _waiting_since: float = inf
    _timer: asyncio.TimerHandle | None = None

    async def send_pieces(self, head: bytes, body: AsyncIterable[bytes], *, chunked: bool) -> None:
        """Send `head` with the first piece of `body`; send nothing if the body fails before."""
        transport = self.carrier.transport
        try:
            async for piece in body:
                if self.over or transport.is_closing():
                    return
                if piece:
                    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    transport.write(head + framed)
                    head = b""
                    await self.carrier.drained()
        except Exception:  # noqa: BLE001 - the owner of the body knows what it raised
            self.fail(LOST)
            self.wake()
            return
        if not self.over:
            transport.write(head + (b"0\r\n\r\n" if chunked else b""))

    @property
    def is_sent(self) -> bool:
        upload = self.upload
        done = upload is None or upload.done()
        return done and not self.carrier.transport.get_write_buffer_size()

    def drop(self) -> None:
        with suppress(RuntimeError):  # a loop that is closed
            self.loop.call_soon_threadsafe(self.fail, LOST)

    def leave(self, *, reusable: bool = False) -> None:
        if self.over:
            return
        self.over = True
        self.parser.llhttp = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.upload is not None:
            self.upload.cancel()
            self.upload = None  # its traceback keeps the body
        self.carrier.free(reusable=reusable)

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ------------------------------------------------------------ from the reader

    async def wait(self) -> None:
        if self.parser.unread or self.parser.complete or self.failure is not None:
            return
        if self._waiter is not None:  # the other reader would never wake
            raise RuntimeError("another task reads the response")
        waiter = self._waiter = self.loop.create_future()
        self._waiting_since = self.loop.time()
        try:
            await waiter
        except BaseException:
            self.fail(LOST)
            raise
        finally:
            self._waiter = None
            self._waiting_since = inf

    def limit_silence(self, seconds: float) -> None:
        if seconds < self._idle and not self.over:
            self._idle = seconds
            self._look_at(self.loop.time() + seconds)

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = call_at(self.loop, at, self._look)

    def _look(self) -> None:
        """Check how long the server has been silent, or has accepted nothing of the request, while we waited for it."""
        if self._is_done:
            return
        now = self.loop.time()
        unsent = self.carrier.transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._waiting_since = now
        self._unsent = unsent
        due = self._waiting_since + self._idle
        if now < due:
            self._look_at(min(due, now + self._idle))
            return
        self.silent()
        self.wake()


class Socket(asyncio.Protocol):
    """A connected socket: at most one exchange at a time. Bytes without an exchange close it."""

    def __init__(self, owner: "ref[Owner]") -> None:
        self._owner = owner
        self.transport: Any = None
        self.exchange: AsyncExchange | None = None
        self.opened_at = self.idle_since = time.monotonic()
        self.closed = False
        self.spent = False  # may carry no other request
        self._paused = False
        self._ended = False  # the server announced that it sends no more
        self._drained: asyncio.Future[None] | None = None
        self._poller: select.poll | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def begin(self, request: PreparedRequest, proxy: Proxy | None) -> AsyncExchange:
        """Begin an exchange: write the request; a task sends a body that is an iterator."""
        loop, parser = asyncio.get_running_loop(), ResponseParser(request.method)
        begun = self.exchange = AsyncExchange(carrier=self, parser=parser, loop=loop)
        if request.idle_timeout is not None:
            begun.limit_silence(request.idle_timeout)
        try:
            head, chunked = head_of(request, address_of(request.url), proxy)
        except ValueError:  # its message may contain the header
            begun.fail(BAD_HEADER)
            return begun
        body = request.body
        if not isinstance(body, bytes):
            begun.upload = loop.create_task(begun.send_pieces(head, body, chunked=chunked))
        elif len(body) <= SMALL:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        return begun

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.abort()
        else:
            self.exchange.received(data)

    def eof_received(self) -> None:
        """Handle the end of the server's data: asyncio closes the connection. With TLS it may not be announced."""
        tls = self.transport.get_extra_info("ssl_object")
        try:
            self._ended = tls is None or not tls.read(1)
        except ssl.SSLError:
            self._ended = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        exchange = self.exchange
        if exc is not None and exchange is not None:
            self._read_rest(exchange)
            exchange = self.exchange
        self._forget()
        if exchange is not None:
            exchange.lost(cleanly=self._ended and exc is None)

    def _read_rest(self, exchange: AsyncExchange) -> None:
        """Read the bytes that came before the connection failed: asyncio reads no more after a failed write.

        A server that refuses an upload answers, and closes the connection while we still write.
        """
        self.spent = True
        if self.transport.get_extra_info("sslcontext") is not None:  # asyncio has the TLS state
            return
        descriptor = self.transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            while self.exchange is exchange and (data := os.read(descriptor, UNREAD)):
                exchange.received(data)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    async def drained(self) -> None:
        """Wait until the transport accepts more data."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def pause(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self.closed:
                self.transport.resume_reading()

    def free(self, *, reusable: bool) -> None:
        self.exchange = None
        owner = self._owner()
        if owner is None or owner.closed or self.closed or self.spent or not reusable:
            self.abort()
        else:
            if self._paused:
                self.resume()
            owner.put(self)

    def abort(self) -> None:
        if not self.closed:
            self._forget()
            with suppress(RuntimeError):  # the loop may be closed
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
        """Whether neither data nor the end has come, including data that the loop has not read yet."""
        if self.closed or self.transport.is_closing():
            return False
        try:
            if self._poller is None:
                self._poller = select.poll()
                self._poller.register(self.transport.get_extra_info("socket"), select.POLLIN)
            return not self._poller.poll(0)
        except (OSError, ValueError):  # the socket is closed
            return False
