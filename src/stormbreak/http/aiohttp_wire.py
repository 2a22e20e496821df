"""The wire over aiohttp: one pool per event loop, every exception turned into an outcome.

aiohttp follows no redirect and repeats nothing here: its own second try on a dead connection is for
idempotent methods only, and is switched off besides.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from fcntl import ioctl
from functools import partial
from io import BytesIO
from termios import FIONREAD
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import aiohttp

from stormbreak.drivers.forks import forget_in_child
from stormbreak.http.aiohttp_incoming import AiohttpIncoming
from stormbreak.http.aiohttp_protocol import next_bytes, protocol
from stormbreak.http.trouble import EarlyAnswerError, outcome_of
from stormbreak.http.wire import BODY_LIMIT, CONNECT_TIMEOUT, HttpRequest, Sink, WireResult
from stormbreak.llm.reading import HttpAnswer
from stormbreak.types import Outcome, Verdict

KEEP_ALIVE = 60.0  # seconds
SMALL = 1024 * 1024  # bytes of a body that is written in one go

_PARENTS: list[object] = []  # what must not be collected, or it would be closed


class _Pool(NamedTuple):
    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]


class AiohttpWire:
    """At most `limit` connections per event loop; each pool is closed with its loop at the latest.

    `tls` says whom to trust; it is needed for https only.
    """

    def __init__(
        self, *, limit: int, proxy: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._limit = limit
        self._proxy = proxy
        self._tls = tls
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self._incoming: WeakSet[AiohttpIncoming] = WeakSet()
        forget_in_child(self._leave_behind)

    async def exchange(self, request: HttpRequest) -> WireResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        response: aiohttp.ClientResponse | None = None
        session = await self._session()
        try:
            response = await self._post(session, request, sock_read=request.idle_timeout)
            head = _head_of(response)
            body = await _read(response, request.open_sink and request.open_sink(head))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return outcome_of(error, response.status if response is not None else None)
        else:
            if body is None:
                return Outcome(
                    Verdict.BROKEN,
                    status=head.status,
                    detail=f"larger than {BODY_LIMIT >> 20} MiB",
                    maybe_processed=True,
                )
            return head._replace(body=body)
        finally:
            if response is not None and not response.closed:
                response.close()

    async def open(self, request: HttpRequest) -> AiohttpIncoming | Outcome:
        """Send once, and wait for no more than the head of the answer. Cancelling closes the connection."""
        session = await self._session()
        try:
            response = await self._post(session, request, sock_read=request.idle_timeout)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return outcome_of(error, None)
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = (
                None  # a timer for each piece; from here on there is our own
            )
        incoming = AiohttpIncoming(response, _head_of(response), request.idle_timeout)
        self._incoming.add(incoming)
        return incoming

    async def close(self) -> None:
        """Close the connections of the running loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.closer.aclose()

    def _leave_behind(self) -> None:
        """Use no connection of the parent process, and close none: the loop's selector is shared, too."""
        _PARENTS.append((dict(self._pools), list(self._incoming)))
        for incoming in self._incoming:
            incoming.leave()
        self._incoming = WeakSet()
        self._pools = WeakKeyDictionary()

    async def _post(
        self, session: aiohttp.ClientSession, request: HttpRequest, *, sock_read: float | None
    ) -> aiohttp.ClientResponse:
        response = await session.post(
            request.url,
            data=request.body if len(request.body) <= SMALL else BytesIO(request.body),
            headers=request.headers,
            proxy=self._proxy,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=request.connect_timeout,
                sock_read=sock_read,
                ceil_threshold=CONNECT_TIMEOUT,  # up to there to the point, not to the second
            ),
        )
        writing = response._writer  # noqa: SLF001 - the task that sends a large body
        if writing is not None and not writing.done() and response.ok:
            response.close()
            raise EarlyAnswerError
        return response

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.session.closed:
            for gone in [other for other in self._pools if other.is_closed()]:
                del self._pools[gone]
            session = self._open()
            pool = self._pools[loop] = _Pool(session, _closing(session))
            await anext(pool.closer)
        return pool.session

    def _open(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=_Connector(
                limit=self._limit,
                keepalive_timeout=KEEP_ALIVE,
                ssl=True if self._tls is None else self._tls,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        session._retry_connection = False  # noqa: SLF001 - no attempt that policies do not see
        return session


def _head_of(response: aiohttp.ClientResponse) -> HttpAnswer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpAnswer(response.status, headers, b"", time.time())


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Close `session` when this generator is closed; a loop that ends closes those that were begun on it."""
    try:
        yield
    finally:
        await session.close()


class _Connector(aiohttp.TCPConnector):
    """Uses no connection again on which bytes came that nobody had asked for: they would be the next answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(protocol, loop=self._loop)

    async def _get(
        self, key: "aiohttp.client_reqrep.ConnectionKey", traces: "list[aiohttp.tracing.Trace]"
    ) -> aiohttp.connector.Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and not _has_unread(protocol):
                return connection
            connection.close()
        return None

    def _release(
        self,
        key: "aiohttp.client_reqrep.ConnectionKey",
        protocol: aiohttp.client_proto.ResponseHandler,
        *,
        should_close: bool = False,
    ) -> None:
        super()._release(key, protocol, should_close=should_close)
        protocol._parser = None  # noqa: SLF001 - else it would swallow half an answer unseen


def _has_unread(protocol: aiohttp.client_proto.ResponseHandler) -> bool:
    """Whether bytes have come that the loop has not read yet. Later ones cannot be told from an answer."""
    count = bytearray(4)
    socket = None if protocol.transport is None else protocol.transport.get_extra_info("socket")
    if socket is not None:
        with suppress(OSError):  # it is closed
            ioctl(socket.fileno(), FIONREAD, count)
    return any(count)


async def _read(response: aiohttp.ClientResponse, sink: Sink | None) -> bytes | None:
    """Read the body, or feed it to the sink while it wants more; None where it is larger than it may be."""
    parts: list[bytes] = []
    take: Sink = sink or parts.append
    size = 0
    while chunk := await next_bytes(response.content):
        size += len(chunk)
        if size > BODY_LIMIT:
            return None
        if take(chunk):
            return b""
    response.release()
    return parts[0] if len(parts) == 1 else b"".join(parts)
