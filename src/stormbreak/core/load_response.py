"""The load response of a target: whether its answers take longer because more is sent.

A queue and a slower target look alike: answers are late. What sending less does tells them apart. Attempts that
left after the newest answered one are *outstanding*. In a queue, first in, first out, the time of an answer is
proportional to their number when it left, but no shorter than in a calm. A slower target with free slots takes as long
whatever their number.

So attempts that left before the limit held them back are compared with those that left after it was felt: one round
trip later, when an attempt that left since has been answered. A queue changes the time by a known factor f, without one
it stays as it is. The line between the two is the square root of f. The answers decide once log(f) / 2 is more than the
standard error: then one of the two is more than that away from the line.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import exp, fsum, log
from statistics import median, variance

KEPT = 256  # times


class _Group:
    """Answers to attempts that left in one span: moving moments of logarithms (Welford, 1962)."""

    __slots__ = ("count", "outstanding", "squares", "time")

    def __init__(self) -> None:
        self.count = 0
        self.outstanding = 0.0  # mean log(outstanding)
        self.time = 0.0  # mean log(seconds), and ...
        self.squares = 0.0  # ... the sum of the squared distances from it

    def add(self, outstanding: float, time: float) -> None:
        """Add one answer, by logarithms."""
        self.count += 1
        self.outstanding += (outstanding - self.outstanding) / self.count
        distance = time - self.time
        self.time += distance / self.count
        self.squares += distance * (time - self.time)

    @property
    def variance(self) -> float:
        """The squared standard error of `time`."""
        return self.squares / (self.count - 1) / self.count


class LoadResponse:
    """Compares the answers of one episode of lateness, before and after the limit was felt."""

    __slots__ = ("_after", "_before", "_began_at", "_felt_at", "_held_at", "times")

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Begin an episode, with the attempts that leave from now on."""
        self._began_at = now
        self._held_at: float | None = None  # since then the limit holds
        self._felt_at: float | None = None  # the first answer to an attempt that left since
        self._before, self._after = _Group(), _Group()
        self.times: deque[float] = deque(
            maxlen=KEPT
        )  # seconds, of the last answers that are compared

    def hold(self, now: float) -> None:
        """Note that the limit holds, from the first time on."""
        if self._held_at is None:
            self._held_at = now

    def answered(
        self, sent_at: float, outstanding: int, took: float, now: float, calm: float
    ) -> None:
        """Record an answer, late or not. `calm` is the median time of an answer in a calm, in seconds."""
        held_at, felt_at = self._held_at, self._felt_at
        if sent_at < self._began_at or took <= 0.0:
            return
        if held_at is None or sent_at < held_at:
            self._before.add(log(outstanding), log(took))
        elif felt_at is None:
            self._felt_at = now
            return
        elif sent_at < felt_at:
            return
        else:
            before = self._before
            shortest = before.outstanding + min(0.0, log(calm) - before.time)  # as in a calm
            self._after.add(max(shortest, log(outstanding)), log(took))
        self.times.append(took)

    def is_slower(self, calm: Sequence[float]) -> bool:
        """Whether these answers spread as those of a slower target do. `calm`: seconds of answers in a calm, sorted.

        A slower target multiplies the time of every answer, and its logarithm spreads as before. A queue adds the same wait
        to answers that come one after the other; with answers r times as long, the variance of the logarithm falls to
        1/r^2 of it. The line between the two is 1/r.
        """
        now = [log(time) for time in self.times]
        before = [log(time) for time in calm if time > 0.0]
        if len(now) < 2 or len(before) < 2:
            return False
        # By the differences of neighbours (von Neumann, 1941): the wait in a queue changes with time, too.
        spread = fsum((b - a) ** 2 for a, b in pairwise(now)) / 2 / (len(now) - 1)
        ratio = exp(median(now) - median(before))
        return spread > variance(before) / ratio

    @property
    def is_flat(self) -> bool:
        """Whether the time of an answer is known not to depend on how much is outstanding: then sending less is pointless."""
        before, after = self._before, self._after
        if before.count < 2 or after.count < 2:
            return False
        change = after.outstanding - before.outstanding  # of log(time), in a queue
        if (change / 2) ** 2 <= before.variance + after.variance:
            return False
        return (after.time - before.time - change / 2) * change < 0
