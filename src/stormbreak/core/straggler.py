"""Stragglers of a batch: attempts that take far longer than is usual, and hold up its end.

One request in a hundred that is never answered holds a run for its whole timeout (ten minutes), and takes a slot all
the time. So the timeout of an attempt follows what is usual: `FACTOR` times what nearly all recent answers of its kind
took, at least `FLOOR`. It grows with each round of a row, so that an answer that really takes that long still comes.
The row is sent again.

That is right only where it is bad luck. Where slowness is load, what nearly all answers take grows, too. Where nothing
is answered, sending again is of no use. So an attempt is given up only if another that left later was answered, or if
it is among the last of a run and answers were on time (`TargetState.is_straggler`). And it may be paid twice: so one is
given up for every ten rows that were answered, as many as a hedge costs (ADR 24).
"""

from collections import deque
from collections.abc import Hashable
from math import inf
from typing import Generic, NamedTuple, TypeVar

from stormbreak.core.hedge import ENOUGH

FACTOR = 4.0
"""Of answers whose durations are lognormal with a coefficient of variation of 2, three in 10,000 take longer than this."""

QUANTILE = 0.99
FLOOR = 30.0  # seconds: a hiccup of a provider ends by itself
GROWTH = 4.0  # of the timeout with each round of a row
KEPT = 512  # answers of a kind that say what is usual
KINDS = 64  # that are told apart
EVERY = 1.0  # seconds between two opinions of what is usual

Kind = TypeVar("Kind", bound=Hashable)


class Attempt(NamedTuple, Generic[Kind]):
    """An attempt in flight, of a row in this round; the first round is 0."""

    kind: Kind
    sent_at: float
    rounds: int


class Stragglers(Generic[Kind]):
    """Knows how long answers take, by kind (target and endpoint), and how many attempts may be given up.

    `ratio` of the answered rows is the most that may be; `timeout` is that of the policy, in seconds.
    """

    def __init__(self, *, ratio: float, timeout: float | None) -> None:
        self._ratio = ratio
        self._timeout = inf if timeout is None else timeout
        self._taken: dict[Kind, deque[float]] = {}
        self._usual: dict[Kind, tuple[float, float]] = {}  # and when that was found out
        self._paid = 0.0
        self.given_up = 0

    def answered(self, kind: Kind, took: float) -> None:
        """Learn from an answer."""
        self._paid += self._ratio
        taken = self._taken.get(kind)
        if taken is None:
            if len(self._taken) == KINDS:
                return
            taken = self._taken[kind] = deque(maxlen=KEPT)
        taken.append(took)

    def usual(self, kind: Kind, now: float) -> float:
        """Seconds that nearly all answers take; inf while unknown."""
        known, found_at = self._usual.get(kind, (inf, -inf))
        if now - found_at < EVERY:
            return known
        taken = sorted(self._taken.get(kind, ()))
        known = taken[int(QUANTILE * len(taken))] if len(taken) >= ENOUGH else inf
        self._usual[kind] = known, now
        return known

    def limit(self, attempt: Attempt[Kind], now: float) -> float:
        """Seconds after which an attempt is given up, if that is allowed; inf where its timeout comes first."""
        limit = max(FLOOR, FACTOR * self.usual(attempt.kind, now)) * GROWTH**attempt.rounds
        return limit if limit < self._timeout else inf

    def is_overdue(self, attempt: Attempt[Kind], now: float) -> bool:
        """Whether an attempt takes too long, and may be given up."""
        return self._paid >= 1.0 and now - attempt.sent_at > self.limit(attempt, now)

    def give_up(self) -> None:
        """Record that one was given up."""
        self._paid -= 1.0
        self.given_up += 1

    def rest(self, attempt: Attempt[Kind], now: float) -> float:
        """Seconds until an attempt has ended that takes far longer than usual, at the latest; 0 for any other."""
        usual, age = self.usual(attempt.kind, now), now - attempt.sent_at
        if age <= FACTOR * usual:
            return 0.0
        limit = self.limit(attempt, now) if self._paid >= 1.0 else inf
        if limit == inf:
            return 0.0 if self._timeout == inf else max(0.0, self._timeout - age)
        return max(0.0, limit - age) + usual
