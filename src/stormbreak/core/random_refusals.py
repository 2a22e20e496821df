"""A test of whether refusals come at random, and sending less does not help against them.

A limit that is used up and bad luck (a target that refuses a share of everything, however much it is sent) look alike at
first: both answer with 429. They differ in what helps. Against a limit, sending less makes the refusals stop. Against
bad luck it changes nothing: the same share is turned away, and a sender that slows down to escape it is soon sending
nothing.

So when refusals slow us down, a trial begins: while less is sent, each second is weighed for "the share is as before"
against "the share has fallen to a quarter" (a sequential probability ratio test, Wald 1945). Once the odds for bad luck
are a hundred to one, it is taken for that, for ten minutes, and its share is followed. A share that climbs beyond what
chance explains ends it, and so does one that climbs slowly, but to four times the odds of a refusal: many processes at
one limit see the same refusals whatever each of them sends. The next trial has to wait, each time twice as long.
"""

from collections.abc import Callable
from math import inf, log, sqrt

from stormbreak.core.window import TimeWindow

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
        self._turn(now)
        return self._trial is not None

    def holds(self, now: float) -> bool:
        return now < self._until

    def suppose(self, share: float, now: float) -> bool:
        """Begin a trial of whether a `share` of refusals is bad luck, unless one runs or has just misled: whether it began."""
        if share > MAX_SHARE or now < self._doubted_until or self.on_trial(now):
            return False
        self._trial = _HypothesisTest(share, now)
        return True

    def restart(self) -> None:
        self._sent_before.clear()
        self._sent = self._refused = 0

    def on_send(self, now: float) -> None:
        if now >= self._second + 1:
            self._turn(now)
        self._sent += 1

    def refused(self, now: float) -> None:
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
