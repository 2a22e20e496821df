"""Late answers: does the target have a queue, or has it become slower?

Both look alike: answers are late. But sending less shortens a queue, and does not speed up a slower target. Two tests
tell them apart. If one of them shows a slower target, the duration of the late answers becomes usual:

- *The spread.* A slower target multiplies each duration. A queue adds about the same wait to consecutive answers. The
  result does not depend on how much this process sends, so the test also works for one of several processes.
- *A trial.* After `RESET_AFTER` seconds of late answers, their duration counts as usual for now, so more is sent. If
  answers are late again, or none comes, within the next `RESET_AFTER` seconds, it was a queue: the former duration is
  usual again. Each failed trial doubles both times. They are `RESET_AFTER` again when no evidence has come for as long
  as they last. While attempts time out, there is no trial: only answers faster than the timeout are seen, so a longer
  duration could not show.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import exp, fsum, inf, log, sqrt
from statistics import median

from stormbreak.core.latency_baseline import ENOUGH

KEPT = 256  # times
RESET_AFTER = 120.0  # seconds of late answers before the first trial


class LateAnswers:
    """The answers of one episode of lateness, and the trials."""

    __slots__ = ("_began_at", "_tried_at", "_wait", "times")

    def __init__(self) -> None:
        self._tried_at = -inf  # the last trial, unless it failed
        self._began_at = 0.0
        self._wait = RESET_AFTER
        self.times: deque[float] = deque(maxlen=KEPT)  # seconds, the last answers of the episode

    def begin(self, now: float, evidence_at: float) -> None:
        """Begin an episode, with the attempts that leave from now on. `evidence_at`: the last evidence so far."""
        if now - evidence_at > self._wait:
            self._wait = RESET_AFTER
        self._began_at = now
        self.times.clear()

    def answered(self, sent_at: float, took: float) -> None:
        if sent_at >= self._began_at and took > 0.0:
            self.times.append(took)

    def is_trial_due(self, now: float, timed_out_at: float) -> bool:
        """Whether answers have been late for long enough without a timeout."""
        since = max(self._began_at, timed_out_at)
        return now - since > self._wait and len(self.times) >= ENOUGH

    def begin_trial(self, now: float) -> None:
        """Begin a trial: the time of these answers becomes usual."""
        self._tried_at = now

    def end_trial(self, now: float) -> bool:
        """End a failed trial, and wait longer for the next; return whether a trial was running."""
        if now - self._tried_at >= self._wait:
            return False
        self._tried_at, self._began_at = -inf, now
        self._wait *= 2
        self.times.clear()
        return True

    def is_slower(self, calm: Sequence[float]) -> bool:
        """Whether these answers spread like those of a slower target. `calm`: seconds of answers in a calm, sorted.

        If answers take r times as long, the variance of their logarithms stays the same with a slower target, and falls
        to 1/r^2 of itself in a queue. The threshold between the two is 1/r. The target counts as slower once the
        variance is a standard error above it.
        """
        now = [log(time) for time in self.times]
        before = [log(time) for time in calm if time > 0.0]
        if len(now) < ENOUGH or len(before) < 2:
            return False
        # From the differences of neighbours (von Neumann, 1941), since the wait in a queue also changes with time.
        steps = len(now) - 1
        spread = fsum((b - a) ** 2 for a, b in pairwise(now)) / 2 / steps
        mean = fsum(before) / len(before)  # `statistics.variance` computes in fractions
        variance = fsum((each - mean) ** 2 for each in before) / (len(before) - 1)
        ratio = exp(median(now) - median(before))
        error = sqrt(3 / steps + 2 / len(before))  # of the logarithm of the two variances' quotient
        return ratio > 1.0 and spread > variance / ratio * exp(error)
