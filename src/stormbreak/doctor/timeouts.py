"""What bounds the time of a call: the timeouts of SDKs and HTTP clients, and the deadlines of policies."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stormbreak.doctor.discovery import ClientLayer
from stormbreak.doctor.findings import LONG, Finding, Severity
from stormbreak.doctor.request_path import RequestPath
from stormbreak.doctor.retry_counts import attempts_of

_PARTS = ("connect", "read", "write", "pool")
_MILLISECONDS = {"google": "_http_options", "mistralai": ""}
"""Where those keep theirs that count in milliseconds, and pass it with each request."""


class Spans(NamedTuple):
    """Timeouts in seconds by part, and where they stand."""

    where: str
    by_part: Mapping[str, float | None]


def spans(way: RequestPath) -> Iterator[Finding]:
    """What may wait for ever, or for so long that it comes to the same."""
    if way.policy is not None:
        yield from _under(way)
        return
    said = _said(way)
    if said is None:
        return
    silent = [part for part, span in said.by_part.items() if span is None]
    if silent:
        severity = Severity.WRONG if "read" in silent else Severity.RISK
        yield _missing(said.where, silent, severity)
    read = said.by_part["read"]
    if read is not None and read >= LONG:
        yield _long(way, said.where, read)


def _under(way: RequestPath) -> Iterator[Finding]:
    """Under a policy its deadline bounds the call, or its timeout each attempt."""
    policy = way.policy
    assert policy is not None
    bounds = (policy.deadline, policy.attempt_timeout, policy.idle_timeout)
    said = _said(way)
    read = None if said is None else said.by_part["read"]
    if any(bounds) or read is not None:
        return
    layer = way.door or way.ours
    assert layer is not None
    yield Finding(
        severity=Severity.WRONG,
        name="no-timeout",
        where=f"{layer.path}.policy",
        what="neither the policy (deadline, attempt_timeout, idle_timeout) nor a timeout bounds a call",
        why="One server that goes silent holds its callers, and their places in the limit, for ever.",
        instead="a policy with a deadline or an attempt_timeout, such as the preset interactive",
    )


def _said(way: RequestPath) -> Spans | None:
    """The timeouts that count: an SDK passes its own with each request, past those of its HTTP client."""
    for layer in reversed(way.chain):
        for package, home in _MILLISECONDS.items():
            if package in layer.packages and layer is not way.http:
                found = _in_milliseconds(layer, home)
                if found is not None:
                    return found
    layer = way.sdk or way.http
    return None if layer is None else Spans(f"{layer.path}.timeout", _parts(layer.thing.timeout))


def _in_milliseconds(layer: ClientLayer, home: str) -> Spans | None:
    name = "timeout" if home else "timeout_ms"
    holder = getattr(layer.thing, home, None) if home else layer.thing
    if not hasattr(holder, name):
        return None
    span = getattr(holder, name)
    seconds = span / 1000 if isinstance(span, int | float) and span else None
    return Spans(".".join(filter(None, (layer.path, home, name))), _parts(seconds))


def _parts(timeout: Any) -> Mapping[str, float | None]:
    """A number of seconds, None, or the timeouts of an HTTP library, by part."""
    if timeout is None or isinstance(timeout, int | float):
        return dict.fromkeys(_PARTS, timeout)
    return {part: getattr(timeout, part, None) for part in _PARTS}


def _missing(where: str, silent: list[str], severity: Severity) -> Finding:
    return Finding(
        severity=severity,
        name="no-timeout",
        where=where,
        what=f"no timeout for {', '.join(silent)}",
        why="One server that goes silent holds its callers for ever, and no retry ever begins.",
        instead="timeout=60 (for the SDKs: seconds without a byte), or a transport of stormbreak's, whose policy has a deadline",
    )


def _long(way: RequestPath, where: str, read: float) -> Finding:
    attempts = 1 if way.sdk is None else attempts_of(way.sdk) or 1
    whole = (
        f", {read * attempts:g} s over {attempts:g} attempts and their pauses"
        if attempts > 1
        else ""
    )
    return Finding(
        severity=Severity.RISK,
        name="long-timeout",
        where=where,
        what=f"a silent server is waited for {read:g} s{whole}; no deadline is over all attempts",
        why="Calls that hang fill threads and pools long before the first of them fails.",
        instead="timeout=60 where answers begin within a minute, or a policy: its deadline is over all attempts",
    )
