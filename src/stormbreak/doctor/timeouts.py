"""Check what bounds the time of a call: timeouts of SDKs and HTTP clients, deadlines of policies."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stormbreak.doctor.discovery import ClientLayer, RequestPath
from stormbreak.doctor.findings import LONG, Finding, Severity
from stormbreak.doctor.retries import attempts_of

_PARTS = ("connect", "read", "write", "pool")
_MILLISECONDS = {"google": "_http_options", "mistralai": ""}
"""SDKs with timeouts in milliseconds, which they pass with each request, and the attribute that holds them."""


class Timeouts(NamedTuple):
    """Timeouts in seconds by part, and their path."""

    where: str
    by_part: Mapping[str, float | None]


def check_timeouts(path: RequestPath) -> Iterator[Finding]:
    """Check for missing and very long timeouts."""
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
            why="One server that goes silent blocks its callers for ever, and no retry starts.",
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
        why="One server that goes silent blocks its callers, and their slots in the limit, for ever.",
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
