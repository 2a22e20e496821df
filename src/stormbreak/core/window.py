"""Count outcomes over the last seconds, or the last n, in constant time."""

from collections import deque
from math import inf

LONG_AGO = -(2**63)  # a slice before any time of a clock


class TimeWindow:
    """Calls and failures within the last `seconds`, counted in `buckets` equal slices.

    A slice leaves as a whole, so the window covers between seconds * (1 - 1/buckets) and seconds.
    A clock that stands still, or a result that is counted late, goes into the newest slice.
    """

    __slots__ = (
        "_buckets", "_calls", "_ends", "_failures", "_head", "_index", "_width", "calls", "failures"
    )  # fmt: skip

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self._width = seconds / buckets
        self._buckets = buckets
        self.clear()

    def clear(self) -> None:
        """Reset the counts."""
        self._calls = [0] * self._buckets
        self._failures = [0] * self._buckets
        self._head = LONG_AGO
        self._index = 0  # where the newest slice is counted ...
        self._ends = -inf  # ... and when it ends
        self.calls = 0
        self.failures = 0

    def add(self, now: float, failed: int = 0, calls: int = 1) -> None:
        """Count one outcome, or several `calls` at once, and how many of them failed."""
        if now >= self._ends:
            self._roll_to(int(now / self._width))
        index = self._index
        self._calls[index] += calls
        self.calls += calls
        if failed:
            self._failures[index] += failed
            self.failures += failed

    def roll(self, now: float) -> None:
        """Drop the slices that are older than the window; `calls` and `failures` are then current."""
        if now >= self._ends:
            self._roll_to(int(now / self._width))

    def _roll_to(self, head: int) -> None:
        if head <= self._head:  # rounding: division and product may differ
            return
        for slice_ in range(max(self._head + 1, head - self._buckets + 1), head + 1):
            index = slice_ % self._buckets
            self.calls -= self._calls[index]
            self.failures -= self._failures[index]
            self._calls[index] = self._failures[index] = 0
        self._head = head
        self._index = head % self._buckets
        self._ends = (head + 1) * self._width


class CountWindow:
    """Calls and failures among the `last` outcomes, of any age."""

    __slots__ = ("_outcomes", "calls", "failures")

    def __init__(self, last: int) -> None:
        self._outcomes: deque[int] = deque(maxlen=last)
        self.clear()

    def clear(self) -> None:
        """Reset the counts."""
        self._outcomes.clear()
        self.calls = 0
        self.failures = 0

    def roll(self, now: float) -> None:
        """Drop nothing: outcomes leave one by one."""

    def add(self, now: float, failed: int = 0) -> None:  # noqa: ARG002 - a window of time asks for it
        """Count one outcome; when the window is full, the oldest leaves."""
        outcomes = self._outcomes
        if len(outcomes) == outcomes.maxlen:
            self.failures -= outcomes[0]
        else:
            self.calls += 1
        outcomes.append(failed)
        self.failures += failed
