"""A send rate learned from refusals, and a test that detects refusals at random.

A refusal frees its slot at once, so a limit on what is in flight alone lets thousands of them through. When
429s pile up, sending is held a little below what was accepted in the last seconds; the rate grows slowly, faster the
longer there is no 429 at all, and is gone after two minutes. One stray 429 has no effect.

A lesson also begins a trial of whether refusals are bad luck (`RandomRefusals`), which no slower sending would help
against. Until a trial has found a limit, the rate goes no lower than what was served when it began; then no lower than
half of that. If it is bad luck, the rate is dropped, and refusals that it explains teach nothing.
"""

from collections.abc import Callable
from math import inf, log, sqrt

from stormbreak.core.gate import READY
from stormbreak.core.window import TimeWindow
from stormbreak.types import Outcome, Verdict

# ---------------------------------------------------------------- random refusals
# Bad luck: a target that refuses a share of everything, however much it is sent. A limit that is used up and bad luck
# look alike at first: both answer with 429. They differ in what helps. Against a limit, sending less makes the refusals
# stop. Against bad luck it changes nothing: the same share is turned away, and a sender that slows down to escape it is
# soon sending nothing. So when refusals slow us down, a trial begins: while less is sent, each second is weighed for
# "the share is as before" against "the share has fallen to a quarter" (a sequential probability ratio test, Wald 1945).
# Once the odds for bad luck are a hundred to one, it is taken for that, for ten minutes, and its share is followed. A
# share that climbs beyond what chance explains ends it, and so does one that climbs slowly, but to four times the odds of
# a refusal: many processes at one limit see the same refusals whatever each of them sends. The next trial has to wait,
# each time twice as long.

WINDOW = 10.0  # seconds in which sends and refusals are counted, in slices of one second
FALLEN = 0.25  # of the share before: what a limit's refusals fall to once less is sent; once more is, the odds rise so
ODDS = log(100.0)  # that decide a trial, either way
SETTLING = 5.0  # seconds at the start of a trial that do not count, since less is sent only then
SILENT = 40.0  # seconds without a refusal that end a trial undecided
MAX_SHARE = 0.9  # the highest share that is bad luck and no outage
MIN_SHARE = 0.05  # a lower share needs no name
DOUBT = 30.0  # seconds without a trial after bad luck that was none; doubles to `REMEMBER_FOR`
NOISE = 3.0  # standard deviations that chance explains
MEMORY = 1_000  # attempts over which the share is followed
REMEMBER_FOR = 600.0  # seconds


class _HypothesisTest:
    """Evaluates each second when it is over."""

    def __init__(self, share: float, now: float) -> None:
        self._refusal_weight = -log(FALLEN)
        self._success_weight = log((1 - share) / (1 - FALLEN * share))
        self._begins_at = now + SETTLING
        self.refused_at = now
        self.score = 0.0
        self.sent = self.refused = 0

    def add_second(self, second: int, sent: int, refused: int) -> None:
        """Take in what was sent and refused within `second`."""
        if refused:
            self.refused_at = second + 1.0
        if second < self._begins_at:
            return
        self.sent += sent
        self.refused += refused
        accepted = max(0, sent - refused)
        self.score += refused * self._refusal_weight + accepted * self._success_weight


