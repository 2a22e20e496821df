"""HTTP/1.1 over aiohttp: one pool per event loop; every exception becomes an outcome.

aiohttp follows no redirect and repeats nothing here: its own second try on a dead connection is for
idempotent methods only, and is switched off besides.
"""

import asyncio
import errno
import ssl
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from fcntl import ioctl
from functools import lru_cache, partial
from io import BytesIO
from math import inf
from termios import FIONREAD
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet
from stormbreak.http.h1.connection import (
    BODY_LIMIT,
    ExchangeResult,
    broken_body,
    collect,
    repeated_headers,
    silent_body,
)
from stormbreak.http.h1.decoding import ACCEPTED, Decoder, decoder_of
from stormbreak.http.h1.failures import EarlyResponseError, outcome_of
from stormbreak.http.models import CONNECT_TIMEOUT, PreparedRequest
from stormbreak.llm.models import HttpResponse
from stormbreak.types import Outcome

# ---------------------------------------------------------------- protocol fixes
# If its parser fails within a body, such as at an invalid chunk, aiohttp closes the connection and
# stops its read timeout, but does not tell the reader of that body. And the end of a chunk wakes
# the reader although there is nothing to read; a failure before it has run is lost, since `readany`
# checks for failures only before it waits for the first time. Either way the reader would wait
# until its own deadline, or for ever.
#
# Relied on: `ResponseHandler.set_exception` is called for every failure of a connection, and
# `_payload` is the body that is being read; `StreamReader._wait` ends whenever anything has come,
# or an end, and `_buffer` is what has come.


