"""Test whether refusals come at random, so that sending less does not help.

A used-up limit and bad luck look alike at first: both answer 429. Bad luck is a target that refuses a share of all
requests, however many are sent. Sending less tells the two apart. It stops the refusals of a limit. It does not change
bad luck: the same share is refused, and a sender that slows down to escape it soon sends nothing.

So when refusals slow us down, a trial begins. While we send less, each second is weighed as evidence for "the share of
refusals is unchanged" or for "the share has fallen to a quarter" (a sequential probability ratio test, Wald 1945). At
odds of a hundred to one for the first, refusals count as bad luck for ten minutes, and their share is tracked. The
finding ends earlier if the share rises faster than chance explains. It also ends if the share rises slowly until the
odds of a refusal are four times as high. Then it may be a limit that many processes share: each of them sees the same
refusals, however much it sends. After a wrong finding the next trial has to wait, each time twice as long.
"""

from collections.abc import Callable
from math import inf, log, sqrt

from stormbreak.core.window import TimeWindow

WINDOW = 10.0  # seconds in which sends and refusals are counted, in slices of one second
# With a limit, the share falls to this part of itself when less is sent. Bad luck ends when the odds rise as much.
FALLEN = 0.25
ODDS = log(100.0)  # odds that decide a trial, either way
SETTLING = 5.0  # seconds at the start of a trial that do not count, until less is sent
SILENT = 40.0  # seconds without a refusal that end a trial undecided
MAX_SHARE = 0.9  # the highest share that is bad luck instead of an outage
MIN_SHARE = 0.05  # below this share the finding ends
DOUBT = 30.0  # seconds without a trial after a wrong finding; doubles up to `REMEMBER_FOR`
NOISE = 3.0  # standard deviations that chance explains
MEMORY = 1_000  # attempts over which the share is averaged
REMEMBER_FOR = 600.0  # seconds for which a finding holds


class _HypothesisTest:
    """Evaluates each second after its end."""

    def __init__(self, share: float, now: float) -> None:
        self._refusal_weight = -log(FALLEN)
        self._success_weight = log((1 - share) / (1 - FALLEN * share))
        self._begins_at = now + SETTLING
        self.refused_at = now
        self.score = 0.0
        self.sent = self.refused = 0

    def add_second(self, second: int, sent: int, refused: int) -> None:
        """Add the numbers sent and refused in `second`."""
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
        self._second = 0  # the present second
        self._sent = self._refused = 0  # in it
        self._sent_before = TimeWindow(WINDOW)  # in the seconds before
        self._observed = 0.0  # share of refusals
        self._max_share = MAX_SHARE  # a higher share ends the finding
        self._followed = 0.0  # attempts behind the observed share
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
        """Begin a trial of whether a `share` of refusals is bad luck; return whether it began.

        It does not while another trial runs, or soon after a wrong finding.
        """
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
        """Return the attempts of the last `WINDOW` seconds. Call it only after a refusal at `now`."""
        self._sent_before.roll(now)
        return self._sent_before.calls + self._sent

    @property
    def _share(self) -> float:
        """The share that bad luck explains: at most `MAX_SHARE`."""
        return min(MAX_SHARE, self._observed)

    def explains(self, sent: int, refused: int) -> bool:
        """Whether bad luck explains `refused` of `sent`.

        The allowed deviation includes that of the share, which is an estimate, too.
        """
        share = self._share
        spread = share * (1 - share) * (sent + sent**2 / self._followed)
        return refused <= share * sent + NOISE * sqrt(spread)

    def revoke(self, now: float) -> None:
        """End the finding: it was wrong, or holds no longer."""
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
