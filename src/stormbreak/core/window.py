"""Counting outcomes over the last seconds, in constant time and space."""

from math import inf


class TimeWindow:
    """Calls and failures within the last `seconds`, counted in `buckets` equal slices.

    A slice leaves as a whole, so the window covers between seconds * (1 - 1/buckets) and seconds.
    A clock that stands still, or a result that is counted late, goes into the newest slice.
    """

    __slots__ = (
        "_buckets", "_calls", "_ends", "_failures", "_head", "_index", "_width", "calls", "failures",
    )  # fmt: skip

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self._width = seconds / buckets
        self._buckets = buckets
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._calls = [0] * self._buckets
        self._failures = [0] * self._buckets
        self._head: int | None = None
        self._index = 0  # of the newest slice
        self._ends = -inf  # when it ends
        self.calls = 0
        self.failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count one outcome."""
        if now >= self._ends:
            self.roll(now)
        self._calls[self._index] += 1
        self.calls += 1
        if failed:
            self._failures[self._index] += 1
            self.failures += 1

    def roll(self, now: float) -> None:
        """Drop the slices that are older than the window; `calls` and `failures` are then current."""
        head = int(now / self._width)
        newest = head if self._head is None else self._head
        if self._head is not None and head <= newest:
            return
        for slice_ in range(max(newest + 1, head - self._buckets + 1), head + 1):
            index = slice_ % self._buckets
            self.calls -= self._calls[index]
            self.failures -= self._failures[index]
            self._calls[index] = self._failures[index] = 0
        self._head = head
        self._index = head % self._buckets
        self._ends = (head + 1) * self._width
