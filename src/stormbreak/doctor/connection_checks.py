"""Check a client's connections: pool size, HTTP/2, connection retries, certificates, address and key."""

import ssl
import sys
from collections.abc import Iterator
from typing import Any

from stormbreak.doctor.discovery import SDKS, ClientLayer, RequestPath, read
from stormbreak.doctor.findings import Finding, Severity
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of

DEFAULT_POOL = 100  # connections of httpx2 and httpx by default


def check_pool(path: RequestPath) -> Iterator[Finding]:
    """Check the connection pool, unless it is ours."""
    if path.pool is None:
        return
    where, pool = path.pool
    yield from _pool_size(path, where, pool)
    if getattr(pool, "_http2", False):
        yield Finding(
            Severity.NOTE,
            "http2",
            where,
            "HTTP/2 is on: many calls share one connection",
            why="When that connection breaks, all calls on it fail at once.",
            instead="leave it, or http2=False: the APIs answer HTTP/1.1 as fast",
        )
    retries = getattr(pool, "_retries", 0)
    if retries:
        yield Finding(
            Severity.RISK,
            "connection-retries",
            where,
            f"the transport retries a failed connection {retries} times",
            why="This multiplies with every other layer that retries, and no policy sees those attempts.",
            instead="HTTPTransport(retries=0)",
        )
    context = getattr(pool, "_ssl_context", None)
    if isinstance(context, ssl.SSLContext) and context.verify_mode is ssl.CERT_NONE:
        yield Finding(
            Severity.WRONG,
            "unverified-certificates",
            where,
            "certificates are not verified",
            why="Keys and prompts go to any server that answers.",
            instead="verify=True, or an ssl.SSLContext with the certificate authority that you trust",
        )


def _pool_size(path: RequestPath, where: str, pool: Any) -> Iterator[Finding]:
    maximum = getattr(pool, "_max_connections", None)
    if not isinstance(maximum, int):
        return
    severity = Severity.RISK
    if path.policy is not None:
        ceiling = path.policy.limit.max_in_flight
        if not maximum < ceiling < sys.maxsize:
            return
        what = f"{maximum} connections under a policy that allows {ceiling} attempts in flight"
        why = (
            "Attempts that wait for a connection bypass the queue, its priorities and its patience."
        )
        instead = f"limits=Limits(max_connections={ceiling}), or no inner transport"
    elif maximum < DEFAULT_POOL:
        what = f"{maximum} connections at most"
        why = "Further calls wait for a connection, or fail with PoolTimeout before they are sent."
        instead = "a pool for your peak, or stormbreak's transport, which queues by priority"
    elif (own := _pool_of_sdk(path)) and maximum < own:
        severity = Severity.NOTE
        what = f"{maximum} connections; the SDK's own client has {own}"
        why = "A client of your own has its own limits, and a peak waits for connections."
        instead = "the SDK's DefaultHttpxClient or DefaultAsyncHttpxClient, which keep its limits"
    else:
        return
    yield Finding(severity, "small-pool", where, what, why=why, instead=instead)


def _pool_of_sdk(path: RequestPath) -> int | None:
    """The connections of the SDK's own client. The SDK is imported, since its client is here."""
    for package in path.sdk.packages & SDKS if path.sdk is not None else ():
        constants = sys.modules.get(f"{package}._constants")
        limits = getattr(constants, "DEFAULT_CONNECTION_LIMITS", None)
        maximum = getattr(limits, "max_connections", None)
        if isinstance(maximum, int):
            return maximum
    return None


# ---------------------------------------------------------------- addresses and keys

_NO_KEY = "<missing API key>"  # openai's Azure clients without a key: they use tokens
_KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


def check_address(path: RequestPath) -> Iterator[Finding]:
    """Check the address and the key of the SDK, or of the HTTP client if there is none."""
    layer = path.sdk or path.http
    if layer is None:
        return
    base_url = str(read(layer.thing, "base_url") or "")
    if not base_url.strip("/"):
        return  # each request of an HTTP client may have its own
    try:
        origin_of(base_url, _key(layer))
    except ConfigurationError as error:  # its message has neither key nor password
        yield Finding(
            Severity.WRONG,
            "bad-address",
            f"{layer.path}.base_url",
            str(error),
            why="A key belongs to one origin. Without TLS, everybody on the network path can read it.",
            instead="https, a plain host, and the key in the variable or argument meant for it",
        )


def _key(layer: ClientLayer) -> str | None:
    """Return the key, if it is known; of one made for each request, only that there is one."""
    thing = layer.thing
    for name in ("api_key", "auth_token"):
        key: Any = read(thing, name)
        if isinstance(key, str) and key not in ("", _NO_KEY):
            return key
        if key:
            return "made-for-each-request"
    headers = getattr(thing, "headers", {})
    key = next((headers[name] for name in _KEY_HEADERS if name in headers), None)
    return key.rpartition(" ")[2] or None if isinstance(key, str) else None
