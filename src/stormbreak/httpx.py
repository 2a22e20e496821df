"""Transports for clients of httpx, as `stormbreak.httpx2` has them for httpx2.

See docs/sdks.md.
"""

from typing import TypeVar

import httpx

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.drivers.explain import explain
from stormbreak.http.local_answers import Degraded
from stormbreak.http.transports.library import BufferedBody, Library
from stormbreak.http.transports.sdk_transport import AsyncSdkTransport
from stormbreak.http.transports.sync_transport import SyncSdkTransport
from stormbreak.http.transports.wrap import put_under

__all__ = ["AsyncTransport", "Transport", "explain", "wrap"]

_Client = TypeVar("_Client")


class _BufferedResponse(BufferedBody, httpx.Response):
    """A class of a module, so that a response can be pickled."""


_LIBRARY = Library(httpx, _BufferedResponse)


class AsyncTransport(AsyncSdkTransport, httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`, and so under openai.AsyncOpenAI and its like."""

    library = _LIBRARY


class Transport(SyncSdkTransport, httpx.BaseTransport):
    """For `httpx.Client(transport=...)`, and so under openai.OpenAI and its like."""

    library = _LIBRARY


def wrap(
    client: _Client,
    policy: Policy | str | Engine = "interactive",
    *,
    stream_on_wire: bool = False,
    degraded: Degraded | None = None,
    allow_http: bool = False,
) -> _Client:
    """Put our transports under an existing client of httpx, or of an SDK that has one; return that client.

    Its settings stay in force: it sends through its own transports and proxies (with http2, if they have it), each of
    which is `inner` to one of ours. The other arguments are those of the transports.

    Raises:
        ConfigurationError: it cannot be wrapped, or is already.
    """
    kinds = {httpx.AsyncClient: AsyncTransport, httpx.Client: Transport}
    put_under(
        client,
        kinds,
        policy,
        stream_on_wire=stream_on_wire,
        degraded=degraded,
        allow_http=allow_http,
    )
    return client
