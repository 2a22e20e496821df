"""When a closed circuit opens: the rules, and the machines that count for them."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from stormbreak.core.checks import require
from stormbreak.core.window import TimeWindow


class Trip(Protocol):
    """Counts outcomes and says when it is too much."""

    def record(self, now: float, *, failed: bool) -> bool:
        """Count one outcome; True means: open the circuit."""
        ...

    def reset(self) -> None:
        """Forget everything, as when a circuit closes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsecutiveFailures:
    """Open after `threshold` failures in a row. One success in between starts the count anew."""

    kind: Literal["consecutive"] = "consecutive"
    threshold: int = 5

    def __post_init__(self) -> None:
        require(self.threshold >= 1, "threshold must be at least 1", self.threshold)

    def machine(self) -> Trip:
        """A fresh counter."""
        return _Row(self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """Open when `share` of at least `calls` outcomes within the last `seconds` failed.

    The default for LLM traffic: five failures in a row are common in a partial outage, where four of five
    in ten seconds are not.
    """

    kind: Literal["failure_rate"] = "failure_rate"
    share: float = 0.8
    calls: int = 10
    seconds: float = 10.0

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share must lie in (0, 1]", self.share)
        require(self.calls >= 1, "calls must be at least 1", self.calls)
        require(self.seconds > 0, "seconds must be positive", self.seconds)

    def machine(self) -> Trip:
        """A fresh counter."""
        return _Rate(self)


TripRule: TypeAlias = ConsecutiveFailures | FailureRate


class _Row:
    __slots__ = ("_failures", "_threshold")

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0

    def record(self, now: float, *, failed: bool) -> bool:  # noqa: ARG002
        self._failures = self._failures + 1 if failed else 0
        return self._failures >= self._threshold

    def reset(self) -> None:
        self._failures = 0


class _Rate:
    __slots__ = ("_calls", "_share", "_window")

    def __init__(self, rule: FailureRate) -> None:
        self._calls = rule.calls
        self._share = rule.share
        self._window = TimeWindow(rule.seconds)

    def record(self, now: float, *, failed: bool) -> bool:
        window = self._window
        window.add(now, failed=failed)
        if not failed or window.calls < self._calls:
            return False
        many = self._share * window.calls - 1e-9  # 0.55 * 20 is a little more than 11
        return window.failures >= many

    def reset(self) -> None:
        self._window.clear()
