"""Refusals at random: a target that turns away a share of everything, however much it is sent.

A limit that is used up and bad luck look alike at first: both answer with 429. They differ in what helps. Against a
limit, sending less makes the refusals stop. Against bad luck it changes nothing: the same share is turned away, and
whoever sends ever less to escape it is soon sending nothing. So when refusals slow us down, a trial
begins: while less is sent, each second is weighed for "the share is as before" against "the share has fallen
to a quarter" (a sequential probability ratio test, Wald 1945). Once the odds for bad luck are a hundred to one,
it is taken for that, for ten minutes, and its share is followed. A share that climbs beyond what
chance explains ends it, and the next trial has to wait, each time twice as long.
"""

from collections.abc import Callable
from math import inf, log, sqrt

FALLEN = 0.25  # of the share before: what a limit's refusals fall to once less is sent
ODDS = log(100.0)  # that decide a trial, either way
SETTLING = 5.0  # seconds at the start of a trial that do not count, since less is sent only then
SILENT = 40.0  # seconds without a refusal that end a trial undecided
MOST = 0.9  # the highest share that is bad luck and no outage
FEWEST = 0.05  # a lower share needs no name
DOUBT = 30.0  # seconds without a trial after bad luck that proved none; doubles
NOISE = 3.0  # standard deviations that chance explains
MEMORY = 1_000  # attempts over which the share is followed
REMEMBER_FOR = 600.0  # seconds


class _HypothesisTest:
    """Weighs seconds, each when it is over."""

    __slots__ = (
        "_accepted_weighs",
        "_begins_at",
        "_refused_weighs",
        "refused",
        "refused_at",
        "score",
        "sent",
    )

    def __init__(self, share: float, now: float) -> None:
        self._refused_weighs = -log(FALLEN)
        self._accepted_weighs = log((1 - share) / (1 - FALLEN * share))
        self._begins_at = now + SETTLING
        self.refused_at = now
        self.score = 0.0
        self.sent = self.refused = 0

    def weigh(self, second: int, sent: int, refused: int) -> None:
        """Take in what was sent and refused within `second`."""
        if refused:
            self.refused_at = second + 1.0
        if second < self._begins_at:
            return
        self.sent += sent
        self.refused += refused
        accepted = max(0, sent - refused)
        self.score += refused * self._refused_weighs + accepted * self._accepted_weighs


class RandomRefusals:
    """Finds out whether refusals are bad luck. All times are seconds, shares are within [0, 1]."""

    __slots__ = (
        "_doubt", "_doubted_until", "_followed", "_on_found", "_refused", "_second", "_sent", "_share", "_trial",
        "_until", "is_limit",
    )  # fmt: skip

    def __init__(self, on_found: Callable[[float], None]) -> None:
        """`on_found(now)` is called when a trial has shown that they are."""
        self._on_found = on_found
        self._trial: _HypothesisTest | None = None
        self._second = 0  # the one that is counted now
        self._sent = self._refused = 0  # in it
        self._share = 0.0
        self._followed = 0.0  # attempts that the share stands on
        self._until = -inf
        self._doubt = DOUBT
        self._doubted_until = -inf
        self.is_limit = False  # whether the last trial found that sending less helps

    def on_trial(self, now: float) -> bool:
        """Whether a trial is under way."""
        self._turn(now)
        return self._trial is not None

    def holds(self, now: float) -> bool:
        """Whether refusals are taken for bad luck."""
        return now < self._until

    def suppose(self, share: float, now: float) -> bool:
        """Begin a trial of whether a `share` of refusals is bad luck, unless one runs or has just misled: whether it began."""
        if share > MOST or now < self._doubted_until or self.on_trial(now):
            return False
        self._trial = _HypothesisTest(share, now)
        return True

    def sent(self, now: float) -> None:
        """One was sent."""
        if now >= self._second + 1:
            self._turn(now)
        self._sent += 1

    def refused(self, now: float) -> None:
        """One was refused."""
        self._turn(now)
        self._refused += 1

    def explains(self, sent: int, refused: int) -> bool:
        """Whether bad luck explains that of `sent` so many were `refused`.

        The deviation allowed is that of the count itself and of the share, which is an estimate, too.
        """
        share = self._share
        spread = share * (1 - share) * (sent + sent**2 / self._followed)
        return refused <= share * sent + NOISE * sqrt(spread)

    def revoke(self, now: float) -> None:
        """It was none, or is no longer."""
        self._until = -inf
        self.is_limit = True
        self._doubted_until = now + self._doubt
        self._doubt *= 2

    def _turn(self, now: float) -> None:
        second = int(now)
        if second <= self._second:
            return
        over, sent, refused = self._second, self._sent, self._refused
        self._second, self._sent, self._refused = second, 0, 0
        if self._trial is not None:
            self._try(self._trial, over, sent, refused, now)
        elif self.holds(now):
            self._follow(sent, refused)

    def _try(
        self, trial: _HypothesisTest, second: int, sent: int, refused: int, now: float
    ) -> None:
        trial.weigh(second, sent, refused)
        if abs(trial.score) >= ODDS or now - trial.refused_at > SILENT:
            self._trial = None
            self.is_limit = trial.score <= -ODDS
        if trial.score >= ODDS and trial.refused <= MOST * trial.sent:
            self._followed = float(trial.sent)
            self._share = trial.refused / trial.sent
            self._until = now + REMEMBER_FOR
            self._on_found(now)

    def _follow(self, sent: int, refused: int) -> None:
        self._followed = min(MEMORY, self._followed + sent)
        share = self._share + (refused - self._share * sent) / self._followed
        self._share = min(MOST, share)
        if self._share < FEWEST:
            self._until = -inf
