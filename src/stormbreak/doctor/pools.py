"""The pool of connections of an HTTP library: its size, HTTP/2, connection retries, and whom it trusts."""

import ssl
import sys
from collections.abc import Iterator
from typing import Any

from stormbreak.doctor.attempts import SDKS
from stormbreak.doctor.findings import Finding, Severity
from stormbreak.doctor.way import RequestPath

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
        ceiling = policy.limit.ceiling
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
