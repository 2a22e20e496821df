"""What failures say about a target: whether it is dead, and whether refusals and timeouts are bad luck.

Each is judged by the answers beside it. Attempts that left after the last answered one and failed are a *run*: too long
a run is death. Attempts that left beside a refused one, or while one timed out, and were answered on time: bad luck.
"""

from collections import deque
from collections.abc import Collection
from math import inf, log

from stormbreak.core.gate import InFlight
from stormbreak.types import Verdict

WEIGHT = 0.1  # of the newest in a moving share or mean
MAJORITY = 0.5  # of a moving share
REMEMBERED = 180.0  # seconds
# death: the run of failures
SIGNIFICANCE = 0.001  # what chance does not explain
MIN_FAILURE_SHARE = 0.4  # the lowest share of failures that chance is granted ...
MAX_FAILURE_SHARE = 0.85  # ... and the highest
UNDECIDED = 0.25  # of a run: so many may still be under way
KEPT = 256  # failures of a run that are kept
# timeouts
TIMEOUTS = 8  # that are kept
PROMPT = 0.5  # of the time of a timeout: in an overload, what is answered has waited nearly as long


class FailureRun:
    """The attempts that left after the last answered one, and failed or are overdue.

    Where a share s of all attempts fails by chance, n of them in a row come with probability s^n. A run is unexplained
    where that is below `SIGNIFICANCE`. The share is learned from the runs that an answer ended.
    """

    __slots__ = ("_quick", "_under_way", "_usual_length", "answered_sent_at", "sent_at")

    def __init__(self, under_way: Collection[InFlight]) -> None:
        """`under_way`: the attempts that are watched, in the order in which they left."""
        self._under_way = under_way
        self.sent_at: list[float] = []  # when each of them left
        # Of these: refused or broken before they were late.
        self._quick: list[float] = []
        self._usual_length = 0.0  # failures between two answers
        self.answered_sent_at = -inf  # when the newest attempt left that was answered

    def count(self, flight: InFlight, *, quick: bool) -> bool:
        """Add an attempt, if it left after the last answered one; return whether the run is unexplained now."""
        if flight.counted or flight.sent_at <= self.answered_sent_at:
            return False
        flight.counted = True
        if len(self.sent_at) < KEPT:
            self.sent_at.append(flight.sent_at)
            if quick:
                self._quick.append(flight.sent_at)
        return self.is_unexplained()

    def answered(self, flight: InFlight) -> None:
        """Take note that the newest attempt so far was answered: what left before it is no longer in the run."""
        sent_at = self.answered_sent_at = flight.sent_at
        run = self.sent_at
        if not run:
            if self._usual_length:
                self._usual_length -= WEIGHT * self._usual_length
            return
        explained = not self.is_unexplained()
        self.sent_at = [each for each in run if each > sent_at]
        self._quick = [each for each in self._quick if each > sent_at]
        ended = len(run) - len(self.sent_at) - flight.counted
        if explained:
            self._usual_length += WEIGHT * (ended - self._usual_length)

    def __len__(self) -> int:
        """Failures in a row."""
        return len(self.sent_at)

    def start(self) -> None:
        self.sent_at, self._quick = [], []

    @property
    def max_length(self) -> float:
        """The number of failures in a row that chance explains."""
        share = self._usual_length / (1 + self._usual_length)
        return log(SIGNIFICANCE) / log(min(MAX_FAILURE_SHARE, max(MIN_FAILURE_SHARE, share)))

    def is_unexplained(self, *, by_quick: bool = False) -> bool:
        """Whether chance does not explain the run; `by_quick`: nor those that failed before they were late."""
        run = self._quick if by_quick else self.sent_at
        if not run or len(run) < self.max_length:
            return False
        first, last = min(run), max(run)
        undecided = 0
        for flight in self._under_way:
            if flight.sent_at > last:
                break
            undecided += flight.completion is None and flight.sent_at >= first
        return undecided <= UNDECIDED * len(run)


class Refusals:
    """429s, compared with the attempts that left after a refused one, and before its refusal was heard."""

    __slots__ = ("_served", "count", "heard_at", "sent_at")

    def __init__(self) -> None:
        self._served = 0.0  # share of those beside that were served
        self.count = 0  # since the last answer
        self.sent_at = -inf  # when the last that met a 429 left ...
        self.heard_at = -inf  # ... and when that was heard

    def compare(self, flight: InFlight, verdict: Verdict, now: float) -> None:
        """Take note of an attempt that was refused, or that was answered and left before the last refusal was heard."""
        beside = self.sent_at <= flight.sent_at <= self.heard_at
        if verdict is Verdict.OK:
            if beside:
                self._served += WEIGHT * (1 - self._served)
            return
        if beside:
            self._served -= WEIGHT * self._served
        self.sent_at = max(self.sent_at, flight.sent_at)
        self.heard_at = now
        self.count += 1

    @property
    def are_random(self) -> bool:
        """Whether most attempts beside one with a 429 are served: then the others need not wait."""
        return self._served > MAJORITY


class Timeouts:
    """The last attempts that timed out: bad luck if one that left later was answered on time, and none late since."""

    __slots__ = ("_luck_at", "recent")

    def __init__(self) -> None:
        self._luck_at = -inf
        self.recent: deque[tuple[float, float]] = deque(maxlen=TIMEOUTS)  # sent at, ended at

    def add(self, sent_at: float, now: float, on_time_sent_at: float, on_time_took: float) -> None:
        """Take note of a timeout. The last two are of the newest attempt that was answered on time."""
        self.recent.append((sent_at, now))
        if on_time_took < PROMPT * (now - sent_at) and on_time_sent_at > sent_at:
            self._luck_at = now

    def answered_on_time(self, sent_at: float, took: float, now: float) -> None:
        """Take note of an answer on time: timeouts are bad luck if it left while one of them was waited for."""
        began_at, ended_at = self.recent[-1]
        if took >= PROMPT * (ended_at - began_at):
            self._luck_at = -inf
        elif sent_at <= ended_at and any(
            began_at < sent_at <= ended_at for began_at, ended_at in self.recent
        ):
            self._luck_at = now

    def answered_late(self) -> None:
        """Take note of a late answer: timeouts may be its like."""
        self._luck_at = -inf

    def are_luck(self, now: float) -> bool:
        return now - self._luck_at <= REMEMBERED

    @property
    def last_at(self) -> float:
        """When an attempt last timed out; -inf if none has."""
        return self.recent[-1][1] if self.recent else -inf
