"""HTTP/1.1 on blocked threads: one pool of sockets for all threads, and the exchanges over them.

As in `async_connection`, nothing is sent twice, no redirect is followed, and no exception is raised. `drivers.blocking`
runs its coroutines.
"""

import ssl
from typing import Self

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.http.h1.address import address_of
from stormbreak.http.h1.blocking_exchange import BlockingExchange
from stormbreak.http.h1.blocking_pool import BlockingPool
from stormbreak.http.h1.connection import ExchangeResult, Judge
from stormbreak.http.h1.exchange import BAD_HEADER, head_of
from stormbreak.http.h1.failures import NOT_SENT, PoolClosedError, connect_outcome
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.response_parser import ResponseParser
from stormbreak.http.h1.socket_response import SocketResponse, open_response, whole_response
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.types import Outcome


class BlockingConnection:
    """A pool of at most `limit` sockets for all threads. `tls` has the trusted certificates, needed only for https."""

    def __init__(self, *, limit: int, proxy: Proxy | None, tls: ssl.SSLContext | None) -> None:
        self._proxy = proxy
        self._tls = tls
        self._pool = BlockingPool(limit)
        reset_in_child(self._leave_behind)

    @property
    def blocking(self) -> Self:
        return self

    async def exchange(
        self, request: PreparedRequest, judge: Judge | None = None
    ) -> ExchangeResult:
        pool = self._pool
        begun = await self._begin(pool, request)
        if isinstance(begun, Outcome):
            return begun
        return await whole_response(begun, request, pool, judge)

    async def open(self, request: PreparedRequest) -> SocketResponse | Outcome:
        pool = self._pool
        begun = await self._begin(pool, request)
        return begun if isinstance(begun, Outcome) else await open_response(begun, request, pool)

    async def close(self) -> None:
        """Close all sockets, on any thread, and wake their readers. Later requests open new connections."""
        closing, self._pool = self._pool, BlockingPool(self._pool.limit)
        closing.close()

    async def _begin(
        self, pool: BlockingPool, request: PreparedRequest
    ) -> BlockingExchange | Outcome:
        proxy = self._proxy
        try:
            address = address_of(request.url)
            head, chunked = head_of(request, address, proxy)
        except UnicodeError as error:
            return connect_outcome(error, proxied=proxy is not None)
        except ValueError:  # its message may contain the header
            return BAD_HEADER
        try:
            used = pool.idle() or await pool.take(
                address, proxy, self._tls, request.connect_timeout
            )
        except PoolClosedError:
            return NOT_SENT
        except (OSError, UnicodeError, RuntimeError) as error:
            return connect_outcome(error, proxied=proxy is not None)
        try:
            exchange = BlockingExchange(used, ResponseParser(request.method))
            await exchange.send(request, head, chunked=chunked)
        except BaseException:
            used.abort()
            raise
        return exchange

    def _leave_behind(self) -> None:
        self._pool.leave_behind()
        self._pool = BlockingPool(self._pool.limit)
