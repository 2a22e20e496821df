"""Transports for clients of httpx, as `stormbreak.httpx2` has them for httpx2.

See docs/sdks.md.
"""

import httpx

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.drivers.explain import explain
from stormbreak.http.local_answers import Degraded
from stormbreak.http.transports.httpx_classes import BufferedBody, Library
from stormbreak.http.transports.sdk_transport import AsyncSdkTransport
from stormbreak.http.transports.sync_transport import SyncSdkTransport
from stormbreak.http.transports.wrap import Client, put_under

__all__ = ["AsyncTransport", "Transport", "explain", "wrap"]


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
    client: Client,
    policy: Policy | str | Engine = "interactive",
    *,
    stream_on_wire: bool = False,
    degraded: Degraded | None = None,
    allow_http: bool = False,
) -> Client:
    """Put our transports under an existing client of httpx, as `stormbreak.httpx2.wrap` does; return that client."""
    kinds = {httpx.AsyncClient: AsyncTransport, httpx.Client: Transport}
    given = {"stream_on_wire": stream_on_wire, "degraded": degraded, "allow_http": allow_http}
    return put_under(client, kinds, policy, **given)
