"""Whether it is ourselves who hold the target back.

Where only total times are known, a queue and a slower target look alike: both are late. A stale mean then
makes the limit too small, which proves still less, and so on down. What tells them apart is the yield:
late and as many answers as before means a queue; late, no failures and *fewer* answers than before means
that we may be throttling ourselves. Then a floor under the limit grows until the answers are back.
"""

from math import exp

TAU = 30.0  # seconds; weight of the usual success rate and in-flight count
STEP = 10.0  # seconds in which the floor doubles or halves
FEWER = 0.8  # of the usual successes per second
FIRST = 10.0  # seconds of grace, at the least
GAIN, PLUS = 1.5, 2.0


class Guard:
    """Gives the floor. Feed it while all is quiet, and during an episode."""

    __slots__ = ("_began", "_floor", "_moved", "_seen", "_since", "_usual_in_flight", "_usual_rate")

    def __init__(self) -> None:
        self._usual_rate = 0.0
        self._usual_in_flight = 0.0
        self._seen = 0.0  # successes, decaying over the window of an episode
        self._since = 0.0
        self._began: float | None = None
        self._moved = 0.0
        self._floor = 0.0

    def quiet(self, now: float, successes: int, in_flight: int) -> None:
        """All is quiet: learn what is usual; `successes` since the last call here or to `floor`."""
        span = now - self._since
        self._since = now
        self._began = None
        self._floor = 0.0
        if span <= 0:
            return
        weight = 1 - exp(-span / TAU)
        self._usual_rate += weight * (successes / span - self._usual_rate)
        self._usual_in_flight += weight * (in_flight - self._usual_in_flight)

    def floor(self, now: float, successes: int, mean: float, *, failing: bool) -> float:
        """The floor during an episode."""
        window = max(FIRST, 3 * mean)
        span = max(0.0, now - self._since)
        self._since = now
        if self._began is None:
            self._began = self._moved = now
            self._seen = self._usual_rate * window
            self._floor = GAIN * self._usual_in_flight + PLUS
        self._seen = self._seen * exp(-span / window) + successes
        if failing:
            self._floor = 0.0
            return 0.0
        if now - self._began >= window:
            self._adjust(now, self._seen / window)
        return self._floor

    def _adjust(self, now: float, rate: float) -> None:
        steps = (now - max(self._moved, 0.0)) / STEP
        self._moved = now
        if rate < FEWER * self._usual_rate:
            self._floor *= 2.0**steps
        elif rate > self._usual_rate:
            self._floor *= 0.5**steps
