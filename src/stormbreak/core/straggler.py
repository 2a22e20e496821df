"""Stragglers of a batch: attempts that take far longer than usual, and delay its end.

If one request in a hundred is never answered, it delays a run by its whole timeout (ten minutes), and occupies a slot
meanwhile. So the timeout of an attempt follows the usual duration: `FACTOR` times the duration of nearly all recent
answers of its kind, at least `FLOOR`. It grows with each round of a row, so that an answer that really takes that long
still comes. A row whose attempt is given up is sent again.

That is right only if slowness is bad luck. If it is load, the usual duration grows, too. If nothing is answered,
sending again does not help. So an attempt is given up only if an attempt that left later was answered, or if it is
among the last of a run and answers were on time (`TargetState.is_straggler`). An attempt that is given up may be paid
twice: so at most one is given up for every ten answered rows, as for hedges (ADR 24).
"""

from collections import deque
from collections.abc import Hashable
from math import inf
from typing import Generic, NamedTuple, TypeVar

from stormbreak.core.hedge import ENOUGH

FACTOR = 4.0
"""If durations are lognormal with a coefficient of variation of 2, three answers in 10,000 take longer than this."""

QUANTILE = 0.99
FLOOR = 30.0  # seconds: a hiccup of a provider ends by itself
GROWTH = 4.0  # of the timeout with each round of a row
KEPT = 512  # recent answers of a kind whose durations are kept
KINDS = 64  # maximum number of kinds
EVERY = 1.0  # seconds between two estimates of the usual duration

Kind = TypeVar("Kind", bound=Hashable)


class Attempt(NamedTuple, Generic[Kind]):
    """An attempt in flight, of a row in this round; the first round is 0."""

    kind: Kind
    sent_at: float
    rounds: int


class Stragglers(Generic[Kind]):
    """Knows how long answers take, by kind (target and endpoint), and how many attempts may be given up.

    At most `ratio` of the answered rows may be; `timeout` is that of the policy, in seconds.
    """

    def __init__(self, *, ratio: float, timeout: float | None) -> None:
        self._ratio = ratio
        self._timeout = inf if timeout is None else timeout
        self._taken: dict[Kind, deque[float]] = {}
        self._usual: dict[Kind, tuple[float, float]] = {}  # duration, and time of the estimate
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
        """Return the seconds within which nearly all answers come; inf while unknown."""
        known, found_at = self._usual.get(kind, (inf, -inf))
        if now - found_at < EVERY:
            return known
        taken = sorted(self._taken.get(kind, ()))
        known = taken[int(QUANTILE * len(taken))] if len(taken) >= ENOUGH else inf
        self._usual[kind] = known, now
        return known

    def limit(self, attempt: Attempt[Kind], now: float) -> float:
        """Return the seconds after which an attempt is given up, if allowed; inf if its timeout comes first."""
        limit = max(FLOOR, FACTOR * self.usual(attempt.kind, now)) * GROWTH**attempt.rounds
        return limit if limit < self._timeout else inf

    def is_overdue(self, attempt: Attempt[Kind], now: float) -> bool:
        """Whether an attempt takes too long, and may be given up."""
        return self._paid >= 1.0 and now - attempt.sent_at > self.limit(attempt, now)

    def give_up(self) -> None:
        """Record that an attempt was given up."""
        self._paid -= 1.0
        self.given_up += 1

    def rest(self, attempt: Attempt[Kind], now: float) -> float:
        """Return the latest seconds until a straggler has ended; 0 for an attempt that is not one."""
        usual, age = self.usual(attempt.kind, now), now - attempt.sent_at
        if age <= FACTOR * usual:
            return 0.0
        limit = self.limit(attempt, now) if self._paid >= 1.0 else inf
        if limit == inf:
            return 0.0 if self._timeout == inf else max(0.0, self._timeout - age)
        return max(0.0, limit - age) + usual
