"""Everything stormbreak does, under whatever uses httpx: `stormbreak.httpx2` for its older sister.

See docs/sdks.md.
"""

import httpx

from stormbreak.http.doors.bodies import PassedBody, StreamBody
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.story import explain
from stormbreak.http.doors.transport import AsyncDoor

__all__ = ["AsyncTransport", "explain"]


class _StreamBody(StreamBody, httpx.AsyncByteStream):
    pass


class _PassedBody(PassedBody, httpx.AsyncByteStream):
    pass


class AsyncTransport(AsyncDoor, httpx.AsyncBaseTransport):
    """An asynchronous transport for httpx; `AsyncDoor` tells its arguments."""

    library = Library(httpx)
    stream_body = _StreamBody
    passed_body = _PassedBody
