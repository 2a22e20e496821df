"""Check a client's timeouts and connections: pool size, HTTP/2, connection retries, certificates, address and key."""

import ssl
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stormbreak.doctor.discovery import SDKS, ClientLayer, RequestPath, read
from stormbreak.doctor.findings import LONG, Finding, Severity
from stormbreak.doctor.retries import attempts_of
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of
from stormbreak.http.transports.sdk_request import KEY_HEADERS

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
        what = f"at most {maximum} connections"
        why = "Further calls wait for a connection, or fail with PoolTimeout before they are sent."
        instead = "a pool for your peak, or stormbreak's transport, which queues by priority"
    elif (own := _pool_of_sdk(path)) and maximum < own:
        severity = Severity.NOTE
        what = f"{maximum} connections; the SDK's own client has {own}"
        why = "Your own client has its own limits, and calls wait for connections in a peak."
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


_NO_KEY = "<missing API key>"  # openai's Azure clients without a key: they use tokens


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
            why="A key belongs to one origin. Without TLS, anyone on the network path can read it.",
            instead="https, a plain host, and the key in the variable or argument meant for it",
        )


def _key(layer: ClientLayer) -> str | None:
    """Return the key, if it is known; for a key made for each request, only a mark that there is one."""
    thing = layer.thing
    for name in ("api_key", "auth_token"):
        key: Any = read(thing, name)
        if isinstance(key, str) and key not in ("", _NO_KEY):
            return key
        if key:
            return "made-for-each-request"
    headers = getattr(thing, "headers", {})
    key = next((headers[name] for name in KEY_HEADERS if name in headers), None)
    return key.rpartition(" ")[2] or None if isinstance(key, str) else None


# Bounds on the time of a call: timeouts of SDKs and HTTP clients, deadlines of policies.

_PARTS = ("connect", "read", "write", "pool")
_MILLISECONDS = {"google": "_http_options", "mistralai": ""}
"""SDKs with timeouts in milliseconds, which they pass with each request, and the attribute that holds them."""


class Timeouts(NamedTuple):
    """Timeouts in seconds by part, and their path."""

    where: str
    by_part: Mapping[str, float | None]


def check_timeouts(path: RequestPath) -> Iterator[Finding]:
    found = _timeouts_of(path)
    if path.policy is not None:
        yield from _under_policy(path, found)
        return
    if found is None:
        return
    missing = [part for part, seconds in found.by_part.items() if seconds is None]
    if missing:
        yield Finding(
            Severity.WRONG if "read" in missing else Severity.RISK,
            "no-timeout",
            found.where,
            f"no timeout for {', '.join(missing)}",
            why="One server that goes silent blocks its callers forever, and no retry starts.",
            instead="timeout=60 (for the SDKs: seconds without a byte), or a stormbreak transport, whose policy has a deadline",
        )
    read = found.by_part["read"]
    if read is not None and read >= LONG:
        yield _long(path, found.where, read)


def _under_policy(path: RequestPath, found: Timeouts | None) -> Iterator[Finding]:
    policy = path.policy
    assert policy is not None
    read = None if found is None else found.by_part["read"]
    if any((policy.deadline, policy.attempt_timeout, policy.idle_timeout)) or read is not None:
        return
    yield Finding(
        Severity.WRONG,
        "no-timeout",
        f"{path.guard_path}.policy",
        "neither the policy (deadline, attempt_timeout, idle_timeout) nor a timeout bounds a call",
        why="One server that goes silent blocks its callers, and their slots in the limit, forever.",
        instead="a policy with a deadline or an attempt_timeout, such as the preset interactive",
    )


def _long(path: RequestPath, where: str, read: float) -> Finding:
    attempts = 1 if path.sdk is None else attempts_of(path.sdk) or 1
    total = f", {read * attempts:g} s over {attempts:g} attempts" if attempts > 1 else ""
    return Finding(
        Severity.RISK,
        "long-timeout",
        where,
        f"a silent server blocks a call for {read:g} s{total}; no deadline covers all attempts",
        why="Calls that hang fill threads and pools long before the first of them fails.",
        instead="timeout=60 if answers begin within a minute, or a policy: its deadline covers all attempts",
    )


def _timeouts_of(path: RequestPath) -> Timeouts | None:
    """Return the timeouts in force: an SDK passes its own with each request, over those of its HTTP client."""
    for layer in reversed(path.layers):
        for package, holder in _MILLISECONDS.items():
            if package in layer.packages and layer is not path.http:
                found = _in_milliseconds(layer, holder)
                if found is not None:
                    return found
    owner = path.sdk or path.http
    return None if owner is None else Timeouts(f"{owner.path}.timeout", _parts(owner.thing.timeout))


def _in_milliseconds(layer: ClientLayer, holder: str) -> Timeouts | None:
    name = "timeout" if holder else "timeout_ms"
    owner = getattr(layer.thing, holder, None) if holder else layer.thing
    if not hasattr(owner, name):
        return None
    value = getattr(owner, name)
    seconds = value / 1000 if isinstance(value, int | float) and value else None
    return Timeouts(".".join(filter(None, (layer.path, holder, name))), _parts(seconds))


def _parts(timeout: Any) -> Mapping[str, float | None]:
    """Split a number of seconds, None, or the timeout of an HTTP library into parts."""
    if timeout is None or isinstance(timeout, int | float):
        return dict.fromkeys(_PARTS, timeout)
    return {part: getattr(timeout, part, None) for part in _PARTS}
