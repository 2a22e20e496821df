"""Transports for clients of httpx2: the openai and anthropic SDKs, and httpx2 itself.

::

    client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(transport=AsyncTransport()))

See docs/sdks.md.
"""

import httpx2

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.drivers.explain import explain
from stormbreak.http.local_answers import Degraded
from stormbreak.http.transports.httpx_classes import BufferedBody, Library
from stormbreak.http.transports.sdk_transport import AsyncSdkTransport
from stormbreak.http.transports.sync_transport import SyncSdkTransport
from stormbreak.http.transports.wrap import Client, put_under

__all__ = ["AsyncTransport", "Transport", "explain", "wrap"]


class _BufferedResponse(BufferedBody, httpx2.Response):
    """A class of a module, so that a response can be pickled."""


_LIBRARY = Library(httpx2, _BufferedResponse)


class AsyncTransport(AsyncSdkTransport, httpx2.AsyncBaseTransport):
    """For `httpx2.AsyncClient(transport=...)`, and so under openai.AsyncOpenAI and its like."""

    library = _LIBRARY


class Transport(SyncSdkTransport, httpx2.BaseTransport):
    """For `httpx2.Client(transport=...)`, and so under openai.OpenAI and its like."""

    library = _LIBRARY


def wrap(
    client: Client,
    policy: Policy | str | Engine = "interactive",
    *,
    stream_on_wire: bool = False,
    degraded: Degraded | None = None,
    allow_http: bool = False,
) -> Client:
    """Put our transports under an existing client of httpx2, or of an SDK that has one; return that client.

    Its settings stay in force: it sends through its own transports and proxies (with http2, if they have it), each
    wrapped as the `inner` of one of ours. The other arguments are those of the transports.

    Raises:
        ConfigurationError: it cannot be wrapped, or is already.
    """
    kinds = {httpx2.AsyncClient: AsyncTransport, httpx2.Client: Transport}
    given = {"stream_on_wire": stream_on_wire, "degraded": degraded, "allow_http": allow_http}
    return put_under(client, kinds, policy, **given)
