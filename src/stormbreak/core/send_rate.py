"""A send rate learned from refusals.

A refusal frees its slot at once, so a limit on what is in flight alone lets thousands of them through. When
429s pile up, sending is held a little below what was accepted in the last seconds; the rate grows slowly, faster the
longer there is no 429 at all, and is gone after two minutes. One stray 429 has no effect.

The first seconds of sending teach nothing: a bucket serves more in them than later. If nearly all of what is sent is
refused then, a *brake* holds sending to what was accepted per second so far, until two seconds without a refusal or a
first lesson.

A lesson also begins a trial of whether refusals are bad luck (`random_refusals`), which no slower sending would help
against. Until a trial has found a limit, the rate goes no lower than what was served when it began; then no lower than
half of that. If it is bad luck, the rate is dropped, and refusals that it explains teach nothing.

A limit that is *used up* refuses all: a window until its end, and a bucket that refusals empty, too, for as long as they
come. Then a probe a second leaves until one is answered, or none is refused any more. If it is used up again soon, half
of the rate is the floor.
"""

from collections.abc import Callable
from math import inf, log

from stormbreak.core.gate import READY
from stormbreak.core.random_refusals import MAX_SHARE, WINDOW, RandomRefusals
from stormbreak.core.window import TimeWindow
from stormbreak.types import Outcome, Verdict

SHARE = 0.1  # of what was sent that must have been refused ...
MIN_REFUSALS = 2  # ... and at least so many
ENOUGH = 5  # sends that a first lesson needs, also after a death, or chance decides
BUSY = 5.0  # seconds of sending before a first lesson: a brake at most
PAUSE = 2.0  # seconds between two lessons
BELOW = 0.9  # of the accepted rate
MIN_SPEED = 0.05  # per second
GROWTH = 1.02  # per second
GUESSES = 4  # at a time that depends on the growth until then
FASTER = 10.0  # seconds without a refusal after which the growth has trebled
FADE = 120.0  # seconds without a lesson
SLOWER = 0.5  # of what was served, once a trial has shown that sending less helps
QUIET_AFTER = 15.0  # seconds without growth after a lesson during a trial
ALL_REFUSED = 20  # sends within `WINDOW`, and as many refusals: the limit is used up
PROBES = 1 / 3  # of the rate, while the limit is used up ...
MOST_PROBES = 1.0  # ... and at most so many per second; a brake lets at least so many leave
SOON = 30.0  # seconds: a limit used up again so soon bears half of the rate
SILENT = 5.0  # seconds without a refusal: the limit is no longer used up, although no answer has come yet


