"""Seconds, counted in classes that grow by a tenth each: any number of them in little memory. Pure."""

from collections import Counter
from math import floor, log

GROWTH = 1.1
"""A class is so many times as wide as the one before: what is read back is right to within 5 %."""

LEAST = 0.001
"""Seconds; what is shorter counts as this."""

MOST = 1e6
"""Seconds, nearly two weeks; what is longer counts as this."""

_LOG = log(GROWTH)


class Histogram:
    """How often something took how long."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, seconds: float) -> None:
        """Count one."""
        bounded = min(max(seconds, LEAST), MOST) if seconds == seconds else LEAST  # noqa: PLR0124 - NaN
        self._counts[floor(log(bounded / LEAST) / _LOG)] += 1

    def update(self, other: "Histogram") -> None:
        """Count what the other one counted, too."""
        self._counts.update(other._counts)  # noqa: SLF001 - of this very class

    def quantile(self, share: float) -> float | None:
        """The seconds that `share` of them did not exceed; None where there are none."""
        wanted, seen = share * len(self), 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                return _middle(place)
        return None


def _middle(place: int) -> float:
    """The seconds in the middle of a class."""
    return LEAST * float(GROWTH ** (place + 0.5))