class RandomRefusals:
    """Tests whether refusals are bad luck. All times are seconds, shares are within [0, 1]."""

    def __init__(self, on_found: Callable[[float], None]) -> None:
        """`on_found(now)` is called when a trial has found bad luck."""
        self._on_found = on_found
        self._trial: _HypothesisTest | None = None
        self._second = 0  # the one that is counted now
        self._sent = self._refused = 0  # in it
        self._sent_before = TimeWindow(WINDOW)  # in the seconds before
        self._observed = 0.0  # share
        self._max_share = MAX_SHARE  # a higher one is no bad luck any more
        self._followed = 0.0  # attempts that the share stands on
        self._until = -inf
        self._doubt = DOUBT
        self._doubted_until = -inf
        self.is_limit = False  # whether the last trial found that sending less helps

    def on_trial(self, now: float) -> bool:
        """Whether a trial is running."""
        self._turn(now)
        return self._trial is not None

    def holds(self, now: float) -> bool:
        """Whether refusals count as bad luck."""
        return now < self._until

    def suppose(self, share: float, now: float) -> bool:
        """Begin a trial of whether a `share` of refusals is bad luck, unless one runs or has just misled: whether it began."""
        if share > MAX_SHARE or now < self._doubted_until or self.on_trial(now):
            return False
        self._trial = _HypothesisTest(share, now)
        return True

    def on_send(self, now: float) -> None:
        """Count an attempt."""
        if now >= self._second + 1:
            self._turn(now)
        self._sent += 1

    def refused(self, now: float) -> None:
        """Count a refusal."""
        self._turn(now)
        self._refused += 1

    def sent_lately(self, now: float) -> int:
        """Return how many were sent in the last `WINDOW` seconds. Only after a refusal at `now`."""
        self._sent_before.roll(now)
        return self._sent_before.calls + self._sent

    @property
    def _share(self) -> float:
        """The share that bad luck explains: no more than `MAX_SHARE`."""
        return min(MAX_SHARE, self._observed)

    def explains(self, sent: int, refused: int) -> bool:
        """Whether bad luck explains `refused` of `sent`.

        The deviation allowed is that of the count itself and of the share, which is an estimate, too.
        """
        share = self._share
        spread = share * (1 - share) * (sent + sent**2 / self._followed)
        return refused <= share * sent + NOISE * sqrt(spread)

    def revoke(self, now: float) -> None:
        """End the finding: it was wrong, or no longer holds."""
        self._until = -inf
        self.is_limit = True
        self._doubted_until = now + self._doubt
        self._doubt = min(2 * self._doubt, REMEMBER_FOR)

    def _turn(self, now: float) -> None:
        second = int(now)
        if second <= self._second:
            return
        over, sent, refused = self._second, self._sent, self._refused
        self._second, self._sent, self._refused = second, 0, 0
        self._sent_before.add(over, calls=sent)
        if self._trial is not None:
            self._try(self._trial, over, sent, refused, now)
        elif now < self._until:
            self._follow(sent, refused, now)

    def _try(
        self, trial: _HypothesisTest, second: int, sent: int, refused: int, now: float
    ) -> None:
        trial.add_second(second, sent, refused)
        if abs(trial.score) >= ODDS or now - trial.refused_at > SILENT:
            self._trial = None
            self.is_limit = trial.score <= -ODDS
        if trial.score >= ODDS and trial.refused <= MAX_SHARE * trial.sent:
            self._followed = float(trial.sent)
            share = self._observed = trial.refused / trial.sent
            self._max_share = share / (share + FALLEN * (1 - share))
            self._until = now + REMEMBER_FOR
            self._on_found(now)

    def _follow(self, sent: int, refused: int, now: float) -> None:
        self._followed = min(MEMORY, self._followed + sent)
        share = self._observed + (refused - self._observed * sent) / self._followed
        self._observed = min(1.0, share)
        if share < MIN_SHARE:
            self._until = -inf
        elif share > self._max_share:
            self.revoke(now)


# ---------------------------------------------------------------- adaptive send rate

SHARE = 0.1  # of what was sent that must have been refused ...
MIN_REFUSALS = 2  # ... and at least so many
ENOUGH = 5  # sends that a first lesson needs, or chance decides
BUSY = 5.0  # seconds of sending before a first lesson
PAUSE = 2.0  # seconds between two lessons
BELOW = 0.9  # of the accepted rate
MIN_SPEED = 0.05  # per second
GROWTH = 1.02  # per second
GUESSES = 4  # at a time that depends on the growth until then
FASTER = 10.0  # seconds without a refusal after which the growth has trebled
FADE = 120.0  # seconds without a lesson
SLOWER = 0.5  # of what was served, once a trial has shown that sending less helps
QUIET_AFTER = 15.0  # seconds without growth after a lesson during a trial


