"""Everything stormbreak does, under whatever uses httpx: `stormbreak.httpx2` for its older sister.

See docs/sdks.md.
"""

import httpx

from stormbreak.http.doors.blocking import BlockingDoor
from stormbreak.http.doors.bodies import OnLoop, OnThread, PassedBody, StreamBody
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.story import explain
from stormbreak.http.doors.transport import AsyncDoor

__all__ = ["AsyncTransport", "Transport", "explain"]


class _AsyncStreamBody(StreamBody, OnLoop, httpx.AsyncByteStream):
    pass


class _AsyncPassedBody(PassedBody, OnLoop, httpx.AsyncByteStream):
    pass


class _StreamBody(StreamBody, OnThread, httpx.SyncByteStream):
    pass


class _PassedBody(PassedBody, OnThread, httpx.SyncByteStream):
    pass


class AsyncTransport(AsyncDoor, httpx.AsyncBaseTransport):
    """An asynchronous transport for httpx; `Door` tells its arguments."""

    library = Library(httpx)
    stream_body = _AsyncStreamBody
    passed_body = _AsyncPassedBody


class Transport(BlockingDoor, httpx.BaseTransport):
    """A synchronous transport for httpx; `Door` tells its arguments."""

    library = Library(httpx)
    stream_body = _StreamBody
    passed_body = _PassedBody
