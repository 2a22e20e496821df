"""Whether it is ourselves who hold the target back.

Where only total times are known, a queue and a slower target look alike: both are late. A stale mean then
makes the limit too small, which proves still less, and so on down. What tells them apart is the yield:
late and as many answers as before means a queue; late, no failures and *fewer* answers than before means
that we may be throttling ourselves. Then a floor under the limit grows until the answers are back.
"""

from math import exp

TAU = 30.0  # seconds; weight of the usual rate of answers and in-flight count
STEP = 10.0  # seconds in which the floor doubles or halves
PROBE_BELOW = 0.8  # of the usual answers per second
GRACE = 10.0  # seconds before the floor moves; at least
GRACE_TIMES = 3.0  # ... and so many times the usual time of an answer
GAIN, PLUS = 1.5, 2.0  # the floor at first, beside what was usually in flight


class LimitFloor:
    """Gives the floor. Feed it while all is quiet, and during an episode."""

    __slots__ = (
        "_began_at", "_floor", "_in_flight", "_most", "_moved_at", "_rate", "_recent", "_since"
    )  # fmt: skip

    def __init__(self, most: float) -> None:
        """The floor never exceeds `most`."""
        self._most = most
        self._rate = 0.0  # usual answers per second
        self._in_flight = 0.0  # usually
        self._recent = 0.0  # answers, decaying over the window of an episode
        self._since: float | None = None  # when it was fed last
        self._began_at: float | None = None  # the episode
        self._moved_at = 0.0  # the floor
        self._floor = 0.0

    def quiet(self, now: float, answers: int, in_flight: int) -> None:
        """All is quiet: learn what is usual. `answers` since it was last fed."""
        span = self._span(now)
        self._began_at = None
        if span > 0:
            weight = 1 - exp(-span / TAU)
            self._rate += weight * (answers / span - self._rate)
            self._in_flight += weight * (in_flight - self._in_flight)

    def floor(self, now: float, answers: int, mean: float, *, failing: bool) -> float:
        """The floor during an episode; `failing` takes it away."""
        window = max(GRACE, GRACE_TIMES * mean)
        span = self._span(now)
        if self._began_at is None:
            self._began_at = self._moved_at = now
            self._recent = self._rate * window
            self._floor = min(self._most, GAIN * self._in_flight + PLUS)
        self._recent = self._recent * exp(-span / window) + answers
        if failing:
            self._floor = 0.0
        elif now - self._began_at >= window:
            self._move(now, self._recent / window)
        return self._floor

    def _span(self, now: float) -> float:
        span = 0.0 if self._since is None else max(0.0, now - self._since)
        self._since = now
        return span

    def _move(self, now: float, rate: float) -> None:
        steps = (now - self._moved_at) / STEP
        self._moved_at = now
        if rate < PROBE_BELOW * self._rate:
            steps = min(steps, 10.0)  # 2 to the power of a long silence is no number
            self._floor = min(self._most, self._floor * 2.0**steps)
        elif rate > self._rate:
            self._floor *= 0.5**steps
