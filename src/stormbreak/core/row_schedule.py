"""The schedule of a batch: which row is next, and when an unanswered row is sent again. Pure.

`batch run` and the simulator use it.

A row fails only on a final verdict, on its deadline, after `ATTEMPTS` attempts, or if the server asks it to wait for
more than a day. An attempt without a connection says nothing about the row and does not count. Any other end of a call
(an empty retry budget, used-up retries, a pause longer than a call may wait) reschedules the row: it is sent again
after the Retry-After or a backoff. The backoff grows with each round, unless another row was answered during the round,
since then the failure was bad luck. But the last `SPREAD_OUT` sends are spread out, since an outage may last. With
`once`, a row has one attempt. New rows are held back while many rows wait to be sent again: then an outage does not
fail the whole input once, and memory stays bounded. A row is taken only if there is room; a call that backs off makes
room for another one.

The first rows are probes: until one of them shows that address, key, model and account are right, at most `PROBE_ROWS`
are sent. If all of them get the same final verdict, the run stops.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import NamedTuple

from stormbreak.core.backoff import Backoff
from stormbreak.core.cooldown import SPREAD
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import COST
from stormbreak.types import TARGET, TREATMENTS, CallResult, Outcome, Verdict

ATTEMPTS = 10  # maximum sends of one row over all rounds, without those that got no connection
PROBE_ROWS = 20
WIDEST = 256  # maximum rows in flight or about to be, under any policy
PER_WIDTH = 5  # calls for each place: one that is sent, and others that back off
DELAYED_SHARE = 1_000  # maximum rows that wait to be sent again before new rows are held back
STOPPING = frozenset({Verdict.AUTH, Verdict.NOT_FOUND, Verdict.BILLING, Verdict.REDIRECTED})
"""Final verdicts about address, key, model or account: if all probe rows get one of them, the run stops."""

UNPROVEN = frozenset({Verdict.INVALID, Verdict.SCHEMA_MISMATCH})
"""Verdicts that also stop the run while no row of OUTPUT was ever answered: the options or the schema may be wrong."""

SPREAD_OUT = 4  # attempts of a row that are spread out: an outage may last for a minute or two
_BACKOFF = Backoff(initial_delay=2.0, max_delay=60.0)
_MIN = 0.5  # seconds before a row is sent again
_MAX_WAIT = 86_400.0  # maximum seconds that a server may ask a row to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAttempt:
    """A row whose turn it is, from `began` on; `attempts` were made in earlier `rounds`, and `left` are left.

    `maybe_processed` of them may have been processed, and billed.

    The deadline covers all attempts, and begins when the first one leaves.
    """

    index: int
    began: float = 0.0
    deadline_at: float | None = None
    attempts: int = 0
    maybe_processed: int = 0
    rounds: int = 0
    left: int = ATTEMPTS


class Reschedule(NamedTuple):
    """The row is sent again at `due`."""

    due: float


class Final(NamedTuple):
    """The row has ended, after `attempts` attempts."""

    ok: bool
    attempts: int
    maybe_processed: int = 0


def waits_too_long(ended: CallResult, now: float) -> bool:
    """Whether the next attempt is later than a row waits, mostly because the server asks for it."""
    return ended.retry_at is not None and ended.retry_at - now > _MAX_WAIT


def max_rows_in_flight(policy: Policy) -> int:
    """Return the default maximum of rows in flight or about to be."""
    return min(policy.limit.max_in_flight, WIDEST)


class Schedule:
    """The rows of one run, in input order, mixed with rescheduled rows.

    At most `width` calls are in flight or about to be, and four times as many back off. With `unproven`, no row of this
    OUTPUT has ever been answered: then `UNPROVEN` verdicts of all probe rows stop the run, too.
    """

    def __init__(
        self,
        pending: Iterator[int],
        *,
        width: int = WIDEST,
        delayed: int = DELAYED_SHARE,
        once: bool = False,
        spread: float = SPREAD,
        unproven: bool = False,
    ) -> None:
        self._pending = pending
        self.width = width  # may change
        self._held_back = delayed
        self._once = once
        self._spread = spread
        self._later: list[tuple[float, int, RowAttempt]] = []
        self._drained = False
        self._probe_rows = 0
        self._is_probing = True
        self._scouted: list[Verdict] = []
        self._stopping = STOPPING | UNPROVEN if unproven else STOPPING
        self._answered_at = float("-inf")  # when the target last answered a row
        self.under_way = 0

    @property
    def waiting(self) -> int:
        return len(self._later)

    @property
    def next_at(self) -> float | None:
        """When the first of these rows is due."""
        return self._later[0][0] if self._later else None

    @property
    def all_under_way(self) -> bool:
        """Whether no row waits to be sent, for the first time or again."""
        return self._drained and not self._later

    @property
    def scouting(self) -> bool:
        """Whether no row has shown yet that address, key, model and account are right."""
        return self._is_probing

    def has_room(self, backing_off: int) -> bool:
        """Whether a row may be taken while `backing_off` of the calls back off."""
        sent = self.under_way - backing_off
        return sent < self.width and self.under_way < PER_WIDTH * self.width

    def take(self, now: float) -> RowAttempt | float | None:
        """Return the next row, the time to ask again (inf: when a row has ended), or None when all have ended."""
        if self._later and self._later[0][0] <= now:
            self.under_way += 1
            return replace(heappop(self._later)[2], began=now)
        if self._may_send_fresh() and (index := self._next_fresh()) is not None:
            self._probe_rows += self._is_probing
            self.under_way += 1
            return RowAttempt(index=index, began=now)
        if self._later:
            return self._later[0][0]
        return float("inf") if self.under_way or not self._drained else None

    def settle(
        self, turn: RowAttempt, ended: CallResult, now: float, uniform: float
    ) -> Final | Reschedule:
        """Decide whether a row is done or rescheduled after its call."""
        self.under_way -= 1
        ok = ended.outcome.verdict is Verdict.OK
        attempts = turn.attempts + ended.attempts
        maybe_processed = turn.maybe_processed + ended.maybe_processed
        if ok:
            if ended.source == TARGET:
                self._answered_at = now
        else:
            turn = replace(
                turn,
                attempts=attempts,
                maybe_processed=maybe_processed,
                left=turn.left - ended.attempts + ended.unconnected,
                deadline_at=ended.deadline_at if turn.deadline_at is None else turn.deadline_at,
            )
            due = now + self._pause(turn, ended, now, uniform)
            if self._may_come_back(turn, ended, now, due):
                heappush(self._later, (due, turn.index, replace(turn, rounds=turn.rounds + 1)))
                return Reschedule(due)
        if self._is_probing:
            self._learn(ended.outcome)
        return Final(ok, attempts, maybe_processed)

    def stop_reason(self) -> Verdict | None:
        """The common final verdict of all probe rows, if the run should stop for it."""
        return self._scouted[0] if self._is_probing and len(self._scouted) >= PROBE_ROWS else None

    def may_stop_for(self, verdict: Verdict) -> bool:
        """Whether the run may still stop for the verdict of a probe row."""
        return self._is_probing and verdict in self._stopping

    def _may_send_fresh(self) -> bool:
        if self._is_probing and self._probe_rows >= PROBE_ROWS:
            return False
        return len(self._later) < self._held_back

    def _next_fresh(self) -> int | None:
        index = next(self._pending, None)
        self._drained = index is None
        return index

    def _learn(self, outcome: Outcome) -> None:
        """Evaluate a finished probe row: the run continues unless all get the same verdict.

        A row without an HTTP response is replaced by another.
        """
        if outcome.status is None:
            self._probe_rows -= 1
            return
        verdict = outcome.verdict
        self._scouted.append(verdict)
        if verdict not in self._stopping or verdict is not self._scouted[0]:
            self._is_probing = False

    def _may_come_back(self, turn: RowAttempt, ended: CallResult, now: float, due: float) -> bool:
        verdict = ended.outcome.verdict
        if (
            turn.left < 1
            or (self._once and turn.attempts)
            or ended.stopped == COST
            or (turn.deadline_at is not None and due >= turn.deadline_at)
        ):
            return False
        if verdict is Verdict.REJECTED:
            return True
        if ended.outcome.repair is not None:  # another gate refused it
            return True
        if waits_too_long(ended, now):
            return False
        return TREATMENTS[verdict].retry and not ended.outcome.own_deadline

    def _pause(self, turn: RowAttempt, ended: CallResult, now: float, uniform: float) -> float:
        if ended.retry_at is not None and ended.retry_at > now:
            return (ended.retry_at - now) * (1 + self._spread * uniform)
        bad_luck = self._answered_at >= turn.began and turn.left > SPREAD_OUT
        return max(_MIN, _BACKOFF.delay(1 if bad_luck else turn.rounds + 1, uniform))
