"""Our own wire to an origin: with the proxy and the certificates that the environment names."""

from stormbreak.http.endpoint import Origin
from stormbreak.http.environment import proxy_for, tls_context
from stormbreak.http.h1.connection import POOL_LIMIT, Wire


def connect(most: int, origin: Origin) -> Wire:
    """Make a wire of at most so many connections, but never of more than `POOL_LIMIT`."""
    from stormbreak.http.h1.aiohttp_connection import AiohttpConnection  # noqa: PLC0415 - aiohttp only when needed

    return AiohttpConnection(
        limit=min(most, POOL_LIMIT),
        proxy=proxy_for(origin),
        tls=tls_context() if origin.base_url.startswith("https:") else None,
    )
