"""Windows over the last seconds or the last n outcomes, and decaying means. All take constant time."""

from collections import deque
from math import exp, inf

LONG_AGO = -(2**63)  # a slice before any time of a clock


class DecayingMean:
    """A mean over about the last `seconds`: each value is weighted by its span and decays. Unbiased at the start."""

    __slots__ = ("_seconds", "_sum", "_weight")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sum = 0.0
        self._weight = 0.0  # of all values so far; it grows to 1

    def add(self, value: float, span: float) -> None:
        """Count a value that held for `span` seconds."""
        weight = 1 - exp(-span / self._seconds)
        if weight:  # otherwise rounding makes the span 0, and the value may be infinite
            self._sum += weight * (value - self._sum)
            self._weight += weight * (1 - self._weight)

    def mean(self, *, min_weight: float = 0.0) -> float:
        """Return the mean; 0 without values. Below `min_weight`, the missing weight counts as values of 0."""
        weight = max(self._weight, min_weight)
        return self._sum / weight if weight else 0.0


class TimeWindow:
    """Calls and failures within the last `seconds`, counted in `buckets` equal slices.

    A slice leaves as a whole, so the window covers between seconds * (1 - 1/buckets) and seconds. If the clock stands
    still, or a result is counted late, it goes into the newest slice.
    """

    __slots__ = (
        "_before", "_buckets", "_ends", "_head", "_slices", "_width", "calls", "failures"
    )  # fmt: skip

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self._width = seconds / buckets
        self._buckets = buckets
        self.clear()

    def clear(self) -> None:
        self._slices = [(0, 0)] * self._buckets  # calls and failures of each slice but the newest
        self._before = 0, 0  # their sum
        self._head = LONG_AGO
        self._ends = -inf  # end of the newest slice
        self.calls = 0
        self.failures = 0

    def add(self, now: float, failed: int = 0, calls: int = 1) -> None:
        """Count one outcome, or several `calls` at once, and how many of them failed."""
        if now >= self._ends:
            self._roll_to(int(now / self._width))
        self.calls += calls
        if failed:
            self.failures += failed

    def roll(self, now: float) -> None:
        """Drop the slices that are older than the window; `calls` and `failures` are then current."""
        if now >= self._ends:
            self._roll_to(int(now / self._width))

    def _roll_to(self, head: int) -> None:
        if head <= self._head:  # rounding: division and product may differ
            return
        slices, buckets = self._slices, self._buckets
        calls, failures = self._before
        slices[self._head % buckets] = self.calls - calls, self.failures - failures
        for number in range(max(self._head + 1, head - buckets + 1), head + 1):
            calls, failures = slices[number % buckets]
            slices[number % buckets] = 0, 0
            self.calls -= calls
            self.failures -= failures
        self._before = self.calls, self.failures
        self._head = head
        self._ends = (head + 1) * self._width


class CountWindow:
    """Calls and failures among the `last` outcomes, of any age."""

    __slots__ = ("_outcomes", "calls", "failures")

    def __init__(self, last: int) -> None:
        self._outcomes: deque[int] = deque(maxlen=last)
        self.clear()

    def clear(self) -> None:
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