class AdaptiveSendRate:
    """The gate that spaces out sends. At most one second's worth of them leaves at once."""

    name = "rate"
    takes = True
    on_success = None

    def __init__(self, on_random: Callable[[float], None] = lambda _: None) -> None:
        """`on_random(now)` is called when refusals have proved to be bad luck."""
        self._refused = TimeWindow(WINDOW)
        self._random_refusals = RandomRefusals(self._found)
        self._on_random_refusals = on_random
        self._rate = inf  # when it was learned
        self.learned_at = -inf
        self._quiet_since = -inf  # the rate grows from then on
        self._slowest = MIN_SPEED
        self._credit = 0.0  # sends earned, as of `_earned_at`
        self._earned_at = 0.0
        self._earning = MIN_SPEED  # per second, since then
        self._sent_at = -inf  # the last send
        self._busy_since = -inf

    def in_force(self, now: float) -> bool:
        """Whether a rate is in force."""
        return now - self.learned_at < FADE

    def paces(self, _call: object, now: float) -> bool:
        """Whether a rate is in force."""
        return self.in_force(now)

    def is_random(self, now: float) -> bool:
        """Whether refusals are bad luck."""
        return self._random_refusals.holds(now)

    def rate_at(self, now: float) -> float:
        """Sends per second; inf where none is in force."""
        if not self.in_force(now):
            return inf
        quiet = self._quiet(now)
        growth: float = GROWTH ** (quiet + quiet * quiet / FASTER)
        return self._rate * growth

    def _quiet(self, now: float) -> float:
        """Return the seconds of growth without a refusal."""
        return max(0.0, now - self._quiet_since)

    def time_to_send(self, sends: float, now: float) -> float:
        """Seconds until so many `sends` more have left at the growing rate; 0 without a rate.

        Within a tenth: by the growth after a third of that time. During a trial the rate does not grow, but the trial may end.
        """
        if not self.in_force(now):
            return 0.0
        rate, quiet, seconds = self.rate_at(now), self._quiet(now), 0.0
        for _ in range(GUESSES):
            growth = log(GROWTH) * (1 + 2 * (quiet + seconds / 3) / FASTER)
            seconds = log(1 + sends * growth / rate) / growth
        return seconds

    def ready_at(self, _call: object, now: float) -> float:
        """READY, or when the next send has been earned."""
        if now - self.learned_at >= FADE:
            return READY
        earned_at = self._earned_at + (1 - self._credit) / self._earning
        return READY if now >= earned_at else min(earned_at, self.learned_at + FADE)

    def take(self, _call: object, now: float) -> None:
        """Let one call leave."""
        if now - self._sent_at > WINDOW:
            self._busy_since = now
        self._sent_at = now
        self._random_refusals.on_send(now)
        if now - self.learned_at < FADE:
            self._earn(now)
            self._credit = max(0.0, self._credit - 1)

    def settle(self, _token: None, outcome: Outcome, now: float, _uniform: float) -> None:
        """Learn from a refusal."""
        if outcome.verdict is not Verdict.THROTTLED:
            return
        self._keep_growth(now)
        self._refused.add(now, 1)
        self._random_refusals.refused(now)
        if now - self.learned_at < PAUSE or now - self._busy_since < BUSY:
            return
        sent, refused = self._random_refusals.sent_lately(now), self._refused.calls
        if refused < max(MIN_REFUSALS, SHARE * sent) or (sent < ENOUGH and not self.in_force(now)):
            return
        if self._random_refusals.holds(now):
            if self._random_refusals.explains(sent, refused):
                return
            self._random_refusals.revoke(now)
        self._learn(sent, refused, now)

    def _keep_growth(self, now: float) -> None:
        """Begin the quiet anew, from the present rate."""
        if self._quiet_since < now < self.learned_at + FADE:
            self._rate, self._quiet_since = self.rate_at(now), now

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
        self.learned_at = now
        self._quiet_since = now + QUIET_AFTER if self._random_refusals.on_trial(now) else now
        self._rate = self._earning = max(self._slowest, accepted)

    def _found(self, now: float) -> None:
        """Drop the rate: refusals are bad luck."""
        self.learned_at = -inf
        self._on_random_refusals(now)

    def _earn(self, now: float) -> None:
        """Add the sends earned since the last time. The rate is constant between two sends."""
        earned = (now - self._earned_at) * self._earning
        self._credit = min(max(1.0, self._earning), self._credit + earned)
        self._earned_at = now
        self._earning = self.rate_at(now)
