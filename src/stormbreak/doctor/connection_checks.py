"""Check a client's connections: pool size, HTTP/2, connection retries, trusted certificates, addresses, keys."""

import ssl
import sys
from collections.abc import Iterator
from typing import Any

from stormbreak.doctor.discovery import ClientLayer, read
from stormbreak.doctor.findings import Finding, Severity
from stormbreak.doctor.request_path import RequestPath
from stormbreak.doctor.retry_counts import SDKS
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of

FEW = 100  # connections; what httpx2 and httpx have by themselves


def pools(way: RequestPath) -> Iterator[Finding]:
    """What is odd about the pool that requests leave by, if it is not ours."""
    if way.pool is None:
        return
    path, pool = way.pool
    yield from _size(way, path, pool)
    if getattr(pool, "_http2", False):
        yield Finding(
            severity=Severity.NOTE,
            name="http2",
            where=path,
            what="HTTP/2 is spoken: many calls share one connection",
            why="When that connection is lost, every call on it fails in the same instant.",
            instead="leave it, or http2=False: the APIs answer HTTP/1.1 as fast",
        )
    retries = getattr(pool, "_retries", 0)
    if retries:
        yield Finding(
            severity=Severity.RISK,
            name="connection-retries",
            where=path,
            what=f"the transport tries to connect {retries} more times by itself",
            why="It multiplies with every other layer that retries, and no policy sees those attempts.",
            instead="HTTPTransport(retries=0)",
        )
    context = getattr(pool, "_ssl_context", None)
    if isinstance(context, ssl.SSLContext) and context.verify_mode is ssl.CERT_NONE:
        yield Finding(
            severity=Severity.WRONG,
            name="trusts-anybody",
            where=path,
            what="certificates are not verified",
            why="Keys and prompts go to whoever answers.",
            instead="verify=True, or an ssl.SSLContext that trusts the authority you mean",
        )


def _size(way: RequestPath, path: str, pool: Any) -> Iterator[Finding]:
    most = getattr(pool, "_max_connections", None)
    if not isinstance(most, int):
        return
    policy = way.policy
    if policy is not None:
        ceiling = policy.limit.max_in_flight
        if most < ceiling < sys.maxsize:
            yield _small(
                path,
                f"{most} connections under a policy that lets up to {ceiling} attempts out",
                "What waits for a connection is waited for past the queue, its priorities and its patience.",
                f"limits=Limits(max_connections={ceiling}), or no inner transport",
            )
    elif most < FEW:
        yield _small(
            path,
            f"{most} connections at a time",
            "Whatever is beyond that waits for a connection, or fails with PoolTimeout, before it is sent.",
            "a pool as large as your peak, or stormbreak's transport, which queues in order of priority",
        )
    elif (own := _of_sdk(way)) and most < own:
        yield Finding(
            severity=Severity.NOTE,
            name="small-pool",
            where=path,
            what=f"{most} connections, where the SDK's own client has {own}",
            why="A client of your own brings its own limits, and a peak waits for connections.",
            instead="the SDK's DefaultHttpxClient or DefaultAsyncHttpxClient, which keep its limits",
        )


def _small(where: str, what: str, why: str, instead: str) -> Finding:
    return Finding(
        severity=Severity.RISK, name="small-pool", where=where, what=what, why=why, instead=instead
    )


def _of_sdk(way: RequestPath) -> int | None:
    """How many connections the SDK's own client has; it is imported, since its client is here."""
    if way.sdk is None:
        return None
    for package in way.sdk.packages & SDKS:
        constants = sys.modules.get(f"{package}._constants")
        limits = getattr(constants, "DEFAULT_CONNECTION_LIMITS", None)
        most = getattr(limits, "max_connections", None)
        if isinstance(most, int):
            return most
    return None


# ---------------------------------------------------------------- addresses and keys

_NO_KEY = "<missing API key>"  # so openai's clients of Azure say that they have another credential
_KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


def addresses(way: RequestPath) -> Iterator[Finding]:
    """What is wrong with the address and the key of the SDK, or of the HTTP client where there is none."""
    layer = way.sdk or way.http
    if layer is None:
        return
    base_url = str(read(layer.thing, "base_url") or "")
    if not base_url.strip("/"):
        return  # each request of an HTTP client may name its own
    try:
        origin_of(base_url, _key(layer))
    except ConfigurationError as error:  # which repeats neither key nor password
        yield Finding(
            severity=Severity.WRONG,
            name="bad-address",
            where=f"{layer.path}.base_url",
            what=str(error),
            why="A key belongs to one origin, and is read by everybody on the way where it travels in the clear.",
            instead="https, with a plain host and the key in the variable or argument meant for it",
        )


def _key(layer: ClientLayer) -> str | None:
    """The key that goes along, if it can be told; of one that is made for each request, only that there is one."""
    thing = layer.thing
    for name in ("api_key", "auth_token"):
        said: Any = read(thing, name)
        if said == _NO_KEY:
            said = True  # tokens are asked for instead
        if isinstance(said, str) and said:
            return said
        if said:
            return "made-for-each-request"
    headers = getattr(thing, "headers", {})
    said = next((headers[name] for name in _KEY_HEADERS if name in headers), None)
    return said.rpartition(" ")[2] or None if isinstance(said, str) else None
