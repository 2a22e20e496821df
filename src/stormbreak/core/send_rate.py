"""A send rate learned from refusals (429s).

A refusal frees its slot at once, so an in-flight limit alone lets thousands of refused requests through. When 429s pile
up, a *lesson* sets the send rate slightly below the accepted rate of the last seconds. Then the rate grows slowly, and
faster the longer no 429 comes. Two minutes after the last lesson it ends. A single 429 has no effect.

The first seconds of sending teach nothing, since a token bucket serves more in them than later. If nearly all requests
are refused in them, a *brake* limits sending to the rate accepted so far. It ends with the first lesson, or after two
seconds without a refusal.

A lesson also begins a trial (`random_refusals`): are refusals bad luck, against which a slower rate does not help?
Until a trial has found a limit, the rate does not fall below the rate that was served when the trial began; after that,
not below half of it. If refusals are bad luck, the rate is dropped, and refusals that bad luck explains teach nothing.

A limit that is *used up* refuses everything: a fixed window until its end, or a token bucket that refused requests also
drain, as long as they come. Then only probes leave, at most one a second, until one is answered or refusals stop. If
the limit is used up again soon, the lowest rate is halved.
"""

from collections.abc import Callable
from math import inf, log

from stormbreak.core.gate import READY
from stormbreak.core.random_refusals import MAX_SHARE, WINDOW, RandomRefusals
from stormbreak.core.window import TimeWindow
from stormbreak.types import Outcome, Verdict

SHARE = 0.1  # minimum share of refusals for a lesson ...
MIN_REFUSALS = 2  # ... and their minimum number
ENOUGH = 5  # minimum sends for a first lesson, also after a death; with fewer, chance decides
BUSY = 5.0  # seconds of sending before a first lesson; until then, a brake at most
PAUSE = 2.0  # seconds between two lessons
BELOW = 0.9  # a lesson sets this share of the accepted rate
MIN_SPEED = 0.05  # per second
GROWTH = 1.02  # per second
GUESSES = 4  # iterations for a time that depends on the growth until then
FASTER = 10.0  # seconds without a refusal after which the growth has tripled
FADE = 120.0  # seconds without a lesson after which the rate ends
SLOWER = 0.5  # lowest share of the served rate, once a trial has shown that sending less helps
QUIET_AFTER = 15.0  # seconds without growth after a lesson during a trial
ALL_REFUSED = 20  # minimum sends within `WINDOW`, all refused, that show a used-up limit
PROBES = 1 / 3  # share of the rate while the limit is used up ...
MOST_PROBES = 1.0  # ... and its maximum per second; also the minimum rate of a brake
SOON = 30.0  # seconds: if the limit is used up again this soon, the lowest rate is halved
SILENT = 5.0  # seconds without a refusal after which the limit is no longer used up, even without an answer


class AdaptiveSendRate:
    """The gate that spaces out sends. At most one second's worth of sends leaves at once."""

    name = "rate"
    takes = True
    on_success = None

    def __init__(
        self,
        answered_sent_at: Callable[[], float],
        on_random: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`answered_sent_at()` returns when the newest answered attempt left.

        `on_random(now)` is called when refusals have proved to be bad luck.
        """
        self._answered_sent_at = answered_sent_at
        self._refused = TimeWindow(WINDOW)
        self._random_refusals = RandomRefusals(self._found)
        self._on_random_refusals = on_random
        self._rate = inf  # as of the last lesson, brake or refusal; it grows from `_quiet_since` on
        self._learned_at = -inf
        self.ends_at = -inf
        self._quiet_since = -inf
        self._slowest = MIN_SPEED
        self._used_up_since = -inf  # when the limit was used up ...
        self._used_up_at = -inf  # ... and when that was last seen
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
        """Return the sends per second; inf if no rate is in force."""
        if not self.in_force(now):
            return inf
        rate = self._grown(now)
        return min(PROBES * rate, MOST_PROBES) if self._is_used_up(now) else rate

    def _grown(self, now: float) -> float:
        """Return the rate, ignoring whether the limit is used up."""
        quiet = self._quiet(now)
        growth: float = GROWTH ** (quiet + quiet * quiet / FASTER)
        return self._rate * growth

    def _is_used_up(self, now: float) -> bool:
        """Whether the limit is still used up: no attempt that left since was answered, and refusals still come.

        Without refusals it counts as free, since an answer may take minutes, or be an error that is not a refusal.
        """
        unheard = self._answered_sent_at() < self._used_up_since
        return unheard and now - self._refused_at < SILENT

    def _quiet(self, now: float) -> float:
        """Return the seconds of growth without a refusal."""
        return max(0.0, now - self._quiet_since)

    def time_to_send(self, sends: float, now: float) -> float:
        """Return the seconds until `sends` more calls have left at the growing rate; 0 without a rate.

        With a constant growth g per second, sends = rate * (exp(g * seconds) - 1) / g. The growth itself rises, so g is
        its value after a third of the seconds, iterated `GUESSES` times: right within a tenth. The formula ignores that
        the rate does not grow during a trial, since the trial may end.
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
        """Restart the counts after the target was dead, when almost nothing was sent.

        A target that dies again and again does not delay lessons.
        """
        if not self.in_force(now) and now - self._counted_since > WINDOW:
            self._busy_since = now
        self._counted_since = now
        self._refused.clear()
        self._random_refusals.restart()

    def _keep_growth(self, now: float) -> None:
        """Restart the time without refusals, from the present rate."""
        if self._quiet_since < now < self.ends_at:
            self._rate, self._quiet_since = self._grown(now), now

    def _seconds(self, now: float) -> float:
        """Return the seconds for which sends and refusals have been counted."""
        return min(WINDOW, max(1.0, now - max(self._busy_since, self._counted_since)))

    def _has_learned(self, now: float) -> bool:
        """Whether a lesson is in force; otherwise a rate in force is a brake."""
        return now - self._learned_at < FADE

    def _brake(self, accepted: int, now: float) -> None:
        """Limit sending to the rate accepted so far, until a while after the last refusal."""
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
        """Send only probes until an answer comes; lower the rate if the limit was used up a moment ago, too."""
        if not self._is_used_up(now):
            self._used_up_since = now
            if now - self._used_up_at < SOON:
                self._slowest = max(MIN_SPEED, SLOWER * self._slowest)
        self._learned_at = self._quiet_since = self._used_up_at = now
        self.ends_at = now + FADE
        # If no served rate has ever been seen, there is no lowest rate to use.
        self._rate = self._slowest if self._slowest > MIN_SPEED else max(MIN_SPEED, before / 2)
        self._earn(now)

    def _found(self, now: float) -> None:
        """Drop the rate: refusals are bad luck."""
        self._learned_at = self.ends_at = -inf
        self._on_random_refusals(now)

    def _earn(self, now: float) -> None:
        """Add the sends earned since the last call. The rate is constant between two sends."""
        earned = (now - self._earned_at) * self._earning
        self._credit = min(max(1.0, self._earning), self._credit + earned)
        self._earned_at = now
        self._earning = self.rate_at(now)
