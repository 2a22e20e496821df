"""HTTP/1.1 on event loops: a pool of sockets for each loop, and the responses that are read from them.

Nothing is sent a second time, no redirect is followed, and no exception leaves: a request ends with a response or with an outcome.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from weakref import WeakKeyDictionary, ref

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet
from stormbreak.http.h1.address import Address, Proxy, address_of, proxy_of
from stormbreak.http.h1.async_connect import Resolver, connect
from stormbreak.http.h1.async_exchange import LOST, Exchange, Owner, Socket
from stormbreak.http.h1.connection import BODY_LIMIT, ExchangeResult, broken_body, collect
from stormbreak.http.h1.decoding import (
    Decoder,
    UnacceptedCodingError,
    UndecodableError,
    decoder_of,
)
from stormbreak.http.h1.failures import connect_outcome
from stormbreak.http.models import PreparedRequest
from stormbreak.llm.models import HttpResponse
from stormbreak.types import Outcome, Verdict

KEEP_ALIVE = 60.0  # seconds that an idle socket is kept
MAX_AGE = 3600.0  # seconds after which a socket is not used again: its address may have moved

_PARENTS: list[object] = []  # never collected in a child, since that would close it
_BAD_HEADER = Outcome(Verdict.INVALID, detail="a header holds a line break or a NUL")
_NOT_SENT = Outcome(Verdict.RESET, detail="connection lost")


class PoolClosedError(Exception):
    """The pool was closed while a request waited for a socket."""


class AsyncResponse:
    """A response whose head has come. One that is dropped closes its connection, on whatever thread that happens."""

    def __init__(
        self, exchange: Exchange, head: HttpResponse, request: PreparedRequest, pool: "Pool"
    ) -> None:
        self.head = head
        self.pool = pool  # held while this is: a pool that nobody holds closes
        self._exchange = exchange
        encoding = head.headers.get("content-encoding")
        self._decoder: Decoder | None = None if encoding is None else decoder_of(encoding)
        self._pieces: Iterator[bytes] = iter(())  # unpacked, and not taken yet
        self._max_bytes = BODY_LIMIT if request.max_bytes is None else request.max_bytes
        self._size = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it belongs to."""
        return self._loop

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes: none at the end of the body, the outcome where there is no good end."""
        if self._closed:
            return self._exchange.failure or broken_body(self.head.status)
        try:
            got = await (
                self._exchange.read() if self._decoder is None else self._unpacked(self._decoder)
            )
        except UndecodableError as error:
            self.close()
            broken = broken_body(self.head.status, str(error))
            if isinstance(error, UnacceptedCodingError):
                broken = broken._replace(verdict=Verdict.UNREPEATABLE)
            return broken
        if isinstance(got, Outcome) or not got:
            self.close()
            return got
        self._size += len(got)
        if self._size > self._max_bytes:
            self.close()
            return broken_body(self.head.status, f"larger than {int(self._max_bytes) >> 20} MiB")
        return got

    def limit_silence(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        self._exchange.limit_silence(seconds)

    def close(self) -> None:
        """Close the connection, unless the whole body has come; whoever reads is woken."""
        if not self._closed:
            self._closed = True
            self._exchange.fail(broken_body(self.head.status))
            self._exchange.wake()

    def abandon(self) -> None:
        """Have nothing more to do with the connection: it is that of a parent process."""
        self._closed = True

    def __del__(self) -> None:
        if not self._closed and not self._exchange.over:
            with suppress(RuntimeError):  # a loop that is closed
                self._loop.call_soon_threadsafe(self._exchange.fail, LOST)

    async def _unpacked(self, decoder: Decoder) -> bytes | Outcome:
        while True:
            for piece in self._pieces:
                return piece
            packed = await self._exchange.read()
            if isinstance(packed, Outcome):
                return packed
            if not packed:
                decoder.end()
                return b""
            self._pieces = decoder.feed(packed)


class Pool:
    """The connections of one loop to one origin: at most `limit`, those used last are used first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.resolver = Resolver()
        self.streams: LiveSet[AsyncResponse] = LiveSet()
        self.sockets: set[Socket] = set()
        self._connecting = 0
        self._idle: deque[Socket] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.closer = _closing(self.sockets)
        self.closed = False

    @property
    def is_open(self) -> bool:
        """Whether neither `close` nor the end of its loop has closed it."""
        return not self.closed and getattr(self.closer, "ag_frame", None) is not None

    def idle(self) -> Socket | None:
        """A connection that is free."""
        while self._idle:
            socket = self._idle.pop()
            if socket.is_quiet and time.monotonic() - socket.opened_at < MAX_AGE:
                return socket
            socket.abort()
        return None

    async def take(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None, seconds: float
    ) -> Socket:
        """A free socket, or a new one within `seconds`; waits while `limit` are in use.

        Raises:
            PoolClosedError: the pool was closed meanwhile.
            OSError, RuntimeError: as `connect` does.
        """
        while not self.closed:
            socket = self.idle()
            if socket is not None:
                return socket
            if len(self.sockets) + self._connecting < self.limit:
                async with asyncio.timeout(seconds):
                    return await self._connect(address, proxy, tls)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._wake()
                raise
        raise PoolClosedError

    async def _connect(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None
    ) -> Socket:
        this: ref[Owner] = ref(self)
        self._connecting += 1
        try:
            _, socket = await connect(self.resolver, address, proxy, tls, lambda: Socket(this))
        except BaseException:
            self._connecting -= 1
            self._wake()
            raise
        self._connecting -= 1
        if socket.closed or self.closed:
            socket.abort()
            self._wake()
            raise ConnectionResetError
        self.sockets.add(socket)
        return socket

    def put(self, socket: Socket) -> None:
        """Keep a socket for the next request."""
        socket.idle_since = time.monotonic()
        self._idle.append(socket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEEP_ALIVE, _tidy, ref(self))
        self._wake()

    def gone(self, socket: Socket) -> None:
        """A socket was closed: another may be opened."""
        self.sockets.discard(socket)
        with suppress(ValueError):
            self._idle.remove(socket)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def tidy(self) -> None:
        """Close what has been idle for too long."""
        now = time.monotonic()
        while self._idle and now - self._idle[0].idle_since >= KEEP_ALIVE:
            self._idle[0].abort()
        self._timer = None
        if self._idle:
            wait = KEEP_ALIVE - (now - self._idle[0].idle_since)
            self._timer = asyncio.get_running_loop().call_later(wait, _tidy, ref(self))

    def __del__(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """Close every socket; whoever reads or waits is woken."""
        self.closed = True
        for response in self.streams:
            response.close()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        await self.closer.aclose()


def _tidy(known: "ref[Pool]") -> None:
    pool = known()
    if pool is not None:
        pool.tidy()


async def _closing(sockets: set[Socket]) -> AsyncGenerator[None, None]:
    """Close `sockets` when this generator is closed; a loop that ends closes those that were begun on it."""
    try:
        yield
    finally:
        for socket in list(sockets):
            exchange = socket.exchange
            if exchange is not None:
                exchange.lost()
            socket.abort()
        await asyncio.sleep(0)  # the loop closes the sockets


class AsyncConnection:
    """A pool of at most `limit` connections for each event loop; it is closed with its loop at the latest.

    `tls` says whom to trust; it is needed for https only. `proxy` is the URL of an HTTP proxy.
    """

    def __init__(
        self, *, limit: int, proxy: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._limit = limit
        self._proxy = None if proxy is None else proxy_of(proxy)
        self._tls = tls
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = WeakKeyDictionary()
        reset_in_child(self._leave_behind)

    async def exchange(self, request: PreparedRequest) -> ExchangeResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        pool = await self._pool()
        got = await self._begin(pool, request)
        if isinstance(got, Outcome):
            return got
        head = await got.head()
        if isinstance(head, Outcome):
            return head
        if not (got.parser.complete and head.succeeded and "content-encoding" not in head.headers):
            return await collect(self._response_of(pool, got, head, request))
        body = got.parser.take()  # it came with its head, as most do
        if len(body) > BODY_LIMIT:
            return broken_body(head.status, f"larger than {BODY_LIMIT >> 20} MiB")
        return head._replace(body=body)

    async def open(self, request: PreparedRequest) -> AsyncResponse | Outcome:
        """Send once, and wait for no more than the head of the answer. Cancelling closes the connection."""
        pool = await self._pool()
        got = await self._begin(pool, request)
        if isinstance(got, Outcome):
            return got
        head = await got.head()
        return head if isinstance(head, Outcome) else self._response_of(pool, got, head, request)

    async def close(self) -> None:
        """Close the connections of the running loop; whoever reads there is woken."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    @staticmethod
    def _response_of(
        pool: Pool, exchange: Exchange, head: HttpResponse, request: PreparedRequest
    ) -> AsyncResponse:
        response = AsyncResponse(exchange, head, request, pool)
        pool.streams.add(response)
        return response

    async def _begin(self, pool: Pool, request: PreparedRequest) -> Exchange | Outcome:
        proxy = self._proxy
        try:
            address = address_of(request.url)
            socket = pool.idle() or await pool.take(
                address, proxy, self._tls, request.connect_timeout
            )
        except PoolClosedError:
            return _NOT_SENT
        except (OSError, UnicodeError, RuntimeError) as error:
            return connect_outcome(error, proxied=proxy is not None)
        exchange = Exchange(asyncio.get_running_loop(), socket, request)
        socket.exchange = exchange
        absolute: str | None = None
        extra: tuple[str, ...] = ()
        if proxy is not None and not address.secure:
            absolute = f"http://{address.authority}{address.target}"
            if proxy.authorization is not None:
                extra = (f"Proxy-Authorization: {proxy.authorization}",)
        try:
            exchange.send(address, request, absolute, extra)
        except ValueError:  # its message may hold the header
            exchange.fail(_BAD_HEADER)
            return _BAD_HEADER
        return exchange

    async def _pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or not pool.is_open:
            for known in self._pools.keyrefs():  # other threads add theirs meanwhile
                other = known()
                if other is not None and other.is_closed():
                    self._pools.pop(other, None)
            pool = self._pools[loop] = Pool(self._limit)
            await anext(pool.closer)
        return pool

    def _leave_behind(self) -> None:
        """Use no connection of the parent process, and close none: the loop's selector is shared, too."""
        _PARENTS.append([(loop, pool, list(pool.streams)) for loop, pool in self._pools.items()])
        for pool in self._pools.values():
            for response in pool.streams:
                response.abandon()
        self._pools = WeakKeyDictionary()
