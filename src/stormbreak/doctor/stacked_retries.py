"""Is anything of ours on the way, and what multiplies attempts there."""

from collections.abc import Iterator
from math import inf, prod

from stormbreak.doctor.discovery import ClientLayer
from stormbreak.doctor.findings import Finding, Severity
from stormbreak.doctor.request_path import RequestPath, is_sdk
from stormbreak.doctor.retry_counts import attempts_of, guard_of, retrier


def stacks(way: RequestPath) -> Iterator[Finding]:
    """No policy at all; retries over retries; and the retries of an SDK that a door ends."""
    counted = [(layer, attempts_of(layer)) for layer in way.chain]
    multiply = [(layer, count) for layer, count in counted if count is None or count > 1]
    guarded = way.policy is not None
    guards = [layer for layer in way.chain if guard_of(layer) is not None]
    # A guard does not retry what a door, or a guard within, gave up on.
    idle = guards if guarded else guards[:-1]
    multiply = [(layer, count) for layer, count in multiply if layer not in idle]
    if guarded:
        stopped = [layer for layer, _ in multiply if is_sdk(layer)]
        multiply = [(layer, count) for layer, count in multiply if not is_sdk(layer)]
        yield from map(_stopped, stopped)
    elif not guards:
        yield _unguarded(way, multiply)
    if len(multiply) > 1:
        yield _stacked(multiply, guarded=guarded)
    elif multiply and multiply[0][1] == inf:
        yield _endless(multiply[0][0])


def _unguarded(way: RequestPath, multiply: list[tuple[ClientLayer, float | None]]) -> Finding:
    retries = " and ".join(f"{_count(count)} ({retrier(layer)})" for layer, count in multiply)
    return Finding(
        severity=Severity.RISK,
        name="no-policy",
        where=way.chain[0].path,
        what=f"nothing of stormbreak's is on the way to the provider; attempts per call: {retries or 'one'}",
        why="In an outage every client retries at once, unpaid for and past any circuit, which keeps the provider down.",
        instead=(
            f"stormbreak.{way.library}.wrap({(way.sdk or way.http).name})"
            if way.http is not None
            else "a transport of stormbreak's where it takes an HTTP client (docs/sdks.md)"
        ),
    )


def _stopped(layer: ClientLayer) -> Finding:
    attempts = attempts_of(layer)
    return Finding(
        severity=Severity.NOTE,
        name="sdk-retries-stopped",
        where=f"{layer.path}.max_retries",
        what=f"{_count(attempts)} attempts of the SDK's own do not multiply here: our transport ends them",
        why="Every final answer says `x-should-retry: false`; only after an exception the SDK's pauses are waited for.",
        instead="leave it, or max_retries=0 to save those pauses",
    )


def _stacked(multiply: list[tuple[ClientLayer, float | None]], *, guarded: bool) -> Finding:
    counts = [count for _, count in multiply]
    known = prod(count for count in counts if count is not None)
    most = _count(known) if known == inf else f"up to {known:g} times"
    if None in counts:
        most = f"at least {known:g} times"
    product = " x ".join(f"{_count(count)} ({retrier(layer)})" for layer, count in multiply)
    outer = multiply[0][0]
    kept = retrier(multiply[-1][0])
    return Finding(
        severity=Severity.WRONG,
        name="retries-multiply",
        where=outer.path,
        what=f"retries over retries: one call may be sent {most}: {product}",
        why="Each layer repeats all that the one below it has given up, so an outage is met with a multiple of the load.",
        instead=(
            "retry in one place: take the retries of all but stormbreak's away"
            if guarded
            else f"retry in one place: leave those of {kept} at most, or none and let stormbreak retry"
        ),
    )


def _endless(layer: ClientLayer) -> Finding:
    return Finding(
        severity=Severity.WRONG,
        name="retries-without-end",
        where=layer.path,
        what=f"{retrier(layer)} retries without bounding the number of attempts",
        why="A call that cannot succeed is sent for as long as the process lives, or until its time is over.",
        instead="bound the attempts (tenacity: stop=stop_after_attempt(3); backoff: max_tries=3)",
    )


def _count(count: float | None) -> str:
    if count is None:
        return "an unknown number"
    return "without end" if count == inf else f"{count:g}"
