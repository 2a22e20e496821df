"""The machines that count outcomes for the trip rules, and say when it is too much.

A success never opens a circuit, and a quick answer never opens it for slowness: only an outcome of the kind
that is counted can be one too many.
"""

# ruff: noqa: D102, ARG002 - one signature for all, described once

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from stormbreak.core.diagnosis import Diagnosis

ROUNDING = 1e-9  # 0.28 * 25 is a little more than 7


class Counts(NamedTuple):
    """What a rule has counted so far. A rate is None where nothing is in its window, or the rule has none.

    `calls` are those in the window of failures, or of slow calls where only these are counted.
    """

    calls: int = 0
    failures: int = 0
    slow_calls: int = 0
    failure_rate: float | None = None
    slow_call_rate: float | None = None


class TripCounter(ABC):
    """Counts outcomes and says when it is too much."""

    __slots__ = ()

    @abstractmethod
    def record(self, now: float, *, failed: bool, took: float = 0.0) -> bool:
        """Count one outcome that took so many seconds; True means: open the circuit."""

    def cut(self, now: float, took: float) -> bool:
        """Count an attempt that we ended ourselves: no failure, but perhaps slow."""
        return False

    def is_slow(self, took: float) -> bool:
        """Whether a rule calls that slow."""
        return False

    @abstractmethod
    def counts(self, now: float) -> Counts:
        """Return what is counted now."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything, as when a circuit closes."""


class Window(Protocol):
    """Recent calls, and how many of them were of the kind that is counted."""

    calls: int
    failures: int

    def add(self, now: float, *, failed: bool) -> None:
        """Count one."""
        ...

    def roll(self, now: float) -> None:
        """Drop what is too old by now."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


def _counted(window: Window, now: float) -> Counts:
    window.roll(now)
    calls, failures = window.calls, window.failures
    return Counts(calls, failures, failure_rate=failures / calls if calls else None)


class Row(TripCounter):
    """Failures in a row."""

    __slots__ = ("_failures", "_threshold")

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0

    def record(self, now: float, *, failed: bool, took: float = 0.0) -> bool:
        self._failures = self._failures + 1 if failed else 0
        return self._failures >= self._threshold

    def counts(self, now: float) -> Counts:
        return Counts(calls=self._failures, failures=self._failures)

    def reset(self) -> None:
        self._failures = 0


class DeadTargetTrip(TripCounter):
    """Whether the target is dead, as the diagnosis of its attempts says. The window is only shown."""

    __slots__ = ("_diagnosis", "_window")

    def __init__(self, diagnosis: Diagnosis, window: Window) -> None:
        self._diagnosis = diagnosis
        self._window = window

    def record(self, now: float, *, failed: bool, took: float = 0.0) -> bool:
        self._window.add(now, failed=failed)
        return failed and self._diagnosis.is_dead(now)

    def counts(self, now: float) -> Counts:
        return _counted(self._window, now)

    def reset(self) -> None:
        self._diagnosis.start_run()
        self._window.clear()


class FailureRateTrip(TripCounter):
    """The share of failures in a window."""

    __slots__ = ("_calls", "_share", "_window")

    def __init__(self, window: Window, share: float, calls: int) -> None:
        self._window = window
        self._share = share
        self._calls = calls

    def record(self, now: float, *, failed: bool, took: float = 0.0) -> bool:
        window = self._window
        window.add(now, failed=failed)
        many = self._share * window.calls - ROUNDING
        return failed and window.calls >= self._calls and window.failures >= many

    def counts(self, now: float) -> Counts:
        return _counted(self._window, now)

    def reset(self) -> None:
        self._window.clear()


class SlowRateTrip(TripCounter):
    """The share of slow calls in a window, whether they succeeded, failed, or were cut when already slow."""

    __slots__ = ("_calls", "_share", "_slower_than", "_window")

    def __init__(self, window: Window, share: float, calls: int, slower_than: float) -> None:
        self._window = window
        self._share = share
        self._calls = calls
        self._slower_than = slower_than

    def record(self, now: float, *, failed: bool, took: float = 0.0) -> bool:
        slow = took >= self._slower_than
        window = self._window
        window.add(now, failed=slow)
        many = self._share * window.calls - ROUNDING
        return slow and window.calls >= self._calls and window.failures >= many

    def counts(self, now: float) -> Counts:
        self._window.roll(now)
        calls, slow = self._window.calls, self._window.failures
        return Counts(calls, slow_calls=slow, slow_call_rate=slow / calls if calls else None)

    def cut(self, now: float, took: float) -> bool:
        return took >= self._slower_than and self.record(now, failed=False, took=took)

    def is_slow(self, took: float) -> bool:
        return took >= self._slower_than

    def reset(self) -> None:
        self._window.clear()


class AnyTrip(TripCounter):
    """Several of them; every one counts everything, and the first that has enough opens."""

    __slots__ = ("_machines",)

    def __init__(self, machines: Sequence[TripCounter]) -> None:
        self._machines = tuple(machines)

    def record(self, now: float, *, failed: bool, took: float = 0.0) -> bool:
        trips = False
        for machine in self._machines:
            trips |= machine.record(now, failed=failed, took=took)
        return trips

    def cut(self, now: float, took: float) -> bool:
        trips = False
        for machine in self._machines:
            trips |= machine.cut(now, took)
        return trips

    def is_slow(self, took: float) -> bool:
        return any(machine.is_slow(took) for machine in self._machines)

    def counts(self, now: float) -> Counts:
        counted = [machine.counts(now) for machine in self._machines]
        slow = max(counted, key=lambda it: (it.slow_call_rate or 0.0, it.slow_calls))
        failed = max(counted, key=lambda it: (it.failure_rate or 0.0, it.failures, it.calls))
        return failed._replace(slow_calls=slow.slow_calls, slow_call_rate=slow.slow_call_rate)

    def reset(self) -> None:
        for machine in self._machines:
            machine.reset()
