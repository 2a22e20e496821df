"""A send rate learned from refusals.

A refusal frees its slot at once, so a limit on what is in flight alone lets thousands of them through. When
429s pile up, sending is held a little below what was accepted in the last seconds; the rate grows slowly and
is gone after two minutes. One stray 429 teaches nothing.

A lesson also begins a trial of whether refusals are bad luck (`luck`), which no slower sending would help against. Until a
trial has found a limit, the rate goes no lower than what was served when it began; then no lower than half of that. If it is
bad luck, the rate is dropped, and refusals that it explains teach nothing.
"""

from collections.abc import Callable
from math import inf, log

from stormbreak.core.gate import OPEN
from stormbreak.core.luck import RandomRefusals
from stormbreak.core.window import TimeWindow
from stormbreak.types import Outcome, Verdict

WINDOW = 10.0  # seconds
SHARE = 0.1  # of what was sent that must have been refused ...
LEAST = 2  # ... and at least so many
ENOUGH = 5  # sends that a first lesson needs, or it is told by chance
BUSY = 5.0  # seconds of sending before a first lesson
PAUSE = 2.0  # seconds between two lessons
BELOW = 0.9  # of the accepted rate
MIN_SPEED = 0.05  # per second
GROWTH = 1.02  # per second
FADE = 120.0  # seconds without a lesson
SLOWER = 0.5  # of what was served, once a trial has shown that sending less helps
QUIET_AFTER = 15.0  # seconds without growth after a lesson during a trial


class AdaptiveSendRate:
    """The gate that spaces out sends. At most one second's worth of them leaves at once."""

    __slots__ = (
        "_busy_since",
        "_credit",
        "_earned_at",
        "_earning",
        "_learned_at",
        "_on_random_refusals",
        "_random_refusals",
        "_rate",
        "_refused",
        "_sent",
        "_sent_at",
        "_slowest",
        "_still_until",
    )  # fmt: skip
    name = "rate"
    settles_success = False

    def __init__(self, on_random: Callable[[float], None] = lambda _: None) -> None:
        """`on_random(now)` is called when refusals have proved to be bad luck."""
        self._sent = TimeWindow(WINDOW)
        self._refused = TimeWindow(WINDOW)
        self._random_refusals = RandomRefusals(self._found)
        self._on_random_refusals = on_random
        self._rate = inf  # when it was learned
        self._learned_at = -inf
        self._still_until = -inf  # the rate grows from then on
        self._slowest = MIN_SPEED
        self._credit = 0.0  # sends earned, as of `_earned_at`
        self._earned_at = 0.0
        self._earning = MIN_SPEED  # per second, since then
        self._sent_at = -inf  # the last send
        self._busy_since = -inf

    def in_force(self, now: float) -> bool:
        """Whether a rate holds."""
        return now - self._learned_at < FADE

    def is_random(self, now: float) -> bool:
        """Whether refusals are bad luck."""
        return self._random_refusals.holds(now)

    def rate_at(self, now: float) -> float:
        """Sends per second; inf where none is in force."""
        if not self.in_force(now):
            return inf
        growth: float = GROWTH ** max(0.0, now - self._still_until)
        return self._rate * growth

    def time_to_send(self, sends: float, now: float) -> float:
        """Seconds until so many more have been sent, at a rate that grows; 0 where none is in force.

        That it stands still during a trial is left out on purpose: the trial may end, and who is rejected gains nothing.
        """
        if not self.in_force(now):
            return 0.0
        growth = log(GROWTH)
        return log(1 + sends * growth / self.rate_at(now)) / growth

    def ready_at(self, now: float) -> float:
        """OPEN, or when the next send has been earned."""
        if now - self._learned_at >= FADE:
            return OPEN
        earned_at = self._earned_at + (1 - self._credit) / self._earning
        return OPEN if now >= earned_at else min(earned_at, self._learned_at + FADE)

    def take(self, now: float) -> None:
        """One leaves."""
        if now - self._sent_at > WINDOW:
            self._busy_since = now
        self._sent_at = now
        self._sent.add(now, failed=False)
        self._random_refusals.sent(now)
        if self.in_force(now):
            self._earn(now)
            self._credit = max(0.0, self._credit - 1)

    def settle(self, token: None, outcome: Outcome, now: float, uniform: float) -> None:  # noqa: ARG002
        """Learn from a refusal."""
        if outcome.verdict is not Verdict.THROTTLED:
            return
        self._refused.add(now, failed=True)
        self._random_refusals.refused(now)
        if now - self._learned_at < PAUSE or now - self._busy_since < BUSY:
            return
        self._sent.roll(now)
        sent, refused = self._sent.calls, self._refused.calls
        if refused < max(LEAST, SHARE * sent) or (sent < ENOUGH and not self.in_force(now)):
            return
        if self._random_refusals.holds(now):
            if self._random_refusals.explains(sent, refused):
                return
            self._random_refusals.revoke(now)
        self._learn(sent, refused, now)

    def _learn(self, sent: int, refused: int, now: float) -> None:
        before = self.rate_at(now)
        seconds = min(WINDOW, now - self._busy_since)
        served = (sent - refused) / seconds
        accepted = BELOW * served
        if accepted <= 0:
            accepted = (sent / seconds if before == inf else before) / 2
        if before == inf:
            self._credit, self._earned_at, self._slowest = 0.0, now, MIN_SPEED
        slower = SLOWER if self._random_refusals.is_limit else 1.0
        if self._random_refusals.suppose(refused / max(sent, refused), now) or before == inf:
            self._slowest = max(MIN_SPEED, slower * served, self._slowest / 2)
        self._earn(now)
        self._learned_at = now
        self._still_until = now + QUIET_AFTER if self._random_refusals.on_trial(now) else now
        self._rate = self._earning = max(self._slowest, accepted)

    def _found(self, now: float) -> None:
        """The refusals are bad luck: no rate helps against that."""
        self._learned_at = -inf
        self._on_random_refusals(now)

    def _earn(self, now: float) -> None:
        """Put down what was earned since the last time. Between two sends the rate stands still."""
        earned = (now - self._earned_at) * self._earning
        self._credit = min(max(1.0, self._earning), self._credit + earned)
        self._earned_at = now
        self._earning = self.rate_at(now)
