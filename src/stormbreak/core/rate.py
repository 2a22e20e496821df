"""A send rate learned from refusals.

A refusal frees its slot at once, so a limit on what is in flight alone lets thousands of them through. When
429s pile up, sending is held a little below what was accepted in the last seconds; the rate grows slowly and
is gone after two minutes. One stray 429 teaches nothing. Nor do refusals by chance, where they can be told: when
a cooldown is lifted because the target serves, what was refused until then is forgotten, and the rate with it.
"""

from math import inf

from stormbreak.core.gate import OPEN
from stormbreak.core.window import TimeWindow
from stormbreak.types import Outcome, Verdict

WINDOW = 10.0  # seconds
SHARE = 0.1  # of what was sent that must have been refused ...
LEAST = 2  # ... and at least so many
PAUSE = 2.0  # seconds between two lessons
BELOW = 0.9  # of the accepted rate
SLOWEST = 0.05  # per second
GROWTH = 1.02  # per second
FADE = 120.0  # seconds without a lesson


class LearnedRate:
    """The gate that spaces out sends. At most one second's worth of them leaves at once."""

    __slots__ = ("_credit", "_earned_at", "_earning", "_learned_at", "_rate", "_refused", "_sent")
    name = "rate"

    def __init__(self) -> None:
        self._sent = TimeWindow(WINDOW)
        self._refused = TimeWindow(WINDOW)
        self._rate = inf  # when it was learned
        self._learned_at = -inf
        self._credit = 0.0  # sends earned, as of `_earned_at`
        self._earned_at = 0.0
        self._earning = SLOWEST  # per second, since then

    def in_force(self, now: float) -> bool:
        """Whether a rate holds."""
        return now - self._learned_at < FADE

    def rate_at(self, now: float) -> float:
        """Sends per second; inf where none is in force."""
        if not self.in_force(now):
            return inf
        growth: float = GROWTH ** (now - self._learned_at)
        return self._rate * growth

    def ready_at(self, now: float) -> float:
        """OPEN, or when the next send has been earned."""
        if now - self._learned_at >= FADE:
            return OPEN
        earned_at = self._earned_at + (1 - self._credit) / self._earning
        return OPEN if now >= earned_at else min(earned_at, self._learned_at + FADE)

    def take(self, now: float) -> None:
        """One leaves."""
        self._sent.add(now, failed=False)
        if self.in_force(now):
            self._earn(now)
            self._credit = max(0.0, self._credit - 1)

    def settle(self, token: None, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Learn from a refusal."""
        if outcome.verdict is not Verdict.THROTTLED:
            return
        self._refused.add(now, failed=True)
        if now - self._learned_at < PAUSE:
            return
        self._sent.roll(now)
        sent, refused = self._sent.calls, self._refused.calls
        if refused >= max(LEAST, SHARE * sent):
            self._learn(sent, refused, now)

    def forget(self) -> None:
        """The target serves while it refuses: this was no limit that is used up."""
        self._refused.clear()
        self._learned_at = -inf

    def _learn(self, sent: int, refused: int, now: float) -> None:
        before = self.rate_at(now)
        accepted = BELOW * (sent - refused) / WINDOW
        if accepted <= 0:
            accepted = (sent / WINDOW if before == inf else before) / 2
        if before == inf:
            self._credit, self._earned_at = 0.0, now
        self._earn(now)
        self._learned_at = now
        self._rate = self._earning = max(SLOWEST, accepted)

    def _earn(self, now: float) -> None:
        """Put down what was earned since the last time. Between two sends the rate stands still."""
        earned = (now - self._earned_at) * self._earning
        self._credit = min(max(1.0, self._earning), self._credit + earned)
        self._earned_at = now
        self._earning = self.rate_at(now)