class Protocol(ResponseHandler):
    """Passes a parser failure on to the reader of the body."""

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        """End the connection, and the body that is not complete."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if payload is None or payload.is_eof() or payload.exception() is not None:
            return
        plain = isinstance(exc, aiohttp.ClientError | OSError)
        payload.set_exception(exc if plain else aiohttp.ClientPayloadError("no HTTP"))


async def next_bytes(content: aiohttp.StreamReader) -> bytes:
    """Wait for the next bytes of a body, none at its end; raise its failure after all that came is read."""
    while not content.at_eof():
        if content._buffer:  # noqa: SLF001 - as `readany` has it
            return content._read_nowait(-1)  # noqa: SLF001
        _raise_failure(content)
        await content._wait("next_bytes")  # noqa: SLF001
    _raise_failure(content)
    return b""


def _raise_failure(content: aiohttp.StreamReader) -> None:
    failure = content.exception()
    if failure is not None:
        raise failure


def protocol(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    """Make a `Protocol` for a connector."""
    return Protocol(loop)


# ---------------------------------------------------------------- response stream
# Relied on: `StreamReader.set_exception` wakes the reader, and `ClientResponse.close` closes the
# connection unless the body has been read to its end.


class AiohttpResponse:
    """The body of `response`, on the running loop. Silence counts only while we wait for the server.

    One timer checks it now and then; nothing is set or cancelled for each piece.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        head: HttpResponse,
        decoder: Decoder | None,
        idle_timeout: float | None,
        *,
        max_bytes: float | None = None,
    ) -> None:
        self.head = head
        self.pool: object = None  # kept alive: an unreferenced pool closes
        self._decoder = decoder
        self._chunks: Iterator[bytes] = iter(())  # unpacked, and not read yet
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._idle = inf if idle_timeout is None else idle_timeout
        self._waiting_since = inf
        self._silent = False
        self._closed = False
        self._size = 0
        self._max_bytes = BODY_LIMIT if max_bytes is None else max_bytes
        self._timer: asyncio.TimerHandle | None = None
        if idle_timeout is not None:
            self._check_at(self._loop.time() + idle_timeout)

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes: none at the end of the body, an outcome if it broke."""
        if self._closed:
            return self._failure() or broken_body(self.head.status)
        self._waiting_since = self._loop.time()
        try:
            chunk = await (
                next_bytes(self._content)
                if self._decoder is None
                else self._unpacked(self._decoder)
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.close()
            return self._failure() or outcome_of(error, self.head.status)
        except RuntimeError:  # the connections of the loop were closed
            self.close()
            return self._failure() or broken_body(self.head.status)
        except BaseException:
            self.close()
            raise
        self._waiting_since = inf
        self._size += len(chunk)
        if not chunk:
            self.close()
        elif self._size > self._max_bytes:
            self.close()
            return broken_body(self.head.status, f"larger than {int(self._max_bytes) >> 20} MiB")
        return chunk

    def limit_silence(self, seconds: float) -> None:
        """From now on wait at most `seconds` for the next bytes."""
        if seconds < self._idle and not self._closed:
            self._idle = seconds
            self._drop_timer()
            self._check_at(self._loop.time() + seconds)

    def close(self) -> None:
        """Close the connection, unless the body has been read to its end."""
        if not self._closed:
            self._closed = True
            self._drop_timer()
            if self._waiting_since != inf and self._content.exception() is None:
                # Else the reader gets a shared exception of aiohttp's, which would keep all its frames.
                self._content.set_exception(aiohttp.ClientConnectionError("closed"))
            _close(self._response, self._loop)

    def abandon(self) -> None:
        """Abandon the connection: it belongs to a parent process."""
        self._closed = True

    def __del__(self) -> None:
        if not self._closed:
            loop, response = self._loop, self._response
            try:
                loop.call_soon_threadsafe(_close_dropped, response, loop, self._timer)
            except RuntimeError:  # a loop that is closed
                _close(response, loop)

    def check_silence(self) -> None:
        """Close it if it has been silent for too long."""
        now = self._loop.time()
        due = self._waiting_since + self._idle
        if now < due:
            self._check_at(min(due, now + self._idle))
            return
        self._silent = True
        self.close()

    async def _unpacked(self, decoder: Decoder) -> bytes:
        while True:
            for chunk in self._chunks:
                return chunk
            packed = await next_bytes(self._content)
            if not packed:
                decoder.end()
                return b""
            self._chunks = decoder.feed(packed)

    def _check_at(self, when: float) -> None:
        # The timer must not keep the response alive.
        self._timer = self._loop.call_at(when, _check, ref(self))

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _failure(self) -> Outcome | None:
        return silent_body(self.head.status) if self._silent else None


def _check(held: "ref[AiohttpResponse]") -> None:
    stream = held()
    if stream is not None:
        stream.check_silence()


def _close_dropped(
    response: aiohttp.ClientResponse,
    loop: asyncio.AbstractEventLoop,
    timer: asyncio.TimerHandle | None,
) -> None:
    """Close, on the loop, what was dropped on any thread."""
    if timer is not None:
        timer.cancel()
    _close(response, loop)


def _close(response: aiohttp.ClientResponse, loop: asyncio.AbstractEventLoop) -> None:
    connection = response.connection
    response.close()
    if connection is not None and loop.is_closed():  # then aiohttp does not close it
        with suppress(RuntimeError):
            connection.close()


# ---------------------------------------------------------------- connection and pool

KEEP_ALIVE = 60.0  # seconds
_TIMEOUTS = 16  # that are remembered: nearly all attempts have the same
_ZERO = bytes(4)  # a C int
SMALL = 1024 * 1024  # bytes of a body that is written at once

_PARENTS: list[object] = []  # never collected, since that would close it


class _Pool(NamedTuple):
    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]
    streams: LiveSet[AiohttpResponse]


class AiohttpConnection:
    """At most `limit` connections per event loop; each pool is closed with its loop at the latest.

    `tls` holds the trusted certificates; it is needed for https only.
    """

    def __init__(
        self, *, limit: int, proxy: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._limit = limit
        self._proxy = proxy
        self._tls = tls
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        reset_in_child(self._abandon_parent)

    async def exchange(self, request: PreparedRequest) -> ExchangeResult:
        """Send once and read the whole response. Cancelling closes the connection."""
        response: aiohttp.ClientResponse | None = None
        pool = await self._pool()
        try:
            response = await self._post(pool.session, request, sock_read=request.idle_timeout)
            head = _head_of(response)
            came_whole = response.content.is_eof() and "content-encoding" not in head.headers
            if not (head.succeeded and came_whole):
                return await collect(self._open_stream(pool, response, head, request))
            body = response.content.read_nowait()  # it came with its head, as most bodies do
            response.release()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return outcome_of(error, response.status if response is not None else None)
        else:
            if len(body) > BODY_LIMIT:
                return broken_body(head.status, f"larger than {BODY_LIMIT >> 20} MiB")
            return head._replace(body=body)
        finally:
            if response is not None and not response.closed:
                response.close()

    async def open(self, request: PreparedRequest) -> AiohttpResponse | Outcome:
        """Send once, and wait for the head of the response. Cancelling closes the connection."""
        pool = await self._pool()
        try:
            response = await self._post(pool.session, request, sock_read=request.idle_timeout)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return outcome_of(error, None)
        return self._open_stream(pool, response, _head_of(response), request)

    @staticmethod
    def _open_stream(
        pool: _Pool, response: aiohttp.ClientResponse, head: HttpResponse, request: PreparedRequest
    ) -> AiohttpResponse:
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = (
                None  # a timer for each chunk; from here on ours is used
            )
        stream = AiohttpResponse(
            response, head, _decoder(head), request.idle_timeout, max_bytes=request.max_bytes
        )
        stream.pool = pool
        pool.streams.add(stream)
        return stream

    async def close(self) -> None:
        """Close the connections of the running loop and wake their readers, which aiohttp would not do."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            for stream in pool.streams:
                stream.close()
            await pool.closer.aclose()

    def _abandon_parent(self) -> None:
        """Neither use nor close a connection of the parent process: the selector of its loop is shared, too."""
        _PARENTS.append([(loop, pool, list(pool.streams)) for loop, pool in self._pools.items()])
        for pool in self._pools.values():
            for stream in pool.streams:
                stream.abandon()
        self._pools = WeakKeyDictionary()

    async def _post(
        self, session: aiohttp.ClientSession, request: PreparedRequest, *, sock_read: float | None
    ) -> aiohttp.ClientResponse:
        url, body = request.url, request.body
        response = await session.request(
            request.method,
            # One that has escapes stays as it is written: escaped again, its signature would be wrong.
            URL(url, encoded="%" in url and url.isascii() and " " not in url),
            data=BytesIO(body) if isinstance(body, bytes) and len(body) > SMALL else body,
            headers=request.headers,
            proxy=self._proxy,
            allow_redirects=False,
            timeout=_timeout(request.connect_timeout, sock_read),
        )
        writing = response._writer  # noqa: SLF001 - the task that sends a large body
        if writing is not None and not writing.done() and _head_of(response).succeeded:
            response.close()
            raise EarlyResponseError
        return response

    async def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.session.closed:
            for known in self._pools.keyrefs():  # other threads add theirs
                other = known()
                if other is not None and other.is_closed():
                    self._pools.pop(other, None)
            session = self._open()
            pool = self._pools[loop] = _Pool(session, _closing(session), LiveSet())
            await anext(pool.closer)
        return pool

    def _open(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=_Connector(
                limit=self._limit,
                keepalive_timeout=KEEP_ALIVE,
                ssl=True if self._tls is None else self._tls,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": ACCEPTED},
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),  # nothing implicit
            auto_decompress=False,  # it would not miss the end of a gzip body
        )
        session._retry_connection = False  # noqa: SLF001 - no attempt that policies do not see
        return session