class AdaptiveSendRate:
    """The gate that spaces out sends. At most one second's worth of them leaves at once."""

    name = "rate"
    takes = True
    on_success = None

    def __init__(
        self,
        answered_sent_at: Callable[[], float],
        on_random: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`answered_sent_at` is when the newest attempt left that was answered.

        `on_random(now)` is called when refusals have proved to be bad luck.
        """
        self._answered_sent_at = answered_sent_at
        self._refused = TimeWindow(WINDOW)
        self._random_refusals = RandomRefusals(self._found)
        self._on_random_refusals = on_random
        self._rate = inf  # when it was learned, or the brake set
        self._learned_at = -inf
        self.ends_at = -inf
        self._quiet_since = -inf  # the rate grows from then on
        self._slowest = MIN_SPEED
        self._used_up_since = -inf  # the limit ...
        self._used_up_at = -inf  # ... which still was at that time
        self._refused_at = -inf  # the last refusal
        self._credit = 0.0  # sends earned, as of `_earned_at`
        self._earned_at = 0.0
        self._earning = MIN_SPEED  # per second, since then
        self._sent_at = -inf  # the last send
        self._busy_since = -inf
        self._counted_since = -inf  # ... or since the target was last dead

    def in_force(self, now: float) -> bool:
        return now < self.ends_at

    def paces(self, _call: object, now: float) -> bool:
        return self.in_force(now)

    def is_random(self, now: float) -> bool:
        return self._random_refusals.holds(now)

    def rate_at(self, now: float) -> float:
        """Sends per second; inf where none is in force."""
        if not self.in_force(now):
            return inf
        rate = self._grown(now)
        return min(PROBES * rate, MOST_PROBES) if self._is_used_up(now) else rate

    def _grown(self, now: float) -> float:
        """The rate, had the limit not been used up."""
        quiet = self._quiet(now)
        growth: float = GROWTH ** (quiet + quiet * quiet / FASTER)
        return self._rate * growth

    def _is_used_up(self, now: float) -> bool:
        """Whether no attempt that left since has been answered, and refusals still come.

        Attempts may take minutes to be answered, or be answered with an error that is no refusal.
        """
        unheard = self._answered_sent_at() < self._used_up_since
        return unheard and now - self._refused_at < SILENT

    def _quiet(self, now: float) -> float:
        """Return the seconds of growth without a refusal."""
        return max(0.0, now - self._quiet_since)

    def time_to_send(self, sends: float, now: float) -> float:
        """Seconds until so many `sends` more have left at the growing rate; 0 without a rate.

        With a constant growth g per second, they are rate * (exp(g * seconds) - 1) / g. It is growing itself, so g is that
        after a third of the seconds, guessed `GUESSES` times: right within a tenth. During a trial the rate does not grow,
        but the trial may end.
        """
        if not self.in_force(now):
            return 0.0
        rate, quiet, seconds = self._grown(now), self._quiet(now), 0.0
        for _ in range(GUESSES):
            growth = log(GROWTH) * (1 + 2 * (quiet + seconds / 3) / FASTER)
            seconds = log(1 + sends * growth / rate) / growth
        return min(seconds, self.ends_at - now)

    def ready_at(self, _call: object, now: float) -> float:
        if now >= self.ends_at:
            return READY
        earned_at = self._earned_at + (1 - self._credit) / self._earning
        return READY if now >= earned_at else min(earned_at, self.ends_at)

    def take(self, _call: object, now: float) -> None:
        if now - self._sent_at > WINDOW:
            self._busy_since = now
        self._sent_at = now
        self._random_refusals.on_send(now)
        if now < self.ends_at:
            self._earn(now)
            self._credit = max(0.0, self._credit - 1)

    def settle(self, _token: None, outcome: Outcome, now: float, _uniform: float) -> None:
        """Learn from a refusal."""
        if outcome.verdict is not Verdict.THROTTLED:
            return
        self._keep_growth(now)
        if not self._is_used_up(now):
            self._used_up_since = -inf
        self._refused_at = now
        self._refused.add(now, 1)
        self._random_refusals.refused(now)
        if now - self._learned_at < PAUSE:
            return
        sent, refused = self._random_refusals.sent_lately(now), self._refused.calls
        if now - self._busy_since < BUSY:
            nearly_all = sent >= ALL_REFUSED and refused > MAX_SHARE * sent
            if not self._has_learned(now) and (nearly_all or self.in_force(now)):
                self._brake(max(0, sent - refused), now)
            return
        if refused < max(MIN_REFUSALS, SHARE * sent):
            return
        if sent < ENOUGH and not (self.in_force(now) and now - self._counted_since > BUSY):
            return
        if self._random_refusals.holds(now):
            if self._random_refusals.explains(sent, refused):
                return
            self._random_refusals.revoke(now)
        self._learn(sent, refused, now)

    def restart(self, now: float) -> None:
        """Count anew: the target was dead, and next to nothing was sent. One that dies again and again puts off no lesson."""
        if not self.in_force(now) and now - self._counted_since > WINDOW:
            self._busy_since = now
        self._counted_since = now
        self._refused.clear()
        self._random_refusals.restart()

    def _keep_growth(self, now: float) -> None:
        """Begin the quiet anew, from the present rate."""
        if self._quiet_since < now < self.ends_at:
            self._rate, self._quiet_since = self._grown(now), now

    def _seconds(self, now: float) -> float:
        """Return for how long sends and refusals have been counted."""
        return min(WINDOW, max(1.0, now - max(self._busy_since, self._counted_since)))

    def _has_learned(self, now: float) -> bool:
        """Whether a lesson is in force; what else is in force is a brake."""
        return now - self._learned_at < FADE

    def _brake(self, accepted: int, now: float) -> None:
        """Hold sending to what was accepted per second, until a while after the last refusal."""
        if not self.in_force(now):
            self._credit, self._earned_at = 0.0, now
        self._earn(now)
        self._rate = self._earning = max(MOST_PROBES, accepted / self._seconds(now))
        self._quiet_since = inf
        self.ends_at = min(now, self._busy_since + BUSY) + PAUSE

    def _learn(self, sent: int, refused: int, now: float) -> None:
        before = self._grown(now) if self._has_learned(now) else inf
        if before < inf and refused >= sent >= ALL_REFUSED:
            self._slow_down(before, now)
            return
        seconds = self._seconds(now)
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
        self._learned_at, self.ends_at = now, now + FADE
        self._quiet_since = now + QUIET_AFTER if self._random_refusals.on_trial(now) else now
        self._rate = max(self._slowest, accepted)
        self._earning = self.rate_at(now)

    def _slow_down(self, before: float, now: float) -> None:
        """Leave the limit alone until an answer comes; and send less then, if it was so a moment ago."""
        if not self._is_used_up(now):
            self._used_up_since = now
            if now - self._used_up_at < SOON:
                self._slowest = max(MIN_SPEED, SLOWER * self._slowest)
        self._learned_at = self._quiet_since = self._used_up_at = now
        self.ends_at = now + FADE
        # What is served may never have been seen: then the floor says nothing.
        self._rate = self._slowest if self._slowest > MIN_SPEED else max(MIN_SPEED, before / 2)
        self._earn(now)

    def _found(self, now: float) -> None:
        """Drop the rate: refusals are bad luck."""
        self._learned_at = self.ends_at = -inf
        self._on_random_refusals(now)

    def _earn(self, now: float) -> None:
        """Add the sends earned since the last time. The rate is constant between two sends."""
        earned = (now - self._earned_at) * self._earning
        self._credit = min(max(1.0, self._earning), self._credit + earned)
        self._earned_at = now
        self._earning = self.rate_at(now)
