"""How many attempts a target has just been shown to serve at once.

Where first outputs are known, it is the peak of attempts past theirs: service slots, counted. Where only
the end is known, it is successes per second times the usual time of one (Little's law).
"""

from collections import deque
from itertools import pairwise

SLICES = 5


class ProvenByFirst:
    """The peak of attempts that put out, over the last `SLICES` seconds."""

    __slots__ = ("_peaks", "_second", "now_serving")

    def __init__(self) -> None:
        self.now_serving = 0
        self._second = 0
        self._peaks: deque[int] = deque([0] * SLICES, maxlen=SLICES)

    def first(self, now: float) -> None:
        """An attempt begins to put out."""
        self._roll(now)
        self.now_serving += 1
        self._peaks[-1] = max(self._peaks[-1], self.now_serving)

    def ended(self, now: float) -> None:
        """An attempt that had begun to put out has ended."""
        self._roll(now)
        self.now_serving -= 1

    def at(self, now: float) -> float:
        """The peak."""
        self._roll(now)
        return max(self._peaks)

    def _roll(self, now: float) -> None:
        second = int(now)
        for _ in range(min(second - self._second, SLICES)):
            self._peaks.append(self.now_serving)
        self._second = max(self._second, second)


class ProvenByRate:
    """The best mean rate of two adjacent slices of the last `SLICES`, times the usual time of an answer."""

    __slots__ = ("_least", "_slices")

    def __init__(self) -> None:
        self._slices: deque[list[float]] = deque(maxlen=SLICES)  # [begin, width, successes]
        self._least: float | None = None  # a smoothed minimum, until the mean is known

    def succeeded(self, now: float, took: float, mean: float | None) -> None:
        """An attempt was answered after `took` seconds."""
        if self._least is None or took < self._least:
            self._least = took
        else:
            self._least += 0.02 * (took - self._least)
        self._roll(now, mean)
        self._slices[-1][2] += 1

    def at(self, now: float, mean: float | None) -> float:
        """Rate times time; 0 while nothing is known."""
        service = self._least if mean is None else mean
        if service is None:
            return 0.0
        self._roll(now, mean)
        first = self._slices[0]
        alone = first[2] / first[1]
        rates = [(one[2] + two[2]) / (one[1] + two[1]) for one, two in pairwise(self._slices)]
        return max(rates, default=alone) * service

    def _roll(self, now: float, mean: float | None) -> None:
        width = max(1.0, (self._least or 0.0 if mean is None else mean) / 2)
        if not self._slices or now - self._slices[-1][0] > SLICES * width + self._slices[-1][1]:
            self._slices.clear()
            self._slices.append([now, width, 0.0])
        while now >= self._slices[-1][0] + self._slices[-1][1]:
            self._slices.append([self._slices[-1][0] + self._slices[-1][1], width, 0.0])
