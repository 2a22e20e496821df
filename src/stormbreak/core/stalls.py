"""Stalls of this process: a blocking call, a collection of garbage, a busy neighbour.

Meanwhile answers wait to be read, and look late. The driver beats while attempts are in flight; an event that comes long
after the last beat comes after a stall. In virtual time nothing beats, and nothing stalls.
"""

from math import inf

BEAT = 0.1  # seconds between two beats
STALL = 0.25  # seconds without a beat; and after it, until the answers are read that came meanwhile

FORGOTTEN = 60.0  # seconds; the last beat was that of a loop that was closed meanwhile


class Stalls:
    """Those of the event loops that drive one engine."""

    __slots__ = ("_beat_at", "_stalled_at")

    def __init__(self) -> None:
        self._beat_at = inf  # none is to come
        self._stalled_at = -inf  # when the last stall ended

    def beat(self, now: float) -> None:
        """Note that the event loop runs."""
        if STALL < now - self._beat_at < FORGOTTEN:
            self._stalled_at = now
        self._beat_at = now

    def rest(self) -> None:
        """Note that no beat is to come, since nothing is in flight."""
        self._beat_at = inf

    def is_recent(self, now: float) -> bool:
        """Whether what is heard now may have waited for this process."""
        return STALL < now - self._beat_at < FORGOTTEN or now - self._stalled_at < STALL
