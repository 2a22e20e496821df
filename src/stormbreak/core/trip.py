"""When a closed circuit opens: the rules, as data. Each makes the machine that counts for it (`counting`)."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from stormbreak.core.checks import check_types, require, require_window
from stormbreak.core.counting import (
    AnyTrip,
    DeadTargetTrip,
    FailureRateTrip,
    Row,
    SlowRateTrip,
    TripCounter,
)
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.window import CountWindow, TimeWindow

LARGEST = 100_000
"""Outcomes that a count window holds, at the most: they are kept one by one."""


SHOWN = 10.0
"""Seconds of the window that is shown where the rule has none."""


def _check_ratio(share: float, calls: int) -> None:
    require(0 < share <= 1, "ratio must lie in (0, 1]", share)
    require(calls >= 1, "min_calls must be at least 1", calls)


def _check_last(last: int, calls: int) -> None:
    require(last >= calls, "window_calls must not be below min_calls", last)
    require(last <= LARGEST, f"window_calls must be at most {LARGEST}", last)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsecutiveFailures:
    """Open after `failure_threshold` failures in a row. One success in between starts the count anew."""

    kind: Literal["consecutive"] = "consecutive"
    failure_threshold: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        require(
            self.failure_threshold >= 1,
            "failure_threshold must be at least 1",
            self.failure_threshold,
        )

    def machine(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        """A fresh counter."""
        return Row(self.failure_threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTarget:
    """Open when nothing has been answered for longer than chance explains (`diagnosis`).

    The default. Five failures in a row are common where a half of all calls fails by chance; where nothing had failed before, eight
    of them are not, and where a share of 70 % had, 20. Attempts that are older than is usual count as failures, and
    answers to attempts that left before the failures did tell nothing.
    """

    kind: Literal["dead_target"] = "dead_target"

    def machine(self, diagnosis: Diagnosis) -> TripCounter:
        """Ask the diagnosis."""
        return DeadTargetTrip(diagnosis, TimeWindow(SHOWN))


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """Open when `ratio` of at least `min_calls` outcomes within the last `window_seconds` failed.

    Five failures in a row are common in a partial outage, where four of five in ten seconds are not.
    """

    kind: Literal["failure_rate"] = "failure_rate"
    ratio: float = 0.8
    min_calls: int = 10
    window_seconds: float = 10.0

    def __post_init__(self) -> None:
        check_types(self)
        _check_ratio(self.ratio, self.min_calls)
        require_window("window_seconds", self.window_seconds)

    def machine(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        """A fresh counter."""
        return FailureRateTrip(TimeWindow(self.window_seconds), self.ratio, self.min_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRateOfLast:
    """Open when `ratio` of the `window_calls` outcomes failed, and of at least `min_calls`, however old they are."""

    kind: Literal["failure_rate_of_last"] = "failure_rate_of_last"
    ratio: float = 0.8
    min_calls: int = 10
    window_calls: int = 50

    def __post_init__(self) -> None:
        check_types(self)
        _check_ratio(self.ratio, self.min_calls)
        _check_last(self.window_calls, self.min_calls)

    def machine(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        """A fresh counter."""
        return FailureRateTrip(CountWindow(self.window_calls), self.ratio, self.min_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRate:
    """Open when `ratio` of at least `min_calls` outcomes within the last `window_seconds` took `slow_call_threshold` s or more.

    Answers of reasoning models honestly take minutes: set `slow_call_threshold` well above what is usual.
    """

    kind: Literal["slow_rate"] = "slow_rate"
    ratio: float = 0.8
    slow_call_threshold: float = 60.0
    min_calls: int = 10
    window_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_types(self)
        _check_ratio(self.ratio, self.min_calls)
        require(
            self.slow_call_threshold > 0,
            "slow_call_threshold must be positive",
            self.slow_call_threshold,
        )
        require_window("window_seconds", self.window_seconds)

    def machine(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        """A fresh counter."""
        return SlowRateTrip(
            TimeWindow(self.window_seconds), self.ratio, self.min_calls, self.slow_call_threshold
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRateOfLast:
    """Open when `ratio` of the `window_calls` outcomes, and of at least `min_calls`, took `slow_call_threshold` s or more."""

    kind: Literal["slow_rate_of_last"] = "slow_rate_of_last"
    ratio: float = 0.8
    slow_call_threshold: float = 60.0
    min_calls: int = 10
    window_calls: int = 50

    def __post_init__(self) -> None:
        check_types(self)
        _check_ratio(self.ratio, self.min_calls)
        require(
            self.slow_call_threshold > 0,
            "slow_call_threshold must be positive",
            self.slow_call_threshold,
        )
        _check_last(self.window_calls, self.min_calls)

    def machine(self, diagnosis: Diagnosis) -> TripCounter:  # noqa: ARG002
        """A fresh counter."""
        return SlowRateTrip(
            CountWindow(self.window_calls), self.ratio, self.min_calls, self.slow_call_threshold
        )


SingleRule: TypeAlias = (
    DeadTarget | ConsecutiveFailures | FailureRate | FailureRateOfLast | SlowRate | SlowRateOfLast
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRule:
    """Open as soon as one of `rules` says so; all of them count all outcomes."""

    kind: Literal["any"] = "any"
    rules: tuple[SingleRule, ...] = (FailureRate(), SlowRate())

    def __post_init__(self) -> None:
        check_types(self)
        require(len(self.rules) >= 1, "rules must name at least one rule", "none")
        object.__setattr__(self, "rules", tuple(self.rules))

    def machine(self, diagnosis: Diagnosis) -> TripCounter:
        """Fresh counters."""
        return AnyTrip([rule.machine(diagnosis) for rule in self.rules])


TripRule: TypeAlias = SingleRule | AnyRule
