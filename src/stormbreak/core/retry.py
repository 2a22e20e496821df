"""Decide whether a failed attempt is followed by another, and when.

There is a retry if all of these are true, checked in this order:

1. the verdict allows a retry, and the server does not forbid it;
2. nothing has reached the caller;
3. no fallback takes the call because the circuit is open;
4. attempts are left;
5. the delay and a minimum of useful time fit before the deadline;
6. the delay fits into the patience, and a Retry-After is not above `max_wait`;
7. the retry is free, or the budget pays. This check is last, so that a refusal costs nothing.

With hardly any traffic, budget and evidence depend on a few calls. In the first half minute with a target, hardly any
budget has been earned, and a whole burst may fail (this applies only with an automatic limit, which then bounds the
retries). In both cases a call that has a deadline or patience asks again after each backoff, as long as other calls are
in flight or queued: their results may earn a retry, or show that it is free. Without other calls it would wait for
nothing, and many small processes would then come back at the same time. So a lone call makes one late retry, at a
random time within its remaining time. A free retry leaves at such a time, too, if the call returned after a Retry-After
and got another one.

A repair (the answer did not fit its schema, and the model is shown the errors) passes the same gates, but without a
delay, since the target has answered. So it is free while answers come, and paid while the target is in trouble.
"""

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from stormbreak.core.backoff import Backoff
from stormbreak.core.checks import check_types, require_at_least, require_positive
from stormbreak.core.cooldown import SPREAD
from stormbreak.core.retry_budget import UNKNOWN, Budget, Load, was_invited_by_server
from stormbreak.types import Outcome, Treatment, Verdict

ASK_AGAIN = 0.1  # minimum seconds until the budget is asked again
LATEST = 0.75  # of the time left: the latest time of a late retry; the rest is for the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """At most `max_attempts` attempts, the first included.

    A retry needs `min_time_left` seconds before the deadline. A Retry-After above `max_wait` ends the call with the
    time to retry, and holds other calls to that target for `max_wait`. A Retry-After of t seconds becomes a random time
    within [t, (1 + retry_after_jitter) t]. After a status in `longer_backoff_on` the delay is that of the next retry.
    """

    max_attempts: int = 6
    backoff: Backoff = field(default_factory=Backoff)
    min_time_left: float = 0.5
    max_wait: float = 900.0
    retry_after_jitter: float = SPREAD
    longer_backoff_on: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 1, "max_attempts")
        require_at_least(self, 0, "min_time_left", "retry_after_jitter")
        require_positive(self, "max_wait")


class Retry(NamedTuple):
    """Retry, not before `until`. `late`: this is the one late retry of the call."""

    until: float
    free: bool
    late: bool = False


class NoRetry(NamedTuple):
    """Do not retry: `gate` refused. `retry_at` is the time of the server's Retry-After, if any.

    `ask_again_at` is the time at which to ask the budget again, if it could not pay; None: do not ask.
    """

    gate: str
    retry_at: float | None = None
    ask_again_at: float | None = None


class RetryAllowance(NamedTuple):
    """The time and attempts that a call has left, inf if unbounded, and whether it may retry late.

    `returned`: the last retry followed a Retry-After, so the next may be late.
    """

    deadline: float = inf
    patience: float = inf
    attempts: float = inf
    late: bool = False
    returned: bool = False


def decide(  # noqa: PLR0913 - keywords are cheap to read
    policy: RetryPolicy,
    treatment: Treatment,
    outcome: Outcome,
    *,
    attempt: int,
    left: RetryAllowance,
    budget: Budget | None,
    now: float,
    uniform: float,
    previous: float = 0.0,
    load: Load = UNKNOWN,
    elsewhere: bool = False,
) -> Retry | NoRetry:
    """Ask every gate in turn about a retry after attempt number `attempt`, which ended in `outcome`.

    `previous` is the delay before that attempt, in seconds. `elsewhere`: the circuit is open, and another target can
    take the call.
    """
    repairs = outcome.repair is not None
    delay = 0.0 if repairs else _delay(policy, outcome, attempt, uniform, previous, budget)
    gates = (
        (
            "repairs" if outcome.verdict is Verdict.SCHEMA_MISMATCH else "verdict",
            treatment.retry or repairs,
        ),
        ("forbidden", not outcome.forbidden),
        ("committed", not outcome.committed),
        ("breaker", not elsewhere),
        ("attempts", attempt < policy.max_attempts and left.attempts >= 1),
        ("deadline", delay + policy.min_time_left <= left.deadline),
        ("patience", delay < left.patience),
        ("max_wait", (outcome.retry_after or 0.0) <= policy.max_wait),
    )
    named = outcome.retry_after
    retry_at = None if named is None else now + named
    for gate, agrees in gates:
        if not agrees:
            return NoRetry(gate, retry_at)
    longest = min(left.deadline - policy.min_time_left, left.patience)
    latest = max(delay, min(LATEST * longest, policy.backoff.max_delay))
    late = delay + (latest - delay) * uniform
    if budget is None or budget.is_free(outcome, now, load):
        again = budget is not None and left.returned and budget.spreads_return(outcome, now)
        return Retry(now + (late if again and longest < inf else delay), free=True)
    if budget.try_pay(now):
        return Retry(now + delay, free=False)
    wait = max(delay, ASK_AGAIN)
    if wait < longest < inf and budget.may_ask_again(now, load):
        return NoRetry("budget", retry_at, now + wait)
    if left.late and delay < latest and longest < inf and budget.may_retry_late(outcome, now):
        return Retry(now + late, free=True, late=True)
    return NoRetry("budget", retry_at)


def _floor(backoff: Backoff) -> float:
    """Return the minimum delay: without a budget, nothing else bounds retries after a short Retry-After."""
    return backoff.min_delay if backoff.kind == "proportional_jitter" else backoff.delay(1, 0.0)


def _delay(
    policy: RetryPolicy,
    outcome: Outcome,
    attempt: int,
    uniform: float,
    previous: float,
    budget: Budget | None,
) -> float:
    """Return the delay. A very short Retry-After has room for one of all waiting requests: it replaces no backoff."""
    longer = outcome.status in policy.longer_backoff_on
    backoff = policy.backoff.delay(attempt + longer, uniform, previous)
    if outcome.retry_after is None:
        return backoff
    named = outcome.retry_after * (1 + policy.retry_after_jitter * uniform)
    if budget is None:  # nothing else bounds retries
        return max(named, _floor(policy.backoff))
    return named if was_invited_by_server(outcome) else max(named, backoff)
