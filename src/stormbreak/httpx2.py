"""Everything stormbreak does, under whatever uses httpx2: the openai and anthropic SDKs, and httpx2 itself.

::

    client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(transport=AsyncTransport()))

See docs/sdks.md.
"""

import httpx2

from stormbreak.http.doors.bodies import PassedBody, StreamBody
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.story import explain
from stormbreak.http.doors.transport import AsyncDoor

__all__ = ["AsyncTransport", "explain"]


class _StreamBody(StreamBody, httpx2.AsyncByteStream):
    pass


class _PassedBody(PassedBody, httpx2.AsyncByteStream):
    pass


class AsyncTransport(AsyncDoor, httpx2.AsyncBaseTransport):
    """An asynchronous transport for httpx2; `AsyncDoor` tells its arguments."""

    library = Library(httpx2)
    stream_body = _StreamBody
    passed_body = _PassedBody
