"""HTTP/1.1 on event loops: a pool of sockets for each loop, and the responses that are read from them.

Nothing is sent a second time, no redirect is followed, and no exception leaves: a request ends with a response or with
an outcome.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from weakref import WeakKeyDictionary, ref

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet, cached_value
from stormbreak.http.h1.address import Address, address_of
from stormbreak.http.h1.async_connect import Resolver, connect
from stormbreak.http.h1.async_exchange import AsyncExchange, Owner, Socket
from stormbreak.http.h1.blocking_connection import BlockingConnection
from stormbreak.http.h1.connection import KEEP_ALIVE, MAX_AGE, MAX_IDLE, SPARE, ExchangeResult
from stormbreak.http.h1.exchange import BAD_HEADER
from stormbreak.http.h1.failures import NOT_SENT, PoolClosedError, connect_outcome
from stormbreak.http.h1.proxy_tunnel import Proxy, proxy_of
from stormbreak.http.h1.response_body import (
    SocketResponse,
    came_whole,
    open_response,
    whole_response,
)
from stormbreak.http.models import PreparedRequest
from stormbreak.types import Outcome

_PARENTS: list[object] = []  # never collected in a child, since that would close it


class Pool:
    """The connections of one loop to one origin: at most `limit`, those used last are used first.

    Of idle ones it keeps `MAX_IDLE`, for `KEEP_ALIVE` seconds, and more for `SPARE` seconds. None is used after `MAX_AGE`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.resolver = Resolver()
        self.streams: LiveSet[SocketResponse] = LiveSet()
        self.sockets: set[Socket] = set()
        self._connecting = 0
        self._idle: deque[Socket] = deque()
        self._waiting: deque[asyncio.Future[Socket | None]] = deque()
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
            if _is_fit(socket):
                return socket
        return None

    async def take(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None, seconds: float
    ) -> Socket:
        """A free socket, or a new one within `seconds`; waits while `limit` are in use.

        Raises:
            PoolClosedError: the pool was closed meanwhile.
            OSError, RuntimeError: as `connect` does.
        """
        has_waited = False
        while not self.closed:
            socket = self.idle()
            if socket is not None:
                return socket
            if len(self.sockets) + self._connecting < self.limit:
                async with asyncio.timeout(seconds):
                    return await self._connect(address, proxy, tls)
            socket = await self._turn(first=has_waited)
            has_waited = True
            if socket is not None and _is_fit(socket):
                return socket
        raise PoolClosedError

    async def _turn(self, *, first: bool) -> Socket | None:
        """Wait for a socket that is freed; None: there may be room for a new one."""
        waiter: asyncio.Future[Socket | None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                unused = waiter.result()
                if unused is None:
                    self._wake(None)
                elif not unused.closed:
                    self.put(unused)
            raise

    async def _connect(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None
    ) -> Socket:
        this: ref[Owner] = ref(self)
        self._connecting += 1
        try:
            _, socket = await connect(self.resolver, address, proxy, tls, lambda: Socket(this))
        except BaseException:
            self._connecting -= 1
            self._wake(None)
            raise
        self._connecting -= 1
        if socket.closed or self.closed:
            socket.abort()
            self._wake(None)
            raise ConnectionResetError
        self.sockets.add(socket)
        return socket

    def put(self, socket: Socket) -> None:
        """Keep a socket for the next request, or give it to the one that has waited longest."""
        socket.idle_since = time.monotonic()
        if self._wake(socket):
            return
        self._idle.append(socket)
        if self._timer is None or len(self._idle) == MAX_IDLE + 1:
            self.tidy()

    def gone(self, socket: Socket) -> None:
        """A socket was closed: another may be opened."""
        self.sockets.discard(socket)
        with suppress(ValueError):
            self._idle.remove(socket)
        self._wake(None)

    def _wake(self, socket: Socket | None) -> bool:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(socket)
                return True
        return False

    def tidy(self) -> None:
        """Close what has been idle for too long, now and later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        while self._idle:
            kept = SPARE if len(self._idle) > MAX_IDLE else KEEP_ALIVE
            wait = self._idle[0].idle_since + kept - now
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, _tidy, ref(self))
                return
            self._idle[0].abort()

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


def _is_fit(socket: Socket) -> bool:
    """Whether a free socket can carry another request; else close it."""
    if socket.is_quiet and time.monotonic() - socket.opened_at < MAX_AGE:
        return True
    socket.abort()
    return False


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
                exchange.lost(cleanly=False)
            socket.abort()
        await asyncio.sleep(0)  # the loop closes the sockets


class AsyncConnection:
    """A pool of at most `limit` connections to one origin for each event loop; it is closed with its loop at the latest.

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

    @cached_value
    def blocking(self) -> BlockingConnection:
        """The same for code that blocks."""
        return BlockingConnection(limit=self._limit, proxy=self._proxy, tls=self._tls)

    async def exchange(self, request: PreparedRequest) -> ExchangeResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        pool = self._pool() or await self._new_pool()
        begun = self._begin_now(pool, request) or await self._begin(pool, request)
        if isinstance(begun, Outcome):
            return begun
        while begun.parser.status is None and begun.failure is None:  # here: each frame costs
            await begun.wait()
        return came_whole(begun) or await whole_response(begun, request, pool)

    async def open(self, request: PreparedRequest) -> SocketResponse | Outcome:
        """Send once, and wait for no more than the head of the answer. Cancelling closes the connection."""
        pool = self._pool() or await self._new_pool()
        begun = self._begin_now(pool, request) or await self._begin(pool, request)
        return begun if isinstance(begun, Outcome) else await open_response(begun, request, pool)

    async def close(self) -> None:
        """Close the connections of the running loop; whoever reads there is woken."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    def _begin_now(self, pool: Pool, request: PreparedRequest) -> AsyncExchange | Outcome | None:
        """Send over a socket that is free; None if there is none."""
        socket = pool.idle()
        return None if socket is None else self._send(socket, request, address_of(request.url))

    async def _begin(self, pool: Pool, request: PreparedRequest) -> AsyncExchange | Outcome:
        proxy = self._proxy
        try:
            address = address_of(request.url)
            socket = await pool.take(address, proxy, self._tls, request.connect_timeout)
        except PoolClosedError:
            return NOT_SENT
        except (OSError, UnicodeError, RuntimeError) as error:
            return connect_outcome(error, proxied=proxy is not None)
        return self._send(socket, request, address)

    def _send(
        self, socket: Socket, request: PreparedRequest, address: Address
    ) -> AsyncExchange | Outcome:
        exchange = AsyncExchange(asyncio.get_running_loop(), socket, request)
        socket.exchange = exchange
        try:
            exchange.send(request, address, self._proxy)
        except ValueError:  # its message may hold the header
            exchange.fail(BAD_HEADER)
            return BAD_HEADER
        return exchange

    def _pool(self) -> Pool | None:
        """Return the pool of the running loop, if there is one that is open."""
        pool = self._pools.get(asyncio.get_running_loop())
        return pool if pool is not None and pool.is_open else None

    async def _new_pool(self) -> Pool:
        for known in self._pools.keyrefs():  # other threads add theirs meanwhile
            other = known()
            if other is not None and other.is_closed():
                self._pools.pop(other, None)
        pool = self._pools[asyncio.get_running_loop()] = Pool(self._limit)
        await anext(pool.closer)
        return pool

    def _leave_behind(self) -> None:
        """Use no connection of the parent process, and close none: the loop's selector is shared, too."""
        _PARENTS.append([(loop, pool, list(pool.streams)) for loop, pool in self._pools.items()])
        for pool in self._pools.values():
            for response in pool.streams:
                response.abandon()
        self._pools = WeakKeyDictionary()
