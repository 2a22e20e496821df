"""The rows of a simulated batch: each process sends them as `batch run` does, with the same `Schedule`.

A deadline begins when a row arrives, as for any simulated call. The simulation does not stop a run when an account is
refused: such rows fail.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Protocol, Self, TypeAlias

from stormbreak.core.policy import Policy
from stormbreak.core.presets import is_off
from stormbreak.core.row_schedule import Reschedule, RowAttempt, Schedule, max_rows_in_flight
from stormbreak.core.target_state import TargetState
from stormbreak.drivers.virtual_time import Timeline, Timer
from stormbreak.events import Event, RetryPlanned
from stormbreak.types import CallResult

Start: TypeAlias = Callable[[RowAttempt, Callable[[CallResult], None]], None]
"""Starts the call of a row and passes the result to the given function."""


class End(Protocol):
    """Called when a row ends."""

    def __call__(self, number: int, *, answered: bool, attempts: int, queued: float) -> None:
        """`queued`: seconds of waiting before the row's calls and in the target's queue."""


class _Arrived:
    """Rows that wait for their first call, as an iterator that continues when more arrive."""

    def __init__(self) -> None:
        self.rows: deque[tuple[int, float]] = deque()
        self.since = 0.0  # arrival of the last row taken

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        if not self.rows:
            raise StopIteration
        number, self.since = self.rows.popleft()
        return number


class Batch:
    """The rows of one process."""

    def __init__(
        self,
        policy: Policy,
        timeline: Timeline,
        target_state: TargetState,
        *,
        chance: Callable[[], float],
        start: Start,
        end: End,
    ) -> None:
        self._timeline, self._target_state, self._chance = timeline, target_state, chance
        self._start, self._end = start, end
        self._arrived = _Arrived()
        self._schedule = Schedule(
            self._arrived,
            width=max_rows_in_flight(policy),
            once=is_off(policy),
            spread=policy.retry.retry_after_jitter,
            unproven=True,
        )
        self._queued: dict[int, float] = {}  # seconds of waiting, by row whose first call has begun
        self._timer: Timer | None = None
        self._wakes_at = inf

    @property
    def waiting(self) -> int:
        return len(self._arrived.rows)

    def add(self, number: int) -> None:
        self._arrived.rows.append((number, self._timeline.now))
        self._wake(self._timeline.now)

    def on_event(self, event: Event) -> None:
        """Handle an event: a call that backs off makes room."""
        if isinstance(event, RetryPlanned):
            self._wake(self._timeline.now)

    def _wake(self, at: float) -> None:
        if at >= self._wakes_at:
            return
        if self._timer is not None:
            self._timeline.cancel(self._timer)
        self._wakes_at = at
        self._timer = self._timeline.at(at, self._dispatch)

    def _dispatch(self) -> None:
        """Start the calls of all rows that are ready."""
        self._timer, self._wakes_at = None, inf
        now, schedule = self._timeline.now, self._schedule
        if schedule.stop_reason() is not None:
            self._drop()
            return
        while schedule.has_room(self._target_state.backing_off):
            row_attempt = schedule.take(now)
            if isinstance(row_attempt, RowAttempt):
                if not row_attempt.rounds:
                    self._queued[row_attempt.index] = now - self._arrived.since
                self._start(row_attempt, partial(self._over, row_attempt))
                continue
            if row_attempt is not None and row_attempt < inf:
                self._wake(row_attempt)
            return

    def _over(self, row_attempt: RowAttempt, ended: CallResult) -> None:
        """End a call: the row is rescheduled or done."""
        now, number = self._timeline.now, row_attempt.index
        self._queued[number] += ended.queued
        decision = self._schedule.settle(row_attempt, ended, now, self._chance())
        if not isinstance(decision, Reschedule):
            queued = self._queued.pop(number)
            self._end(number, answered=decision.ok, attempts=decision.attempts, queued=queued)
        self._wake(now)

    def _drop(self) -> None:
        """Stop: every probe row got the same final verdict."""
        for number in self._arrived:
            waited = self._timeline.now - self._arrived.since
            self._end(number, answered=False, attempts=0, queued=waited)
