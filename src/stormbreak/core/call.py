"""The life of a call at one target: an attempt, and perhaps back off and another. How one is made is `attempt`."""

from collections.abc import Callable
from functools import partial
from math import inf

from stormbreak.core.attempt import attempted
from stormbreak.core.call_state import CallState
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Flow, Wait
from stormbreak.core.race import raced
from stormbreak.core.retry import NoRetry, Retry, RetryAllowance, decide
from stormbreak.core.shadow import ShadowGate
from stormbreak.core.target_state import TargetState
from stormbreak.events import CallRejected, RetryPlanned, RetryRefused
from stormbreak.types import CallResult, Outcome, Rejection, Verdict


def carry(engine: Engine, lane: TargetState, trail: CallState, now: float, uniform: float) -> Flow:
    """Carry the call of `trail` to its end at its target. Nothing is held while backing off."""
    call = trail.call
    attempt = raced if call.races and lane.hedging is not None else attempted
    failure: Outcome | None = None
    while True:
        outcome, now, uniform = yield from attempt(engine, lane, trail, now, uniform)
        if outcome.verdict is Verdict.OK:
            return trail.end(outcome, now)
        if outcome.rejection is not None:
            return _rejected(trail, outcome.rejection, failure, now)
        failure = outcome
        trail.unconnected += outcome.verdict is Verdict.CONNECT_FAILED
        trail.maybe_processed += outcome.maybe_processed
        deciding = partial(
            decide,
            treatment=lane.treatments[outcome.verdict],
            outcome=outcome,
            attempt=trail.attempts - trail.before,
            left=_time_left(trail, now),
            load=lane.load(now, trail.sent_at),
            elsewhere=outcome.verdict in trail.elsewhere and lane.is_open(now),
            now=now,
            uniform=uniform,
            previous=trail.delay,
        )
        decision = deciding(lane.policy.retry, budget=lane.budget)
        if lane.shadow is not None:
            _decide_shadow(lane, lane.shadow, decision, deciding, now)
        if isinstance(decision, NoRetry):
            if decision.gate == "budget":
                lane.refused_at = now
            trail.note(
                RetryRefused(
                    now, call.number, call.target, trail.attempts, decision.gate, outcome.verdict
                )
            )
            return trail.end(outcome, now, stopped=decision.gate, retry_at=decision.retry_at)
        until = decision.until
        trail.delay = until - now
        trail.note(
            RetryPlanned(
                now,
                call.number,
                call.target,
                trail.attempts,
                *decision,
                outcome.maybe_processed,
                outcome.verdict,
            )
        )
        began = now
        lane.backing_off += 1
        try:
            while now < until:  # the timers of some loops run early
                _, now, uniform = yield Wait(until)
        finally:
            lane.backing_off -= 1
        trail.waited += now - began


def _decide_shadow(
    lane: TargetState,
    shadow: ShadowGate,
    decision: Retry | NoRetry,
    deciding: Callable[..., Retry | NoRetry],
    now: float,
) -> None:
    """Let the shadow decide about the same retry, and compare."""
    policy = lane.policy.shadow
    if policy is not None and policy.retries:
        retry = policy.retry or lane.policy.retry
        shadow.decided(now, decision, deciding(retry, budget=lane.shadow_budget))


def _rejected(
    trail: CallState, rejection: Rejection, failure: Outcome | None, now: float
) -> CallResult:
    """End a call that was refused here. What an earlier attempt met at the target is told first."""
    call = trail.call
    trail.note(CallRejected(now, call.number, call.target, *rejection))
    outcome = failure or Outcome(Verdict.REJECTED, rejection=rejection)
    return trail.end(outcome, now, stopped=rejection.policy, retry_at=rejection.retry_at)


def _time_left(trail: CallState, now: float) -> RetryAllowance:
    call = trail.call
    return RetryAllowance(
        deadline=inf if call.deadline_at is None else call.deadline_at - now,
        patience=inf if call.patience is None else call.patience - trail.waited,
        attempts=inf if call.most is None else call.most - trail.attempts,
    )
