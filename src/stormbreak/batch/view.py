"""How a run stands, in the figures that are worth showing, and how fast it goes."""

import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from stormbreak.batch.running.runner import Runner
from stormbreak.batch.slow_run import slow_reason_for_run
from stormbreak.batch.token_ledger import Cost, Limit

_RATE_OVER = 30.0  # seconds that the shown rate looks back


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is worth showing of a run."""

    total: int
    done: int
    failed: int
    in_flight: int
    limit: int
    waiting: int
    retries: int
    circuit: str
    input_tokens: int
    output_tokens: int
    stopping: bool
    cost: Cost
    limit_of_cost: Limit | None
    interrupted: bool = False  # by a first Ctrl-C: a second one stops it at once
    slow: str = ""  # why the run is slow, or nothing is in flight

    @classmethod
    def of(cls, runner: Runner) -> "View":
        """Look at `runner`."""
        counts, targets = runner.counts, runner.client.snapshot(pending=False)["targets"].values()
        in_flight = sum(each["in_flight"] for each in targets)
        return cls(
            total=len(runner.rows),
            done=runner.journal.done,
            failed=runner.journal.failed - runner.journal.again,
            in_flight=in_flight,
            limit=runner.width,
            waiting=runner.under_way - in_flight + runner.schedule.waiting,
            retries=counts.retries,
            circuit=_circuit({each["circuit"] for each in targets}),
            input_tokens=counts.input_tokens,
            output_tokens=counts.output_tokens,
            stopping=runner.stopping,
            interrupted=runner.interrupted,
            cost=runner.so_far.cost,
            limit_of_cost=runner.so_far.limit,
            slow=slow_reason_for_run(runner, targets, datetime.now().astimezone()),
        )

    @property
    def left(self) -> int:
        """Rows that are neither answered nor failed."""
        return self.total - self.done - self.failed


class Rate:
    """Rows per second of late, and the seconds they will still take."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def look(self, view: View) -> tuple[float, float | None]:
        """Both; None where nothing says how long."""
        now, over = time.monotonic(), view.done + view.failed
        seen = self._seen
        seen.append((now, over))
        while now - seen[0][0] > _RATE_OVER:
            seen.popleft()
        then, before = seen[0]
        rate = (over - before) / (now - then) if now > then else 0.0
        return rate, view.left / rate if rate > 0 else None


def _circuit(states: set[str | None]) -> str:
    """Name the state of the worst circuit."""
    for state in ("isolated", "open", "half_open"):
        if state in states:
            return state.replace("_", "-")
    return "closed"
