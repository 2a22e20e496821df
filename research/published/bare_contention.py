"""The model of "Exponential Backoff And Jitter", written anew from its description, without any of our code.

Clients change one row of a table, each once. A client reads the row's version, then writes with that version; the write
counts if the version is still the same, else the client backs off and reads again. Each of the four trips takes the
absolute value of a normal delay. Times are milliseconds, as published.
"""

from collections.abc import Callable, Mapping
from random import Random

from published.bare import Clock

MEAN, DEVIATION = 10.0, 2.0  # of a trip; the article gives the variance, 4
BASE, CAP = 5.0, 2000.0


def _grown(failures: int) -> float:
    return min(CAP, BASE * 2.0**failures)  # the first failure is number 1: twice the base


def _none(chance: Random, failures: int, slept: float) -> float:  # noqa: ARG001
    return 0.0


def _exponential(chance: Random, failures: int, slept: float) -> float:  # noqa: ARG001
    return _grown(failures)


def _equal(chance: Random, failures: int, slept: float) -> float:  # noqa: ARG001
    half = _grown(failures) / 2
    return half + chance.uniform(0, half)


def _full(chance: Random, failures: int, slept: float) -> float:  # noqa: ARG001
    return chance.uniform(0, _grown(failures))


def _decorrelated(chance: Random, failures: int, slept: float) -> float:  # noqa: ARG001
    return min(CAP, chance.uniform(BASE, 3 * slept))


BACKOFFS: Mapping[str, Callable[[Random, int, float], float]] = {
    "none": _none,
    "exponential": _exponential,
    "equal": _equal,
    "full": _full,
    "decorrelated": _decorrelated,
}
"""How long to sleep, by chance, the number of failures so far, and the sleep before (at first the base)."""


class _Table:
    def __init__(self, strategy: str, chance: Random) -> None:
        self.clock = Clock()
        self.calls = 0
        self._version = 0
        self._backoff = BACKOFFS[strategy]
        self._chance = chance

    def begin(self) -> None:
        """One more client starts."""
        self._ask(0, BASE)

    def _trip(self) -> float:
        return abs(self._chance.normalvariate(MEAN, DEVIATION))

    def _ask(self, failures: int, slept: float) -> None:
        self.clock.after(self._trip(), lambda: self._read(failures, slept))

    def _read(self, failures: int, slept: float) -> None:
        version = self._version
        there_and_back = self._trip() + self._trip()
        self.clock.after(there_and_back, lambda: self._write(version, failures, slept))

    def _write(self, version: int, failures: int, slept: float) -> None:
        self.calls += 1
        if version == self._version:
            self._version += 1
            self.clock.after(self._trip(), lambda: None)  # the client hears of it, and is done
        else:
            self.clock.after(self._trip(), lambda: self._again(failures + 1, slept))

    def _again(self, failures: int, slept: float) -> None:
        sleep = self._backoff(self._chance, failures, slept)
        self.clock.after(sleep, lambda: self._ask(failures, sleep))


def run(strategy: str, clients: int, seed: int) -> tuple[int, float]:
    """How many writes it took until every client was done, and how many milliseconds."""
    table = _Table(strategy, Random(seed))
    for _ in range(clients):
        table.begin()
    table.clock.run()
    return table.calls, table.clock.now
