"""The rows of a simulated batch: in each process they are sent, and sent again, as `batch run` does it.

Which row goes next and when a row comes back is decided by the same `Schedule`. A deadline begins here when a row arrives, as
that of any simulated call does. A run that stops later on because an account is refused is not simulated: such rows fail.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Protocol, Self

from stormbreak.core.policy import Policy
from stormbreak.core.presets import is_off
from stormbreak.core.row_schedule import Reschedule, RowAttempt, Schedule, max_rows_in_flight
from stormbreak.core.target_state import TargetState
from stormbreak.drivers.virtual_time import Timeline, Timer
from stormbreak.events import Event, RetryPlanned
from stormbreak.types import CallResult


class Start(Protocol):
    """Starts the call of a row."""

    def __call__(self, turn: RowAttempt, done: Callable[[CallResult], None]) -> None:
        """`done` gets how it ended."""
        ...


class End(Protocol):
    """Is told that a row is over."""

    def __call__(self, number: int, *, answered: bool, attempts: int, queued: float) -> None:
        """`queued` are seconds before its calls, and in the queue of the target."""
        ...


class _Arrived:
    """Rows that no call was started for yet, as an iterator that goes on when more arrive."""

    def __init__(self) -> None:
        self.rows: deque[tuple[int, float]] = deque()
        self.since = 0.0  # when the row that was taken last arrived

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
        lane: TargetState,
        *,
        chance: Callable[[], float],
        start: Start,
        end: End,
    ) -> None:
        self._timeline = timeline
        self._lane = lane
        self._chance = chance
        self._start = start
        self._end = end
        self._arrived = _Arrived()
        self._schedule = Schedule(
            self._arrived,
            width=max_rows_in_flight(policy),
            once=is_off(policy),
            spread=policy.retry.retry_after_jitter,
            unproven=True,
        )
        self._queued: dict[int, float] = {}  # of rows whose first call has begun
        self._timer: Timer | None = None
        self._wakes_at = inf

    @property
    def waiting(self) -> int:
        """Rows that no call was started for yet."""
        return len(self._arrived.rows)

    def add(self, number: int) -> None:
        """A row arrives."""
        self._arrived.rows.append((number, self._timeline.now))
        self._wake(self._timeline.now)

    def hear(self, event: Event) -> None:
        """Take note that a call backs off, and makes room."""
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
        """Start the calls of all rows that may go now."""
        self._timer, self._wakes_at = None, inf
        now, schedule = self._timeline.now, self._schedule
        if schedule.stop_reason() is not None:
            self._drop()
            return
        while schedule.has_room(self._lane.backing_off):
            turn = schedule.take(now)
            if isinstance(turn, RowAttempt):
                if not turn.rounds:
                    self._queued[turn.index] = now - self._arrived.since
                self._start(turn, partial(self._over, turn))
                continue
            if turn is not None and turn < inf:
                self._wake(turn)
            return

    def _over(self, turn: RowAttempt, ended: CallResult) -> None:
        """A call has ended: the row comes back, or is over."""
        now, number = self._timeline.now, turn.index
        self._queued[number] += ended.queued
        fate = self._schedule.settle(turn, ended, now, self._chance())
        if not isinstance(fate, Reschedule):
            queued = self._queued.pop(number)
            self._end(number, answered=fate.ok, attempts=fate.attempts, queued=queued)
        self._wake(now)

    def _drop(self) -> None:
        """Send nothing more: every scout met the same final verdict."""
        for number in self._arrived:
            waited = self._timeline.now - self._arrived.since
            self._end(number, answered=False, attempts=0, queued=waited)
