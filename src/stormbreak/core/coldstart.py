"""Attempts that left before anything had succeeded, and are still under way.

Errors are quick and answers slow: of a hundred attempts that leave at once, the ten that fail are known after
milliseconds, the ninety that succeed after seconds. A share of failures in the order of arrival would be ten of ten.
So until the first success, an attempt counts as if it will succeed once it has outlived what has failed so far: once
it is as old as a failure took on average. A younger one says nothing: where all calls fail after five seconds, those under way are
younger than that, and none of them gives hope.

What is usual for the target is not known then. An attempt is given the time that a probe is given, its lease, and is
no longer waited for after that. Once something has succeeded nothing is noted any more.
"""

from bisect import bisect_right

ROUNDING = 1e-6  # seconds: calls that left together are as old as the one that has just failed


class ColdStart:
    """Notes who left while nothing had succeeded. Numbers begin with 1; 0 is not noted."""

    __slots__ = ("_failed", "_failures_took", "_last", "_left_at", "_patience", "on")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last = 0
        self.begin()

    def begin(self) -> None:
        """Begin anew: nothing has succeeded yet."""
        self._left_at: dict[int, float] = {}
        self._failed = 0
        self._failures_took = 0.0  # seconds, all of them together
        self.on = True

    def left(self, now: float) -> int:
        """Note an attempt that leaves, and return its number."""
        self._last += 1
        self._left_at[self._last] = now
        return self._last

    def ended(self, number: int, *, well: bool) -> None:
        """It has ended; with the first success the cold start is over."""
        self._left_at.pop(number, None)
        if well:
            self.on = False

    def failed(self, took: float) -> None:
        """An attempt failed after so many seconds, noted or not."""
        self._failed += 1
        self._failures_took += took

    def undecided(self, now: float) -> int:
        """Count those still under way that have outlived the failures, and not for too long."""
        if not self._left_at:
            return 0
        old = now - self._patience
        while self._left_at:
            first = next(iter(self._left_at))
            if self._left_at[first] > old:
                break
            del self._left_at[first]
        usual = self._failures_took / self._failed if self._failed else 0.0
        return bisect_right(list(self._left_at.values()), now - usual + ROUNDING)
