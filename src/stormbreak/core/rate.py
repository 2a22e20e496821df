"""A send rate learned from refusals.

A refusal frees its slot at once, so a limit on what is in flight alone lets thousands of them through. When
429s pile up, sending is held a little below what was accepted in the last seconds; the rate grows slowly and
fades after two minutes. One stray 429 teaches nothing.
"""

from math import inf

from stormbreak.core.gate import OPEN
from stormbreak.core.window import TimeWindow
from stormbreak.types import Outcome, Verdict

WINDOW = 10.0  # seconds
SHARE = 0.1  # of what was sent that must have been refused, and at least LEAST
LEAST = 2
PAUSE = 2.0  # seconds between two lessons
BELOW = 0.9  # of the accepted rate
SLOWEST = 0.05  # per second
GROWTH = 1.02  # per second
FADE = 120.0  # seconds without a lesson


class LearnedRate:
    """The gate that spaces out sends."""

    __slots__ = ("_credit", "_learned_at", "_rate", "_refused", "_sent", "_spent_at")
    name = "rate"

    def __init__(self) -> None:
        self._sent = TimeWindow(WINDOW)
        self._refused = TimeWindow(WINDOW)
        self._rate = inf
        self._learned_at = -inf
        self._credit = 0.0
        self._spent_at = 0.0

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
        rate = self.rate_at(now)
        if rate == inf:
            return OPEN
        credit = self._credit_at(now, rate)
        return OPEN if credit >= 1 else now + (1 - credit) / rate

    def take(self, now: float) -> None:
        """One leaves."""
        self._sent.add(now, failed=False)
        rate = self.rate_at(now)
        if rate != inf:
            self._credit = max(0.0, self._credit_at(now, rate) - 1)
        self._spent_at = now

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

    def _learn(self, sent: int, refused: int, now: float) -> None:
        accepted = max(0, sent - refused)
        before = self.rate_at(now)
        if accepted:
            rate = BELOW * accepted / WINDOW
        else:
            rate = before / 2 if before != inf else BELOW * sent / WINDOW / 2
        self._rate = max(SLOWEST, rate)
        if before == inf:
            self._credit, self._spent_at = 0.0, now
        self._learned_at = now

    def _credit_at(self, now: float, rate: float) -> float:
        """Sends earned: at most one second's worth, and always room for one."""
        return min(max(1.0, rate), self._credit + (now - self._spent_at) * rate)
