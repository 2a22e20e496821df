"""The trip rules of a circuit, as data, and their counters.

A success never opens a circuit, and a fast answer never opens it for slowness: only a counted
failure or slow call does.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from stormbreak.core.checks import (
    check_types,
    require,
    require_at_least,
    require_positive,
    require_window,
)
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.window import CountWindow, DecayingMean, TimeWindow

MAX_WINDOW_CALLS = 100_000  # maximum outcomes of a count window, which stores each of them
SHOWN_SECONDS = 10.0  # seconds of the displayed window if the rule has none
ROUNDING = 1e-9  # 0.28 * 25 is a little more than 7
RATE_TIME = 60.0  # seconds over which the usual rate is averaged
PROBE_SHARE = 0.1  # share of the usual rate for probes while attempts hang; equal to the ratio of the retry budget
MAX_PROBE_GAP = 30.0  # seconds

# ---------------------------------------------------------------- counters


class Counts(NamedTuple):
    """The counts of a rule. A rate is None if its window is empty, or the rule has none.

    `calls` are those in the window of failures, or in the window of slow calls if only these are counted.
    """

    calls: int = 0
    failures: int = 0
    slow_calls: int = 0
    failure_rate: float | None = None
    slow_call_rate: float | None = None


class TripCounter(ABC):
    """Counts outcomes and decides when to open."""

    __slots__ = ()

    @abstractmethod
    def record(self, now: float, failed: int, took: float) -> bool:
        """Count one outcome of `took` seconds; return True to open the circuit."""

    def cut(self, now: float, took: float) -> bool:  # noqa: ARG002
        """Count an attempt that we ended: not a failure, but perhaps slow. Return True to open the circuit."""
        return False

    def is_slow(self, took: float) -> bool:  # noqa: ARG002
        """Whether the rule counts such a duration as slow."""
        return False

    def probe_gap(self) -> float:
        """Return the minimum seconds between two probes, whatever the policy says."""
        return 0.0

    @abstractmethod
    def counts(self, now: float) -> Counts:
        """Return the counts."""

    @abstractmethod
    def reset(self) -> None:
        """Reset the counts, as when a circuit closes."""


@dataclass(slots=True, eq=False)
class ConsecutiveCounter(TripCounter):
    """Counts failures in a row."""

    _threshold: int
    _failures: int = 0

    def record(self, now: float, failed: int, took: float) -> bool:  # noqa: ARG002
        self._failures = self._failures + 1 if failed else 0
        return self._failures >= self._threshold

    def counts(self, now: float) -> Counts:  # noqa: ARG002
        return Counts(calls=self._failures, failures=self._failures)

    def reset(self) -> None:
        self._failures = 0


class DeadTargetCounter(TripCounter):
    """Trips if the target is dead according to the diagnosis. The window is only for display.

    Hanging probes may keep a target overloaded: each of many small processes sends few, but together they send as many
    as calls. So while attempts hang, each process sends probes at only a small share of its usual rate.
    """

    __slots__ = ("_counted_since", "_diagnosis", "_ended", "_rate", "_window")

    def __init__(self, diagnosis: Diagnosis) -> None:
        self._diagnosis = diagnosis
        self._window = TimeWindow(SHOWN_SECONDS)
        self._rate = DecayingMean(RATE_TIME)  # attempts per second while the circuit is closed
        self._counted_since = inf
        self._ended = 0  # attempts that ended since then

    def record(self, now: float, failed: int, took: float) -> bool:  # noqa: ARG002
        self._window.add(now, failed)
        self._ended += 1
        if not 0.0 <= now - self._counted_since < RATE_TIME:
            self._learn_rate(now)
        trips = failed > 0 and self._diagnosis.is_dead(now)
        if trips:
            self._learn_rate(now)
        return trips

    def _learn_rate(self, now: float) -> None:
        span = now - self._counted_since
        if span > 0.0:
            self._rate.add(self._ended / span, span)
        self._counted_since, self._ended = now, 0

    def probe_gap(self) -> float:
        rate = self._rate.mean() if self._diagnosis.hangs else 0.0
        return min(MAX_PROBE_GAP, 1 / (PROBE_SHARE * rate)) if rate else 0.0

    def counts(self, now: float) -> Counts:
        return _failures_in(self._window, now)

    def reset(self) -> None:
        self._diagnosis.run.start()
        self._window.clear()
        self._counted_since = inf


@dataclass(slots=True, eq=False)
class RateCounter(TripCounter):
    """Counts the share of failures in a window; with a threshold, the share of slow calls: failed, answered or cut."""

    _window: TimeWindow | CountWindow
    _ratio: float
    _min_calls: int
    _slow_call_threshold: float | None = None

    def record(self, now: float, failed: int, took: float) -> bool:
        counted = failed if self._slow_call_threshold is None else self.is_slow(took)
        window = self._window
        window.add(now, counted)
        enough = self._ratio * window.calls - ROUNDING
        return bool(counted) and window.calls >= self._min_calls and window.failures >= enough

    def cut(self, now: float, took: float) -> bool:
        return self.is_slow(took) and self.record(now, 0, took)

    def is_slow(self, took: float) -> bool:
        return self._slow_call_threshold is not None and took >= self._slow_call_threshold

    def counts(self, now: float) -> Counts:
        counts = _failures_in(self._window, now)
        if self._slow_call_threshold is None:
            return counts
        calls, slow, rate = counts.calls, counts.failures, counts.failure_rate
        return Counts(calls, slow_calls=slow, slow_call_rate=rate)

    def reset(self) -> None:
        self._window.clear()


class AnyCounter(TripCounter):
    """Several counters: each counts all outcomes, and the first to trip opens the circuit."""

    __slots__ = ("_counters",)

    def __init__(self, counters: Sequence[TripCounter]) -> None:
        self._counters = tuple(counters)

    def record(self, now: float, failed: int, took: float) -> bool:
        trips = [counter.record(now, failed, took) for counter in self._counters]
        return any(trips)

    def cut(self, now: float, took: float) -> bool:
        trips = [counter.cut(now, took) for counter in self._counters]
        return any(trips)

    def is_slow(self, took: float) -> bool:
        return any(counter.is_slow(took) for counter in self._counters)

    def probe_gap(self) -> float:
        return max(counter.probe_gap() for counter in self._counters)

    def counts(self, now: float) -> Counts:
        counted = [counter.counts(now) for counter in self._counters]
        slow = max(counted, key=lambda it: (it.slow_call_rate or 0.0, it.slow_calls))
        failed = max(counted, key=lambda it: (it.failure_rate or 0.0, it.failures, it.calls))
        return failed._replace(slow_calls=slow.slow_calls, slow_call_rate=slow.slow_call_rate)

    def reset(self) -> None:
        for counter in self._counters:
            counter.reset()


def _failures_in(window: TimeWindow | CountWindow, now: float) -> Counts:
    window.roll(now)
    calls, failures = window.calls, window.failures
    return Counts(calls, failures, failure_rate=failures / calls if calls else None)


# ---------------------------------------------------------------- rules


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsecutiveFailures:
    """Open after `failure_threshold` failures in a row. A success resets the count."""

    kind: Literal["consecutive"] = "consecutive"
    failure_threshold: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 1, "failure_threshold")

    def counter(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        return ConsecutiveCounter(self.failure_threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTarget:
    """Open when nothing has been answered for longer than chance explains (`diagnosis`). This is the default.

    Five failures in a row are common if half of all calls fail at random. Eight in a row are not common if no call had
    failed before, and 20 are not if 70 % had. Attempts that are older than usual count as failures. Answers to attempts
    that left before the failures do not count.
    """

    kind: Literal["dead_target"] = "dead_target"

    def counter(self, diagnosis: Diagnosis) -> TripCounter:
        return DeadTargetCounter(diagnosis)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """Open when `ratio` of the outcomes in the window failed, and there are at least `min_calls`.

    The window is the last `window_seconds` (10 by default), or the last `window_calls` outcomes, however old. In a
    partial outage, five failures in a row are common, but four of five within ten seconds are not.
    """

    kind: Literal["failure_rate"] = "failure_rate"
    ratio: float = 0.8
    min_calls: int = 10
    window_seconds: float | None = None
    window_calls: int | None = None
    default_window = 10.0

    def __post_init__(self) -> None:
        _check_rate(self)

    def counter(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        return RateCounter(_window(self), self.ratio, self.min_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRate:
    """Open when `ratio` of the outcomes in the window took `slow_call_threshold` seconds or more.

    The window is as in `FailureRate`, with 60 seconds by default. Answers of reasoning models can take minutes:
    set `slow_call_threshold` well above the usual duration.
    """

    kind: Literal["slow_rate"] = "slow_rate"
    ratio: float = 0.8
    slow_call_threshold: float = 60.0
    min_calls: int = 10
    window_seconds: float | None = None
    window_calls: int | None = None
    default_window = 60.0

    def __post_init__(self) -> None:
        _check_rate(self)
        require_positive(self, "slow_call_threshold")

    def counter(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        return RateCounter(_window(self), self.ratio, self.min_calls, self.slow_call_threshold)


def _check_rate(rule: FailureRate | SlowRate) -> None:
    check_types(rule)
    require(0 < rule.ratio <= 1, "ratio must be within (0, 1]", rule.ratio)
    require_at_least(rule, 1, "min_calls")
    seconds, calls = rule.window_seconds, rule.window_calls
    if calls is None:
        seconds = rule.default_window if seconds is None else seconds
        require_window("window_seconds", seconds)
        object.__setattr__(rule, "window_seconds", seconds)
        return
    require(seconds is None, "window_seconds must be none beside window_calls", seconds)
    require(calls >= rule.min_calls, "window_calls must not be below min_calls", calls)
    require(calls <= MAX_WINDOW_CALLS, f"window_calls must be at most {MAX_WINDOW_CALLS}", calls)


def _window(rule: FailureRate | SlowRate) -> TimeWindow | CountWindow:
    if rule.window_calls is not None:
        return CountWindow(rule.window_calls)
    assert rule.window_seconds is not None
    return TimeWindow(rule.window_seconds)


SingleRule: TypeAlias = DeadTarget | ConsecutiveFailures | FailureRate | SlowRate


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRule:
    """Open as soon as one of `rules` trips; all of them count all outcomes."""

    kind: Literal["any"] = "any"
    rules: tuple[SingleRule, ...] = (FailureRate(), SlowRate())

    def __post_init__(self) -> None:
        check_types(self)
        require(len(self.rules) >= 1, "rules must name at least one rule", "none")
        object.__setattr__(self, "rules", tuple(self.rules))

    def counter(self, diagnosis: Diagnosis) -> TripCounter:
        return AnyCounter([rule.counter(diagnosis) for rule in self.rules])


TripRule: TypeAlias = SingleRule | AnyRule
