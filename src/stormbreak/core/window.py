"""Counting outcomes over the last seconds, in constant time and space."""


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
        self._head: int | None = None
        self.calls = 0
        self.failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count one outcome."""
        self.roll(now)
        index = self._head % self._buckets if self._head is not None else 0
        self._calls[index] += 1
        self.calls += 1
        if failed:
            self._failures[index] += 1
            self.failures += 1

    def roll(self, now: float) -> None:
        """Drop the slices that are older than the window; `calls` and `failures` are then current."""
        head = int(now / self._width)
        if self._head is None:
            self._head = head
            return
        if head <= self._head:
            return
        for slice_ in range(max(self._head + 1, head - self._buckets + 1), head + 1):
            index = slice_ % self._buckets
            self.calls -= self._calls[index]
            self.failures -= self._failures[index]
            self._calls[index] = self._failures[index] = 0
        self._head = head
