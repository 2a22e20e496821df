"""Examine a client object of the user: every layer between a call and the provider."""

import gc
from collections.abc import Callable, Iterator

from stormbreak.core.presets import is_off
from stormbreak.doctor.connection_checks import check_address, check_pool, check_timeouts
from stormbreak.doctor.discovery import RequestPath, class_name, find_paths, leaves, read
from stormbreak.doctor.findings import Finding, Severity, sorted_by_severity
from stormbreak.doctor.retries import check_retries, retrier
from stormbreak.errors import ConfigurationError
from stormbreak.http.policy_in_force import is_disabled

MAX_CLIENTS = 16  # open clients of one class; one per host and event loop is enough


def examine(client: object, *, name: str = "client") -> list[Finding]:
    """Report problems of `client`, the worst first; `name` is the start of every path.

    `client` is a client of openai, anthropic, httpx2, httpx or stormbreak; a model or client of a framework over those;
    a method of one; or a function or object that uses one. Nothing is sent, and nothing is changed.

    Raises:
        ConfigurationError: it contains no known client.
    """
    paths = find_paths(client, name)
    if not paths:
        raise ConfigurationError(
            f"no client of a known SDK or HTTP library found in {class_name(client)}"
        )
    return sorted_by_severity(_examined(paths))


def _examined(paths: list[RequestPath]) -> Iterator[Finding]:
    guarded = {id(path.http.thing) for path in paths if path.http and path.transport}
    for path in paths:
        if path.http and not path.transport and id(path.http.thing) in guarded:
            yield _bypassed(path)
            checks = CHECKS_OF_EVERY_PATH
        else:
            checks = CHECKS_OF_POLICY + CHECKS_OF_EVERY_PATH
        for check in checks:
            yield from check(path)


def _bypassed(path: RequestPath) -> Finding:
    """Report where a path leaves the client that has a transport of ours on another path."""
    assert path.http is not None
    return Finding(
        Severity.WRONG,
        "bypassed-transport",
        path.layers[path.layers.index(path.http) + 1].path,
        "a proxy or mount of the client bypasses its stormbreak transport",
        why="Its requests are not limited, counted or stopped by a circuit.",
        instead="AsyncTransport(proxy=...) instead of the client's proxy, or wrap() for a client without a transport",
    )


def check_transport(path: RequestPath) -> Iterator[Finding]:
    """Check that the policy is on and the transport fits its client."""
    if path.policy is not None and is_off(path.policy):
        disabled = is_disabled()
        yield Finding(
            Severity.WRONG,
            "policy-off",
            f"{path.guard_path}.policy",
            "every policy is off" + (": STORMBREAK_DISABLED is set" if disabled else ""),
            why="Each call is sent once, without limits, circuits or retries.",
            instead="unset STORMBREAK_DISABLED"
            if disabled
            else "the preset interactive, or your own policy",
        )
    if path.http is None:
        return
    if getattr(path.http.thing, "is_closed", False):
        yield Finding(
            Severity.WRONG,
            "closed",
            path.http.path,
            "the HTTP client is closed",
            why="Every request through it fails.",
            instead="one client for the life of the process, closed at its end",
        )
    if path.transport is not None:
        yield from _misplaced(path)


def _misplaced(path: RequestPath) -> Iterator[Finding]:
    assert path.http is not None
    assert path.transport is not None
    transport, http = path.transport.thing, path.http
    blocking = not hasattr(http.thing, "aclose")
    fits = transport.library.name in http.packages
    if not fits or blocking != (transport.sends == "handle_request"):
        kind = "Transport" if blocking else "AsyncTransport"
        yield Finding(
            Severity.WRONG,
            "wrong-transport",
            path.transport.path,
            f"a {type(transport).__name__} of stormbreak.{transport.library.name} does not fit this client",
            why="The first call fails: httpx2 and httpx, sync and async clients have unrelated transport classes.",
            instead=f"stormbreak.{path.library}.{kind}",
        )
    trusts = getattr(http.thing, "trust_env", True)
    if transport.inner is None and transport.trust_env and not trusts:
        yield Finding(
            Severity.RISK,
            "trust-env",
            f"{http.path}.trust_env",
            "the client does not trust the environment, but its stormbreak transport does",
            why="The transport connects with its own settings, and uses proxies and certificates of the environment.",
            instead="AsyncTransport(trust_env=False), or Transport(trust_env=False)",
        )


def check_reach(path: RequestPath) -> Iterator[Finding]:
    """Check that the HTTP client could be found."""
    if not leaves(path.layers):
        last = path.layers[-1]
        yield Finding(
            Severity.NOTE,
            "not-reached",
            last.path,
            f"the HTTP client of {retrier(last)} cannot be reached from here",
            why="It is created at the first call, for each call, or elsewhere. Only its settings were examined.",
            instead="examine the HTTP client or the SDK client that you pass to it",
        )


def check_reuse(path: RequestPath) -> Iterator[Finding]:
    """Check that clients are reused. Clients made for each call stay open until they are collected."""
    for layer in path.layers:
        if read(layer.thing, "reuse_client") is False:
            yield _per_call(f"{layer.path}.reuse_client", "a client is created for each call")
    if path.http is None:
        return
    kind = type(path.http.thing)
    alive = sum(
        type(each) is kind and read(each, "is_closed") is False for each in gc.get_objects()
    )
    if alive > MAX_CLIENTS:
        what = f"this process has {alive} open clients of {class_name(path.http.thing)}"
        yield _per_call(path.http.path, what)


def _per_call(where: str, what: str) -> Finding:
    return Finding(
        Severity.RISK,
        "many-clients",
        where,
        what,
        why="A client per call opens a new connection each time, and no engine sees what the others send.",
        instead="one client per process, shared",
    )


Check = Callable[[RequestPath], Iterator[Finding]]

CHECKS_OF_POLICY: tuple[Check, ...] = (check_transport, check_retries)
CHECKS_OF_EVERY_PATH: tuple[Check, ...] = (
    check_timeouts,
    check_pool,
    check_address,
    check_reach,
    check_reuse,
)
