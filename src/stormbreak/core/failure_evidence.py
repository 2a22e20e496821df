"""Evidence from failures: whether a target is dead, and whether refusals and timeouts are bad luck.

A failure is judged by the answers around it. Attempts that left after the newest answered attempt and failed are a
*run*; a run that is too long means death. If attempts that left beside a refused one, or during one that timed out,
were answered on time, the failure was bad luck.
"""

from collections import deque
from collections.abc import Collection
from math import inf, log

from stormbreak.core.gate import InFlight
from stormbreak.types import Verdict

WEIGHT = 0.1  # of the newest value in a moving share or mean
MAJORITY = 0.5  # of a moving share
REMEMBERED = 180.0  # seconds for which evidence counts
# death: the run of failures
SIGNIFICANCE = 0.001  # chance does not explain a run with a lower probability
MIN_FAILURE_SHARE = 0.4  # the lowest share of random failures that is assumed ...
MAX_FAILURE_SHARE = 0.85  # ... and the highest
UNDECIDED = 0.25  # share of a run that may still be in flight
KEPT = 256  # maximum failures of a run that are kept
# timeouts
TIMEOUTS = 8  # maximum number that is kept
PROMPT = 0.5  # of the duration of a timeout: in an overload, answers take nearly as long


class FailureRun:
    """The attempts that left after the last answered one, and failed or are overdue.

    If a share s of all attempts fails by chance, n failures in a row have the probability s^n. A run is unexplained if
    that is below `SIGNIFICANCE`. The share is learned from the runs that ended with an answer.
    """

    __slots__ = ("_quick", "_under_way", "_usual_length", "answered_sent_at", "sent_at")

    def __init__(self, under_way: Collection[InFlight]) -> None:
        """`under_way`: the watched attempts, in the order in which they left."""
        self._under_way = under_way
        self.sent_at: list[float] = []  # when each of them left
        # Those that were refused or broken before they were late.
        self._quick: list[float] = []
        self._usual_length = 0.0  # failures between two answers
        self.answered_sent_at = -inf  # when the newest answered attempt left

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
        """Record that the newest attempt so far was answered: drop earlier attempts from the run."""
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
        """Return the failures in a row."""
        return len(self.sent_at)

    def start(self) -> None:
        self.sent_at, self._quick = [], []

    @property
    def max_length(self) -> float:
        """The number of failures in a row that chance explains."""
        share = self._usual_length / (1 + self._usual_length)
        return log(SIGNIFICANCE) / log(min(MAX_FAILURE_SHARE, max(MIN_FAILURE_SHARE, share)))

    def is_unexplained(self, *, by_quick: bool = False) -> bool:
        """Whether chance does not explain the run; `by_quick`: count only attempts that failed before being late."""
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
    """429s, compared with attempts that left after a refused attempt, and before its refusal arrived."""

    __slots__ = ("_served", "count", "refused_at", "sent_at")

    def __init__(self) -> None:
        self._served = 0.0  # share of these attempts that were served
        self.count = 0  # 429s since the last answer
        self.sent_at = -inf  # when the newest refused attempt left ...
        self.refused_at = -inf  # ... and when the last refusal arrived

    def compare(self, flight: InFlight, verdict: Verdict, now: float) -> None:
        """Record an attempt that was refused, or that was answered and left before the last refusal arrived."""
        beside = self.sent_at <= flight.sent_at <= self.refused_at
        if verdict is Verdict.OK:
            if beside:
                self._served += WEIGHT * (1 - self._served)
            return
        if beside:
            self._served -= WEIGHT * self._served
        self.sent_at = max(self.sent_at, flight.sent_at)
        self.refused_at = now
        self.count += 1

    @property
    def are_random(self) -> bool:
        """Whether most attempts beside a refused one are served: then other calls need not wait."""
        return self._served > MAJORITY


class Timeouts:
    """The last timeouts: bad luck if an attempt that left later was answered on time, and no answer was late since."""

    __slots__ = ("_luck_at", "recent")

    def __init__(self) -> None:
        self._luck_at = -inf
        self.recent: deque[tuple[float, float]] = deque(maxlen=TIMEOUTS)  # sent at, ended at

    def add(self, sent_at: float, now: float, on_time_sent_at: float, on_time_took: float) -> None:
        """Record a timeout. The last two arguments describe the newest attempt that was answered on time."""
        self.recent.append((sent_at, now))
        if on_time_took < PROMPT * (now - sent_at) and on_time_sent_at > sent_at:
            self._luck_at = now

    def answered_on_time(self, sent_at: float, took: float, now: float) -> None:
        """Record an answer on time: timeouts are bad luck if the attempt left while one of them was in flight."""
        began_at, ended_at = self.recent[-1]
        if took >= PROMPT * (ended_at - began_at):
            self._luck_at = -inf
        elif sent_at <= ended_at and any(
            began_at < sent_at <= ended_at for began_at, ended_at in self.recent
        ):
            self._luck_at = now

    def answered_late(self) -> None:
        """Record a late answer: timeouts may have the same cause."""
        self._luck_at = -inf

    def are_luck(self, now: float) -> bool:
        return now - self._luck_at <= REMEMBERED

    @property
    def last_at(self) -> float:
        """When an attempt last timed out; -inf if none has."""
        return self.recent[-1][1] if self.recent else -inf
