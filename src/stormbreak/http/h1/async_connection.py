"""HTTP/1.1 on event loops: a pool of sockets for each loop, and the responses read from them.

Nothing is sent twice, no redirect is followed, and no exception is raised: a request ends with a response or with an
outcome.
"""

import asyncio
import ssl
from weakref import WeakKeyDictionary

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import cached_value
from stormbreak.http.h1.address import address_of
from stormbreak.http.h1.async_exchange import Socket
from stormbreak.http.h1.async_pool import AsyncPool
from stormbreak.http.h1.blocking_connection import BlockingConnection
from stormbreak.http.h1.connection import ExchangeResult, Judge
from stormbreak.http.h1.failures import NOT_SENT, PoolClosedError, connect_outcome
from stormbreak.http.h1.proxy import proxy_of
from stormbreak.http.h1.socket_response import (
    SocketResponse,
    came_whole,
    open_response,
    whole_response,
)
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.types import Outcome

_PARENTS: list[object] = []  # keeps the parent's pools from being collected, and closed, in a child


class AsyncConnection:
    """A pool of at most `limit` connections to one origin for each event loop, closed at the latest with its loop.

    `tls` has the trusted certificates; it is needed only for https. `proxy` is the URL of an HTTP proxy.
    """

    def __init__(
        self, *, limit: int, proxy: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._limit = limit
        self._proxy = None if proxy is None else proxy_of(proxy)
        self._tls = tls
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool] = WeakKeyDictionary()
        reset_in_child(self._leave_behind)

    @cached_value
    def blocking(self) -> BlockingConnection:
        return BlockingConnection(limit=self._limit, proxy=self._proxy, tls=self._tls)

    async def exchange(
        self, request: PreparedRequest, judge: Judge | None = None
    ) -> ExchangeResult:
        pool = self._pool() or await self._new_pool()
        socket = pool.idle() or await self._connected(pool, request)
        if isinstance(socket, Outcome):
            return socket
        begun = socket.begin(request, self._proxy)
        while begun.parser.status is None and begun.failure is None:  # inline to save a frame
            await begun.wait()
        return came_whole(begun, judge) or await whole_response(begun, request, pool, judge)

    async def open(self, request: PreparedRequest) -> SocketResponse | Outcome:
        pool = self._pool() or await self._new_pool()
        socket = pool.idle() or await self._connected(pool, request)
        if isinstance(socket, Outcome):
            return socket
        return await open_response(socket.begin(request, self._proxy), request, pool)

    async def close(self) -> None:
        """Close the connections of the running loop, and wake their readers."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    async def _connected(self, pool: AsyncPool, request: PreparedRequest) -> Socket | Outcome:
        proxy = self._proxy
        try:
            address = address_of(request.url)
            return await pool.take(address, proxy, self._tls, request.connect_timeout)
        except PoolClosedError:
            return NOT_SENT
        except (OSError, UnicodeError, RuntimeError) as error:
            return connect_outcome(error, proxied=proxy is not None)

    def _pool(self) -> AsyncPool | None:
        """Return the open pool of the running loop, if any."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is None or pool.closed:
            return None
        has_loop = getattr(pool.closer, "ag_frame", None) is not None  # else its loop has ended
        return pool if has_loop else None

    async def _new_pool(self) -> AsyncPool:
        for known in self._pools.keyrefs():  # other threads may add pools meanwhile
            other = known()
            if other is not None and other.is_closed():
                self._pools.pop(other, None)
        pool = self._pools[asyncio.get_running_loop()] = AsyncPool(self._limit)
        await anext(pool.closer)
        return pool

    def _leave_behind(self) -> None:
        """Neither use nor close the connections of the parent process, which shares the loop's selector, too."""
        _PARENTS.append([(loop, pool, list(pool.streams)) for loop, pool in self._pools.items()])
        for pool in self._pools.values():
            for response in pool.streams:
                response.abandon()
        self._pools = WeakKeyDictionary()
