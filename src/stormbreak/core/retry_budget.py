"""The retry budget: which retries are free, and how the others are paid.

Retries multiply traffic when a target can handle it least. So a retry costs budget, which calls have earned. Then
retries cannot overload the system as long as load * (1 + ratio) stays below capacity. The budget starts empty: a credit
at the start would be multiplied by the number of processes.

A retry is free if there is evidence that it does no harm. The evidence is in `Load`:

- after a Retry-After that is long enough to hold calls: always
- after a timeout: `healthy` and `timeouts_are_luck` (if all attempts hang, none overtakes another), or `adaptive`
- after a 429: `healthy` and `slowed_by_429s` (the 429 may come from a limit), or `gated`
- after another failure: `healthy` (it was bad luck, and sending less would not help), or `gated`
- after any failure, while the target is `new` to this process: if the automatic limit is in force (`limited`)

With a new target, the first burst may itself be the load. So its retries are free only while the automatic limit is in
force; until then, a retry that cannot be paid waits. Other limits have neither rule: they would let all waiting calls
leave at the first answer (ADR 82).

A *lone* process (fewer than `low_traffic_calls` outcomes in `low_traffic_window`) has hardly any evidence. The state of
its gates does not count, not even with a `new` target. Its retries are free up to `low_traffic_retries` failures in a
row, or a lone script could not retry at all; after a timeout only the list applies. Beyond that number it pays for
every retry, since free retries of thousands of small processes keep an overload alive.

All other retries cost budget. A lone call that cannot pay may make one *late retry* (`retry`). It is made alone and at
a random time, so that late retries never come together. There is none after a timeout: if calls hang, more calls may
keep the target overloaded.

Only retryable failures count as failures in a row. Timeouts count, although their retries are hardly ever free: they
are the strongest sign of an overload, and if a timeout ended the row, errors between timeouts would always be free.
Failures with a Retry-After do not count: a client that returns on time has used up nothing (ADR 23). Final verdicts (an
invalid request, a wrong key) neither count nor end the row: they say nothing about the load of the target.
"""

from dataclasses import dataclass
from math import exp
from typing import NamedTuple

from stormbreak.core.checks import check_types, require_at_least, require_positive, require_window
from stormbreak.core.window import TimeWindow
from stormbreak.types import TREATMENTS, VERDICT_OK, Outcome, Verdict

SHORT_WAIT = 0.5  # seconds; a shorter Retry-After does not make a retry free


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """Each call earns `ratio` retries, up to `capacity`; the balance decays with time constant `decay_time` s.

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
    """The evidence of a target's gates about its load."""

    gated: bool = False  # a gate holds traffic (a queue stands), so a retry adds none ...
    adaptive: bool = False  # ... and that gate follows the load: not a circuit or a fixed limit
    healthy: bool = False  # answers come, most of them on time, the last one recently
    timeouts_are_luck: bool = False  # attempts sent after one that timed out were answered on time
    slowed_by_429s: bool = False  # 429s slow the traffic, or most attempts beside them are served
    in_trouble: bool = False  # most answers are late, or none comes; not the opposite of healthy
    busy: bool = False  # other calls are in flight or queued
    # this process got its first answer less than half a minute ago, or none; only with an automatic limit
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
        """Return the number of retries that the budget can pay now."""
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
        self._recent.add(now)  # only the number of calls is used

    def _is_lone(self, now: float) -> bool:
        """Whether this process has hardly any traffic."""
        self._recent.roll(now)
        return self._recent.calls < self._policy.low_traffic_calls

    def may_ask_again(self, now: float, load: Load) -> bool:
        """Whether an unpaid retry may ask again later: new target or lone process, and other calls may bring news."""
        waits = load.busy and not self._policy.no_free_retries
        return waits and (load.new or self._is_lone(now))

    def may_retry_late(self, outcome: Outcome, now: float) -> bool:
        """Whether an unpaid retry may be made late: by a lone process, after an error that came at once."""
        policy = self._policy
        hung = outcome.verdict in (Verdict.TIMEOUT, Verdict.THROTTLED)
        allowed = policy.low_traffic_retries and not policy.no_free_retries
        return bool(allowed) and not hung and self._is_lone(now)

    def spreads_return(self, outcome: Outcome, now: float) -> bool:
        """Whether a call that gets another Retry-After after the first returns at a random time: in a lone process."""
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
