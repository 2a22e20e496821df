"""Stalls of this process: a blocking call, a collection of garbage, a busy neighbour.

During a stall answers wait to be read, and look late. The driver beats while attempts are in flight. An event long
after the last beat comes after a stall, unless the loop of that beat has ended. In virtual time there are no beats and
no stalls.
"""

from collections.abc import Callable
from math import inf

BEAT = 0.1  # seconds between two beats
STALL = 0.25  # seconds without a beat; also the time after a stall to read the answers that waited


class Stalls:
    """The stalls of the event loops that drive one engine."""

    __slots__ = ("_beat_at", "_runs", "_stalled_at")

    def __init__(self) -> None:
        self._beat_at = inf
        self._runs: Callable[[], bool] = bool  # False
        self._stalled_at = -inf  # when the last stall ended

    def beat(self, now: float, runs: Callable[[], bool]) -> None:
        """Record that an event loop runs; `runs()` tells later whether it still runs, or has ended without a `rest`."""
        if now - self._beat_at > STALL and self._runs():
            self._stalled_at = now
        self._beat_at, self._runs = now, runs

    def rest(self) -> None:
        """Record that no beat will come, since nothing is in flight."""
        self._beat_at, self._runs = inf, bool

    def is_recent(self, now: float) -> bool:
        """Whether an event that is read now may have waited for this process."""
        has_just_ended = now - self._stalled_at < STALL
        return has_just_ended or (now - self._beat_at > STALL and self._runs())