@lru_cache(maxsize=_TIMEOUTS)
def _timeout(connect: float, read: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,
        sock_connect=connect,
        sock_read=read,
        ceil_threshold=CONNECT_TIMEOUT,  # exact up to there, not rounded to seconds
    )


def _head_of(response: aiohttp.ClientResponse) -> HttpResponse:
    came = response.headers
    headers = {name.lower(): value for name, value in came.items()}
    if len(headers) == len(came):
        return HttpResponse(response.status, headers, b"", time.time())
    return HttpResponse(response.status, headers, b"", time.time(), repeated_headers(came.items()))


def _decoder(head: HttpResponse) -> Decoder | None:
    encoding = head.headers.get("content-encoding")
    return None if encoding is None else decoder_of(encoding)


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Close `session` when this generator is closed; a loop that ends closes those that were begun on it."""
    try:
        yield
    finally:
        await session.close()


class _Connector(aiohttp.TCPConnector):
    """Does not reuse a connection on which unrequested bytes came: they would be the next answer."""

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

    async def _resolve_host(self, *args: Any, **options: Any) -> Any:
        try:
            return await super()._resolve_host(*args, **options)
        except RuntimeError:  # names are looked up on threads, and none can be started
            raise OSError(errno.EAGAIN, "no thread can be started") from None

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
    """Whether bytes have come that the loop has not read yet. Later ones look like an answer."""
    socket = None if protocol.transport is None else protocol.transport.get_extra_info("socket")
    if socket is None:
        return False
    try:
        return ioctl(socket.fileno(), FIONREAD, _ZERO) != _ZERO
    except OSError:  # it is closed
        return False
