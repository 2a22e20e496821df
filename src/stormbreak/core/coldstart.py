"""Attempts that left before anything had succeeded, and are still under way.

Errors are quick and answers slow: of a hundred attempts that leave at once the ten that fail are known after
milliseconds, the ninety that succeed after seconds. A share of failures in the order of arrival would be ten
of ten. So those that left before the first success count as undecided, until they end.

What is usual for the target is not known then; an attempt is given the time that a probe is given, its
lease, and is no longer waited for after that. Once something has succeeded nothing is noted any more.
"""


class ColdStart:
    """Notes who left while nothing had succeeded. Numbers begin with 1; 0 is not noted."""

    __slots__ = ("_last", "_left_at", "_patience", "on")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last = 0
        self.begin()

    def begin(self) -> None:
        """Begin anew: nothing has succeeded yet."""
        self._left_at: dict[int, float] = {}
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

    def undecided(self, now: float) -> int:
        """How many are still under way, and not for too long."""
        old = now - self._patience
        while self._left_at:
            first = next(iter(self._left_at))
            if self._left_at[first] > old:
                break
            del self._left_at[first]
        return len(self._left_at)
