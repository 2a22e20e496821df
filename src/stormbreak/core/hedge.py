"""Hedges: when an attempt is slow, another is sent beside it.

Dean and Barroso, "The Tail at Scale" (2013): hedging the slowest tenth of requests answers most of them
sooner. It helps if slowness is random, and harms if it is load. So a hedge
always costs budget, of which a call earns a tenth, and is not sent while a gate holds traffic.
"""

from collections import deque
from dataclasses import dataclass
from math import inf

from stormbreak.core.checks import check_types, require, require_at_least

KEPT = 128  # recent attempts whose durations are kept
ENOUGH = 20  # minimum of them for an estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """Hedge an attempt that is unanswered after a time, at most `max_hedges` times.

    The time is `delay` seconds, or the `percentile` (a share) of recent durations at this target if
    longer; None disables that bound. For streaming attempts it is the time to the first output.
    """

    delay: float | None = None
    percentile: float | None = 0.95
    max_hedges: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 0, "delay")
        require_at_least(self, 1, "max_hedges")
        share = self.percentile
        require(share is None or 0 < share < 1, "percentile must be between 0 and 1", share)
        require(
            self.delay is not None or share is not None, "delay or percentile must be given", None
        )


class _RecentDurations:
    """The durations of recent attempts."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque(maxlen=KEPT)

    def add(self, took: float) -> None:
        self._taken.append(took)

    def quantile(self, share: float) -> float:
        count = len(self._taken)
        return sorted(self._taken)[int(share * count)] if count >= ENOUGH else inf


class HedgeTimer:
    """Decides for one target when an attempt is slow. First outputs and whole answers have separate statistics."""

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._times = (_RecentDurations(), _RecentDurations())

    @property
    def max_hedges(self) -> int:
        return self._policy.max_hedges

    def delay(self, *, streams: bool) -> float:
        """Return the seconds after which an attempt is slow; inf while unknown. `streams`: to its first output."""
        policy = self._policy
        after = policy.delay or 0.0
        if policy.percentile is None:
            return after
        return max(after, self._times[streams].quantile(policy.percentile))

    def on_return(self, seconds: float, *, streams: bool) -> None:
        """Learn from the duration of an answered or overtaken attempt."""
        self._times[streams].add(seconds)
