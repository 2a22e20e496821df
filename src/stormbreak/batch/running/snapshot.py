"""The state of a run at one moment, for the progress line, `top`, telemetry and reports. Pure."""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any

from stormbreak.cost.accounts import Cost, SpendLimit
from stormbreak.drivers.slow_reason import slow_reason
from stormbreak.escape import plain
from stormbreak.events import Returned

_RATE_OVER = 30.0  # seconds over which the throughput is measured
SHOW_READING_AFTER = 1.0  # seconds of silence while INPUT is read


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """A run at the time `at` (monotonic clock).

    `done` and `failed` rows count over all runs on this OUTPUT, attempts and tokens over this run. `waiting` rows have
    begun but are not in flight, or are sent again later.
    """

    at: float = field(compare=False)
    total: int
    done: int
    failed: int
    in_flight: int
    width: int  # maximum rows in flight, as asked for
    limit: int  # ... and as the targets allow now
    waiting: int
    retries: int
    circuit: str  # the state of the worst circuit
    open_circuits: int
    cooling: int  # targets in a cooldown
    input_tokens: int
    output_tokens: int
    stopping: bool
    interrupted: bool  # a first Ctrl-C came: a second one stops the run at once
    cost: Cost
    cost_limit: SpendLimit | None
    slow: str  # why the run is slow, or why nothing is in flight
    straggling: float = 0.0  # seconds until the slowest attempt ends, if it takes longer than usual

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed


class Throughput:
    """Rows per second over the last 30 s, and the seconds until the run ends."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, snapshot: RunSnapshot) -> tuple[float, float | None]:
        """Add a snapshot; return both, None for unknown seconds."""
        now, over = snapshot.at, snapshot.done + snapshot.failed
        seen = self._seen
        seen.append((now, over))
        while now - seen[0][0] > _RATE_OVER:
            seen.popleft()
        then, before = seen[0]
        rate = (over - before) / (now - then) if now > then else 0.0
        if rate > 0:
            return rate, max(snapshot.left / rate, snapshot.straggling)
        return rate, snapshot.straggling or None


def worst_circuit(states: Collection[str | None]) -> str:
    for state in ("isolated", "open", "half_open"):
        if state in states:
            return state.replace("_", "-")
    return "closed"


def slow_reason_for_run(
    targets: Collection[Mapping[str, Any]],
    *,
    at: datetime,
    later: int,
    next_in: float | None,
    last_failure: Returned | None,
) -> str:
    """Explain in one line, from snapshots of its targets, what holds a run back; "" if nothing does.

    `later` rows wait to be sent again, the first in `next_in` seconds, if that is known. A target without rows in its
    queue does not hold the run back while another one is free, such as a fallback.
    """
    failure = _failure(last_failure)
    reasons = [(each, slow_reason(each, at)) for each in targets]
    free = any(not reason for _, reason in reasons)
    held = [(each, reason) for each, reason in reasons if reason and (each["queued"] or not free)]
    in_flight = any(each["in_flight"] for each in targets)
    waiting = "" if in_flight else _waiting(later, next_in, failure)
    if not held:
        return waiting
    target, reason = max(held, key=lambda pair: pair[0]["queued"])
    if reason.startswith("circuit"):
        more = f"last failure: {failure}" if failure else ""
    else:
        more = "" if target["queued"] else waiting
    place = f"{plain(target['place'])}: " if len(targets) > 1 else ""
    return place + reason + (f"; {more}" if more else "")


def _waiting(rows: int, next_in: float | None, failure: str) -> str:
    """Describe rows that back off, and rows that are sent again later."""
    if not rows:
        return ""
    after = f" after {failure}" if failure else ""
    text = f"{rows:,} row{'s' * (rows > 1)} to be sent again{after}"
    return text if next_in is None else f"{text}, first in {max(1, ceil(next_in))} s"


def _failure(event: Returned | None) -> str:
    """Describe the last failure; "" if there was none."""
    if event is None:
        return ""
    status = "" if event.status is None else f" ({event.status})"
    return f"{event.verdict.value.replace('_', ' ')}{status}"


def reading(rows: int) -> str:
    return f"reading INPUT: {rows:,} rows"


def stopping(snapshot: RunSnapshot) -> str:
    how = "again" if snapshot.interrupted else "twice"
    return f"stopping: {snapshot.in_flight:,} answers are still to come; Ctrl-C {how} stops at once"
