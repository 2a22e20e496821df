"""Everything stormbreak does, under whatever uses httpx2: the openai and anthropic SDKs, and httpx2 itself.

::

    client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(transport=AsyncTransport()))

See docs/sdks.md.
"""

from typing import TypeVar

import httpx2

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.http.at_hand import Degraded
from stormbreak.http.doors.blocking import BlockingDoor
from stormbreak.http.doors.bodies import OnLoop, OnThread, PassedBody, StreamBody
from stormbreak.http.doors.inner_body import InnerBody
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.story import explain
from stormbreak.http.doors.transport import AsyncDoor
from stormbreak.http.doors.whole import WholeBody
from stormbreak.http.doors.wrapping import put_under

__all__ = ["AsyncTransport", "Transport", "explain", "wrap"]

_Client = TypeVar("_Client")


class _WholeResponse(WholeBody, httpx2.Response):
    pass


class _AsyncStreamBody(StreamBody, OnLoop, httpx2.AsyncByteStream):
    pass


class _AsyncPassedBody(PassedBody, OnLoop, httpx2.AsyncByteStream):
    pass


class _StreamBody(StreamBody, OnThread, httpx2.SyncByteStream):
    pass


class _PassedBody(PassedBody, OnThread, httpx2.SyncByteStream):
    pass


class _InnerBody(InnerBody, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    pass


class AsyncTransport(AsyncDoor, httpx2.AsyncBaseTransport):
    """For `httpx2.AsyncClient(transport=...)`, and so under openai.AsyncOpenAI and its like; `__init__` tells its arguments."""

    library = Library(httpx2, _WholeResponse, _InnerBody)
    stream_body = _AsyncStreamBody
    passed_body = _AsyncPassedBody


class Transport(BlockingDoor, httpx2.BaseTransport):
    """For `httpx2.Client(transport=...)`, and so under openai.OpenAI and its like; `__init__` tells its arguments."""

    library = Library(httpx2, _WholeResponse, _InnerBody)
    stream_body = _StreamBody
    passed_body = _PassedBody


def wrap(
    client: _Client,
    policy: Policy | str | Engine = "interactive",
    *,
    stream_on_wire: bool = False,
    degraded: Degraded | None = None,
    allow_http: bool = False,
) -> _Client:
    """Put everything under a client that there is: one of httpx2, or of an SDK that has one. The very client is returned.

    All it is set to stays in force: what it sends goes through its own transports and proxies (http2 is their affair),
    each of which is `inner` to one of ours. The other arguments are those of the transports.

    Raises:
        ConfigurationError: it cannot be wrapped, or is already.
    """
    doors = {httpx2.AsyncClient: AsyncTransport, httpx2.Client: Transport}
    put_under(
        client,
        doors,
        policy,
        stream_on_wire=stream_on_wire,
        degraded=degraded,
        allow_http=allow_http,
    )
    return client
