"""The wire over aiohttp: one pool per event loop, every exception turned into an outcome.

aiohttp follows no redirect and repeats nothing here: its own second try on a dead connection is for
idempotent methods only, and is switched off besides.
"""

import asyncio
import time
from weakref import WeakKeyDictionary

import aiohttp

from stormbreak.http.wire import BODY_LIMIT, HttpRequest, Sink, WireResult
from stormbreak.llm.reading import HttpAnswer
from stormbreak.types import Outcome, Verdict

CONNECT_TIMEOUT = 10.0  # seconds


class AiohttpWire:
    """At most `limit` connections per event loop."""

    def __init__(self, *, limit: int, proxy: str | None = None) -> None:
        self._limit = limit
        self._proxy = proxy
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            WeakKeyDictionary()
        )

    async def exchange(self, request: HttpRequest) -> WireResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._session().post(
                request.url,
                data=request.body,
                headers=request.headers,
                proxy=self._proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT, sock_read=request.idle_timeout
                ),
            )
            headers = {name.lower(): value for name, value in response.headers.items()}
            head = HttpAnswer(response.status, headers, b"", time.time())
            body = await _read(response, request.open_sink and request.open_sink(head))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _outcome_of(error, response)
        else:
            if body is None:
                return Outcome(Verdict.BROKEN, detail="larger than 64 MiB", maybe_processed=True)
            return head._replace(body=body)
        finally:
            if response is not None and not response.closed:
                response.close()

    async def close(self) -> None:
        """Close the connections of the running loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=60.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
            session._retry_connection = False  # noqa: SLF001 - no attempt that policies do not see
            self._sessions[loop] = session
        return session


async def _read(response: aiohttp.ClientResponse, sink: Sink | None) -> bytes | None:
    """Read the body, or feed it to the sink; None where it is larger than it may be."""
    parts: list[bytes] = []
    take = sink or parts.append
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > BODY_LIMIT:
            return None
        take(chunk)
    response.release()
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _outcome_of(error: Exception, response: aiohttp.ClientResponse | None) -> Outcome:
    """Tell what a failed exchange means; `response` is None while no headers had come."""
    status = response.status if response is not None else None
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Outcome(Verdict.CONNECT_FAILED, error=error, detail=_connect_detail(error))
    if isinstance(error, asyncio.TimeoutError):
        return Outcome(
            Verdict.TIMEOUT, error=error, status=status, detail="went silent", maybe_processed=True
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        return Outcome(
            Verdict.BROKEN, error=error, status=status, detail="body was cut", maybe_processed=True
        )
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        verdict = Verdict.RESET if response is None else Verdict.BROKEN
        detail = "connection lost" if response is None else "body was cut"
        return Outcome(verdict, error=error, status=status, detail=detail, maybe_processed=True)
    # What is left is not HTTP. The exception is not kept: it can hold the headers of the request.
    return Outcome(Verdict.BROKEN, status=status, detail="not HTTP", maybe_processed=True)


def _connect_detail(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "certificate or TLS refused"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "host not found"
    return "connection timed out" if isinstance(error, TimeoutError) else "connection refused"
