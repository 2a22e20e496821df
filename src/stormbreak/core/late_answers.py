"""The load response of a target: whether its answers take longer because more is sent.

A queue and a slower target look alike: answers are late. Two things tell them apart, and then the time of late answers
becomes usual:

- *The spread.* A slower target multiplies the time of each answer. A queue adds the same wait to answers that come one
  after the other. What one of several processes sends does not matter for this.
- *A trial*, after `RESET_AFTER` seconds without a timeout: where attempts time out, the late answers are those that
  just made it, and no longer time could show. If answers are late again, or none comes, within as many seconds, now that
  more is sent, it was a queue: the former time is usual again, and the next trial waits twice as long, until as many
  seconds have passed without evidence.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import exp, fsum, inf, log, sqrt
from statistics import median

from stormbreak.core.latency_baseline import ENOUGH

KEPT = 256  # times
RESET_AFTER = 120.0  # seconds of evidence after which the present may become usual


class LateAnswers:
    """The answers of one episode of lateness, and the trials."""

    __slots__ = ("_began_at", "_tried_at", "_wait", "times")

    def __init__(self) -> None:
        self._tried_at = -inf  # the last trial, unless it failed
        self._began_at = 0.0
        self._wait = RESET_AFTER
        self.times: deque[float] = deque(maxlen=KEPT)  # seconds, the last answers of the episode

    def begin(self, now: float, evidence_at: float) -> None:
        """Begin an episode, with the attempts that leave from now on. `evidence_at`: of the last one."""
        if now - evidence_at > self._wait:
            self._wait = RESET_AFTER
        self._began_at = now
        self.times.clear()

    def answered(self, sent_at: float, took: float) -> None:
        if sent_at >= self._began_at and took > 0.0:
            self.times.append(took)

    def is_trial_due(self, now: float, timed_out_at: float = -inf) -> bool:
        """Whether answers have been late for long enough, and none has timed out meanwhile."""
        since = max(self._began_at, timed_out_at)
        return now - since > self._wait and len(self.times) >= ENOUGH

    def begin_trial(self, now: float) -> None:
        """Begin a trial: the time of these answers becomes usual."""
        self._tried_at = now

    def end_trial(self, now: float) -> bool:
        """End a trial that late answers or none show to have failed, and wait longer for the next; return whether there was one."""
        if now - self._tried_at >= self._wait:
            return False
        self._tried_at, self._began_at = -inf, now
        self._wait *= 2
        self.times.clear()
        return True

    def is_slower(self, calm: Sequence[float]) -> bool:
        """Whether these answers spread as those of a slower target do. `calm`: seconds of answers in a calm, sorted.

        With answers r times as long, the variance of the logarithm stays, or falls to 1/r^2 of it in a queue. The line
        between the two is 1/r. The answers decide once they are a standard error above it.
        """
        now = [log(time) for time in self.times]
        before = [log(time) for time in calm if time > 0.0]
        if len(now) < ENOUGH or len(before) < 2:
            return False
        # By the differences of neighbours (von Neumann, 1941): the wait in a queue changes with time, too.
        steps = len(now) - 1
        spread = fsum((b - a) ** 2 for a, b in pairwise(now)) / 2 / steps
        mean = fsum(before) / len(before)  # `statistics.variance` computes in fractions
        variance = fsum((each - mean) ** 2 for each in before) / (len(before) - 1)
        ratio = exp(median(now) - median(before))
        error = sqrt(3 / steps + 2 / len(before))  # of the logarithm of the two variances' quotient
        return ratio > 1.0 and spread > variance / ratio * exp(error)
