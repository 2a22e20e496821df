"""Counting outcomes over the last seconds, in constant time and space."""

LONG_AGO = -(2**63)
"""A slice before any that a clock can name."""


class TimeWindow:
    """Calls and failures within the last `seconds`, counted in `buckets` equal slices.

    A slice leaves as a whole, so the window covers between seconds * (1 - 1/buckets) and seconds.
    A clock that stands still, or a result that is counted late, goes into the newest slice.
    """

    __slots__ = ("_buckets", "_calls", "_failures", "_head", "_width", "calls", "failures")

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self._width = seconds / buckets
        self._buckets = buckets
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._calls = [0] * self._buckets
        self._failures = [0] * self._buckets
        self._head = LONG_AGO
        self.calls = 0
        self.failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count one outcome."""
        head = int(now / self._width)
        if head > self._head:
            self._roll_to(head)
        index = self._head % self._buckets
        self._calls[index] += 1
        self.calls += 1
        if failed:
            self._failures[index] += 1
            self.failures += 1

    @property
    def peak(self) -> int:
        """Calls in the fullest slice."""
        return max(self._calls)

    def roll(self, now: float) -> None:
        """Drop the slices that are older than the window; `calls` and `failures` are then current."""
        head = int(now / self._width)
        if head > self._head:
            self._roll_to(head)

    def _roll_to(self, head: int) -> None:
        for slice_ in range(max(self._head + 1, head - self._buckets + 1), head + 1):
            index = slice_ % self._buckets
            self.calls -= self._calls[index]
            self.failures -= self._failures[index]
            self._calls[index] = self._failures[index] = 0
        self._head = head
