"""The throughput estimate: how many attempts a target demonstrably serves at once.

If first outputs are known, it is the peak number of attempts past their first output, which counts service slots. If
only the ends are known, it is answers per second times the usual duration (Little's law). A cut answer counts for the
share of that duration that it took; otherwise retries of cut answers would shrink the limit again and again.
"""

from collections import deque
from itertools import pairwise

SLICES = 5
RECENT = 2  # slices that count while answers are late
LEARNING = 0.02  # weight of a longer answer in the smoothed minimum duration


class FirstOutputEstimate:
    """The peak of attempts with output, over the last `SLICES` seconds."""

    def __init__(self) -> None:
        self.serving = 0  # attempts past their first output now
        self._second = 0
        self._peaks: deque[int] = deque([0] * SLICES, maxlen=SLICES)

    def first(self, now: float) -> None:
        self._roll(now)
        self.serving += 1
        self._peaks[-1] = max(self._peaks[-1], self.serving)

    def ended(self, now: float) -> None:
        self._roll(now)
        self.serving -= 1

    def at(self, now: float) -> float:
        self._roll(now)
        return max(self._peaks)

    def forget(self, now: float) -> None:
        self._roll(now)
        for place in range(SLICES - RECENT):
            self._peaks[place] = 0

    def _roll(self, now: float) -> None:
        second = int(now)
        if second > self._second:
            self._peaks.extend([self.serving] * min(second - self._second, SLICES))
            self._second = second


class _Slice:
    __slots__ = ("answers", "ends", "width")

    def __init__(self, begins: float, width: float) -> None:
        self.width = width
        self.ends = begins + width
        self.answers = 0.0


class RateEstimate:
    """The best mean rate of two adjacent slices of the last `SLICES`, times the usual duration of an answer.

    A slice is half that duration wide, and at least a second. Until the usual duration is known, a smoothed minimum is
    used.
    """

    def __init__(self) -> None:
        self._slices: deque[_Slice] = deque(maxlen=SLICES)
        self._best = 0.0  # best rate of two slices, without the newest slice
        self._min_duration: float | None = None

    def answered(self, now: float, took: float, mean: float | None) -> None:
        shortest = self._min_duration
        if shortest is None or took < shortest:
            self._min_duration = took
        else:
            self._min_duration = shortest + LEARNING * (took - shortest)
        slices = self._slices
        if not slices or now >= slices[-1].ends:
            self._roll(now, self._min_duration if mean is None else mean)
        slices[-1].answers += 1

    def cut(self, now: float, took: float, mean: float) -> None:
        """Record an answer that was cut after `took` seconds of service."""
        if not self._slices or now >= self._slices[-1].ends:
            self._roll(now, mean)
        self._slices[-1].answers += min(1.0, took / mean)

    def at(self, now: float, mean: float | None) -> float:
        """Return rate times duration; 0 while unknown."""
        service = self._min_duration if mean is None else mean
        if service is None:
            return 0.0
        slices = self._slices
        if not slices or now >= slices[-1].ends:
            self._roll(now, service)
        newest = slices[-1]
        if len(slices) == 1:
            return newest.answers / newest.width * service
        return max(self._best, _rate(slices[-2], newest)) * service

    def _roll(self, now: float, service: float) -> None:
        slices = self._slices
        width = max(1.0, service / 2)
        if not slices or now - slices[-1].ends > SLICES * width:
            slices.clear()
            slices.append(_Slice(now, width))
        while now >= slices[-1].ends:
            slices.append(_Slice(slices[-1].ends, width))
        self._best = max([0.0, *(_rate(*pair) for pair in pairwise(list(slices)[:-1]))])


def _rate(one: _Slice, other: _Slice) -> float:
    return (one.answers + other.answers) / (one.width + other.width)
