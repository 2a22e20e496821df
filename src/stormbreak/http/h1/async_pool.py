"""A pool of sockets to one origin, on one event loop."""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from weakref import ref

from stormbreak.drivers.locks import LiveSet
from stormbreak.drivers.timeouts import Timeout
from stormbreak.http.h1.address import Address
from stormbreak.http.h1.async_connect import Resolver, connect
from stormbreak.http.h1.async_exchange import Owner, Socket
from stormbreak.http.h1.connection import KEEP_ALIVE, MAX_AGE, MAX_IDLE, SPARE
from stormbreak.http.h1.failures import PoolClosedError
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.socket_response import SocketResponse


class _Connecting(Timeout):
    grace = 0.02  # less than that of an attempt, which would otherwise time out first


class AsyncPool:
    """The connections of one loop to one origin: at most `limit`, the last used first.

    It keeps `MAX_IDLE` idle ones for `KEEP_ALIVE` seconds, and further ones for `SPARE` seconds. None is used after
    `MAX_AGE`.
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

    def idle(self) -> Socket | None:
        """Return a free connection that can carry another request, if any; close others."""
        while self._idle:
            socket = self._idle.pop()
            if socket.is_quiet and time.monotonic() - socket.opened_at < MAX_AGE:
                return socket
            socket.abort()
        return None

    async def take(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None, seconds: float
    ) -> Socket:
        """Return a free socket, or a new one within `seconds`; wait while `limit` are in use.

        Raises:
            PoolClosedError: the pool was closed meanwhile.
            OSError, RuntimeError: as in `connect`.
        """
        has_waited = False
        while not self.closed:
            socket = self.idle()
            if socket is not None:
                return socket
            if len(self.sockets) + self._connecting < self.limit:
                with _Connecting(seconds):
                    return await self._connect(address, proxy, tls)
            freed = await self._turn(first=has_waited)
            has_waited = True
            if freed is not None:
                self._idle.append(freed)  # taken in the next round
        raise PoolClosedError

    async def _turn(self, *, first: bool) -> Socket | None:
        """Wait for a freed socket; None: there may be room for a new one."""
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
        if self._waiting and self._wake(socket):
            return
        self._idle.append(socket)
        if self._timer is None or len(self._idle) == MAX_IDLE + 1:
            self.tidy()

    def gone(self, socket: Socket) -> None:
        """Record that a socket was closed: another may be opened."""
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
        """Close sockets that have been idle for too long, now and later."""
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
        """Close every socket, and wake readers and waiters."""
        self.closed = True
        for response in self.streams:
            response.close()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        await self.closer.aclose()


def _tidy(known: "ref[AsyncPool]") -> None:
    pool = known()
    if pool is not None:
        pool.tidy()


async def _closing(sockets: set[Socket]) -> AsyncGenerator[None, None]:
    """Close `sockets` when this generator is closed; an ending loop closes its running generators."""
    try:
        yield
    finally:
        for socket in list(sockets):
            exchange = socket.exchange
            if exchange is not None:
                exchange.lost(cleanly=False)
            socket.abort()
        await asyncio.sleep(0)  # the loop closes the sockets
