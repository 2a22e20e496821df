"""A clock that jumps, as plain as can be: all that the bare models need. Nothing of ours is used."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf


class Clock:
    """Things to do at points in time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay: float, do: Callable[[], None]) -> None:
        """Do something `delay` from now."""
        heappush(self._due, (self.now + delay, next(self._order), do))

    def run(self, until: float = inf) -> None:
        """Do all that is due up to `until`."""
        while self._due and self._due[0][0] <= until:
            self.now, _, do = heappop(self._due)
            do()
