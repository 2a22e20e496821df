"""Verdicts of the last minute, by the second."""

from collections import Counter, deque
from collections.abc import Mapping

from stormbreak.telemetry.state import SECONDS
from stormbreak.types import Verdict


class LastMinute:
    """Keeps a count for each of the last seconds in which there was a verdict, and no more."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[Verdict]]] = deque(maxlen=SECONDS + 1)

    def add(self, at: float, verdict: Verdict) -> None:
        """Count one. What comes a moment late counts for the last second there is."""
        second = int(at)
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, Counter()))
        self._seconds[-1][1][verdict] += 1

    @property
    def last(self) -> int:
        """The last second in which there was one."""
        return self._seconds[-1][0] if self._seconds else 0

    def verdicts(self, now: float) -> Mapping[str, int]:
        """How many of each there were, the most frequent first."""
        whole: Counter[Verdict] = Counter()
        for second, counted in self._seconds:
            if second >= int(now) - SECONDS:
                whole += counted
        return {verdict.value: count for verdict, count in whole.most_common()}

    def series(self, now: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those that were ok, and the others, in each of the last seconds that are over."""
        counted = dict(self._seconds)
        nothing: Counter[Verdict] = Counter()
        seconds = [counted.get(int(now) - ago, nothing) for ago in range(SECONDS, 0, -1)]
        ok = tuple(second[Verdict.OK] for second in seconds)
        whole = (second.total() for second in seconds)
        return ok, tuple(all_ - good for all_, good in zip(whole, ok, strict=True))
