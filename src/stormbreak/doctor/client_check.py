"""Examines a client of the user's: what stands between a call and the provider."""

import gc
from collections.abc import Iterator

from stormbreak.doctor.connection_checks import addresses, pools
from stormbreak.doctor.discovery import arrives, chains, named, read
from stormbreak.doctor.findings import Finding, Severity, sorted_by_severity
from stormbreak.doctor.request_path import RequestPath
from stormbreak.doctor.retry_counts import retrier
from stormbreak.doctor.stacked_retries import stacks
from stormbreak.doctor.timeouts import spans
from stormbreak.doctor.transports import bypasses, doorways, is_bypassed
from stormbreak.errors import ConfigurationError

MANY = 16  # open clients of one class; one per host and loop would be plenty


def examine(client: object, *, name: str = "client") -> list[Finding]:
    """Name what is wrong with `client`, the worst first; `name` is what paths begin with.

    It may be a client of openai or anthropic, of httpx2 or httpx, one of stormbreak's; a model or client of a
    framework over those; a method of one; a function or an object that uses one. Nothing is sent, and nothing is changed.

    Raises:
        ConfigurationError: no client can be found in it.
    """
    ways = [RequestPath(chain) for chain in chains(client, name)]
    if not ways:
        raise ConfigurationError(
            f"no client of an SDK or an HTTP library is known to be in a {named(client)}"
        )
    return sorted_by_severity(_examined(ways))


def _examined(ways: list[RequestPath]) -> Iterator[Finding]:
    astray = bypasses(ways)
    for way in ways:
        first = (is_bypassed,) if way in astray else (doorways, stacks)
        for rule in (*first, spans, pools, addresses):
            yield from rule(way)
        yield from _lost(way)
        yield from _crowd(way)


def _lost(way: RequestPath) -> Iterator[Finding]:
    if not arrives(way.chain):
        yield Finding(
            severity=Severity.NOTE,
            name="not-reached",
            where=way.chain[-1].path,
            what=f"the HTTP client of {retrier(way.chain[-1])} cannot be reached from here",
            why="It is made at the first call, for each call, or elsewhere, so only its settings could be looked at.",
            instead="examine the HTTP client or the SDK client that you give it",
        )


def _crowd(way: RequestPath) -> Iterator[Finding]:
    """Clients that are made for each call stay open until they are collected, each with a pool of its own."""
    for layer in way.chain:
        if read(layer.thing, "reuse_client") is False:
            yield _per_call(f"{layer.path}.reuse_client", "a client is made for each call")
    if way.http is None:
        return
    kind = type(way.http.thing)
    alive = sum(
        type(each) is kind and read(each, "is_closed") is False for each in gc.get_objects()
    )
    if alive > MANY:
        what = f"{alive} open clients of {named(way.http.thing)} are in this process"
        yield _per_call(way.http.path, what)


def _per_call(where: str, what: str) -> Finding:
    return Finding(
        severity=Severity.RISK,
        name="many-clients",
        where=where,
        what=what,
        why="A client made for each call connects anew each time, and no engine sees what the others send.",
        instead="one client per process, shared",
    )
