"""The retry budget: which retries are free, and what pays for the others.

Retries multiply traffic when a target can handle it least. So a retry costs budget that calls have earned, and retries
cannot overload the system as long as load * (1 + ratio) stays below capacity. The budget starts empty: a credit at the
start would be multiplied by the number of processes.

A retry is free if there is evidence that it does no harm. `Load` has the evidence:

- after a Retry-After that is long enough to hold calls: always;
- after a timeout: if `healthy` and `timeouts_are_luck` (where all hang, nobody overtakes), or if `adaptive`;
- after a 429: if `healthy` and `slowed_by_429s` (it may stand for a limit), or if `gated`;
- after another failure: if `healthy` (it was bad luck, and sending less would not help), or if `gated`;
- while the target is `new` to this process: if the automatic limit is in force (`limited`), since the first burst may
  itself be the load. Until it is, a retry that cannot be paid waits. Not with another limit, which would let all that
  waited leave at the first answer (ADR 82).

A *lone* process (fewer than `low_traffic_calls` outcomes in `low_traffic_window`) has hardly any evidence. Its gates say
nothing, not even of a `new` target. Up to `low_traffic_retries` failures in a row, its retries are free, or a lone script
could not retry at all; after timeouts only by the table. Beyond that it pays for all, since free retries of thousands of
small processes keep an overload alive.

Everything else costs budget. Where a lone call cannot pay, it may make one *late retry* (`retry`): by itself, and at a
random time, so that these never come together. Not after a timeout: where calls hang, more of them may be what keeps
the target overloaded.

Only retryable failures count as failures in a row. Timeouts count although they are hardly ever free: they are the
strongest sign of an overload, and if one ended the row, errors between timeouts would always be free. Failures with a
Retry-After do not count: a client that returns on time has used up nothing (ADR 23). Final verdicts (a wrong request, a
wrong key) neither count nor end the row: they say nothing about the target's load.
"""

from dataclasses import dataclass
from math import exp
from typing import NamedTuple

from stormbreak.core.checks import check_types, require_at_least, require_positive, require_window
from stormbreak.core.window import TimeWindow
from stormbreak.types import TREATMENTS, VERDICT_OK, Outcome, Verdict

SHORT_WAIT = 0.5  # seconds; a shorter named time makes no retry free


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """Each call earns `ratio` retries, up to `capacity`; what is earned decays with time constant `decay_time` s.

    With `no_free_retries` no retry is free, as in a service mesh.
    """

    ratio: float = 0.1
    capacity: float = 10.0
    decay_time: float = 60.0
    low_traffic_calls: int = 10
    low_traffic_window: float = 30.0
    low_traffic_retries: int = 2
    no_free_retries: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        counts = ("ratio", "capacity", "low_traffic_calls", "low_traffic_retries")
        require_at_least(self, 0, *counts)
        require_positive(self, "decay_time")
        require_window("low_traffic_window", self.low_traffic_window)


class Load(NamedTuple):
    """What the gates of a target know about its load."""

    gated: bool = False  # they hold the traffic, so that a retry adds none: a queue stands, ...
    adaptive: bool = False  # ... and by what follows the load: no circuit, no fixed limit
    healthy: bool = False  # answers come, most of them on time, and one did lately
    timeouts_are_luck: bool = False  # what left after one that timed out was answered on time
    slowed_by_429s: bool = False  # they slow the traffic down, or most beside them are served
    in_trouble: bool = False  # most answers are late, or none comes: else it need not be healthy
    busy: bool = False  # other calls are in flight or queued
    # no answer to this process is older than half a minute; only with an automatic limit
    new: bool = False
    limited: bool = False  # that limit is in force, and the target is not dead


UNKNOWN = Load()


class Budget:
    """The account of one process: calls pay in, retries draw out."""

    __slots__ = ("_in_a_row", "_policy", "_recent", "_since", "_tokens")

    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy
        self._tokens = 0.0
        self._since = 0.0
        self._recent = TimeWindow(policy.low_traffic_window)
        self._in_a_row = 0

    def earn(self, now: float) -> None:
        policy = self._policy
        tokens, since_then = self._tokens, now - self._since
        if since_then > 0:
            tokens *= exp(-since_then / policy.decay_time)
        tokens, most = tokens + policy.ratio, policy.capacity
        self._tokens = tokens if tokens < most else most  # noqa: FURB136 - `min` takes longer
        self._since = now

    def balance(self, now: float) -> float:
        """Return the number of retries that the budget can pay at `now`."""
        if not self._tokens:
            return 0.0
        return self._tokens * exp(-max(0.0, now - self._since) / self._policy.decay_time)

    def record(self, outcome: Outcome, now: float) -> None:
        if outcome.verdict is VERDICT_OK:
            self._in_a_row = 0
        elif outcome.verdict is Verdict.CANCELLED:
            return
        elif TREATMENTS[outcome.verdict].retry and not was_invited_by_server(outcome):
            self._in_a_row += 1
        self._recent.add(now)  # only its calls are asked for

    def _is_lone(self, now: float) -> bool:
        """Whether this process has hardly any traffic."""
        self._recent.roll(now)
        return self._recent.calls < self._policy.low_traffic_calls

    def may_ask_again(self, now: float, load: Load) -> bool:
        """Whether a retry that it cannot pay may wait for it: early or with hardly any traffic, while others may bring news."""
        waits = load.busy and not self._policy.no_free_retries
        return waits and (load.new or self._is_lone(now))

    def may_retry_late(self, outcome: Outcome, now: float) -> bool:
        """Whether a retry that it cannot pay may be made late: with hardly any traffic, after errors that come at once."""
        policy = self._policy
        hung = outcome.verdict in (Verdict.TIMEOUT, Verdict.THROTTLED)
        allowed = policy.low_traffic_retries and not policy.no_free_retries
        return bool(allowed) and not hung and self._is_lone(now)

    def spreads_return(self, outcome: Outcome, now: float) -> bool:
        """Whether a call that was told when to return, and is refused again, returns at a random time: with hardly any traffic."""
        told = was_invited_by_server(outcome) and not self._policy.no_free_retries
        return told and self._is_lone(now)

    def is_free(self, outcome: Outcome, now: float, load: Load = UNKNOWN) -> bool:
        """Whether a retry after `outcome` (already recorded) is free."""
        if self._policy.no_free_retries:
            return False
        if was_invited_by_server(outcome):
            return True
        lone = self._is_lone(now)
        if lone and self._in_a_row > self._policy.low_traffic_retries:
            return False
        if load.new and load.limited and not lone:
            return True
        if outcome.verdict is Verdict.TIMEOUT:
            lucky = load.healthy and load.timeouts_are_luck
            return lucky or (load.adaptive and not lone)
        healthy = load.healthy and (load.slowed_by_429s or outcome.verdict is not Verdict.THROTTLED)
        return healthy or load.gated or lone

    def try_pay(self, now: float) -> bool:
        """Pay for one retry; return False if the budget has less than one."""
        balance = self.balance(now)
        if balance < 1.0:
            return False
        self._tokens = balance - 1.0
        self._since = now
        return True


def was_invited_by_server(outcome: Outcome) -> bool:
    """Whether the server named a Retry-After that is long enough to hold calls."""
    return outcome.retry_after is not None and outcome.retry_after >= SHORT_WAIT
