"""Stalls of this process: a blocking call, a collection of garbage, a busy neighbour.

Meanwhile answers wait to be read, and look late. The driver beats while attempts are in flight; an event that comes long
after the last beat comes after a stall, unless the loop that beat has ended. In virtual time nothing beats, and nothing
stalls.
"""

from collections.abc import Callable
from math import inf

BEAT = 0.1  # seconds between two beats
STALL = 0.25  # seconds without a beat; and after it, until the answers are read that came meanwhile


class Stalls:
    """Those of the event loops that drive one engine."""

    __slots__ = ("_beat_at", "_runs", "_stalled_at")

    def __init__(self) -> None:
        self._beat_at = inf
        self._runs: Callable[[], bool] = bool  # False
        self._stalled_at = -inf  # when the last stall ended

    def beat(self, now: float, runs: Callable[[], bool]) -> None:
        """Note that an event loop runs; `runs()` says later whether it still does, or has ended without a `rest`."""
        if now - self._beat_at > STALL and self._runs():
            self._stalled_at = now
        self._beat_at, self._runs = now, runs

    def rest(self) -> None:
        """Note that no beat is to come, since nothing is in flight."""
        self._beat_at, self._runs = inf, bool

    def is_recent(self, now: float) -> bool:
        """Whether what is heard now may have waited for this process."""
        has_just_ended = now - self._stalled_at < STALL
        return has_just_ended or (now - self._beat_at > STALL and self._runs())
