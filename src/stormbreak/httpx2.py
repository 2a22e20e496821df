"""Everything stormbreak does, under whatever uses httpx2: the openai and anthropic SDKs, and httpx2 itself.

::

    client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(transport=AsyncTransport()))

See docs/sdks.md.
"""

import httpx2

from stormbreak.http.doors.blocking import BlockingDoor
from stormbreak.http.doors.bodies import OnLoop, OnThread, PassedBody, StreamBody
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.story import explain
from stormbreak.http.doors.transport import AsyncDoor

__all__ = ["AsyncTransport", "Transport", "explain"]


class _AsyncStreamBody(StreamBody, OnLoop, httpx2.AsyncByteStream):
    pass


class _AsyncPassedBody(PassedBody, OnLoop, httpx2.AsyncByteStream):
    pass


class _StreamBody(StreamBody, OnThread, httpx2.SyncByteStream):
    pass


class _PassedBody(PassedBody, OnThread, httpx2.SyncByteStream):
    pass


class AsyncTransport(AsyncDoor, httpx2.AsyncBaseTransport):
    """An asynchronous transport for httpx2; `Door` tells its arguments."""

    library = Library(httpx2)
    stream_body = _AsyncStreamBody
    passed_body = _AsyncPassedBody


class Transport(BlockingDoor, httpx2.BaseTransport):
    """A synchronous transport for httpx2; `Door` tells its arguments."""

    library = Library(httpx2)
    stream_body = _StreamBody
    passed_body = _PassedBody
