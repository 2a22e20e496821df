"""The attempts of a call at one target, and the backoff between them.

`retry` decides whether another attempt follows; `attempt` makes one.
"""

from collections.abc import Callable, Generator
from functools import partial

from stormbreak.core.attempt import Attempt, run_attempt, run_paid
from stormbreak.core.call_state import CallState
from stormbreak.core.flow import Command, Flow, Resume, Wait
from stormbreak.core.hedged_attempt import run_hedged
from stormbreak.core.retry import NoRetry, Retry, decide
from stormbreak.core.retry_budget import was_invited_by_server
from stormbreak.core.target_state import TargetState
from stormbreak.events import CallRejected, RetryPlanned, RetryRefused
from stormbreak.types import VERDICT_OK, CallResult, Outcome, Rejection, TenantRejection, Verdict


def run_target(target_state: TargetState, state: CallState, now: float, uniform: float) -> Flow:
    """Make attempts at the call's target until one is answered or no retry is allowed. Nothing is held in backoff."""
    make_attempt: Callable[..., Attempt] = run_attempt
    if target_state.hedging is not None and state.call.races:
        make_attempt = run_hedged
    elif state.tenant is not None:
        make_attempt = run_paid
    failure: Outcome | None = None
    while True:
        outcome, now, uniform = yield from make_attempt(target_state, state, now, uniform)
        if outcome.verdict is VERDICT_OK:
            return state.end(outcome, now)
        if outcome.rejection is not None:
            return end_rejected(state, outcome.rejection, failure, now)
        failure = outcome
        state.unconnected += outcome.verdict is Verdict.CONNECT_FAILED
        state.maybe_processed += outcome.maybe_processed
        decision, now, uniform = yield from _plan(target_state, state, outcome, now, uniform)
        if isinstance(decision, NoRetry):
            state.note(RetryRefused, now, state.attempts, decision.gate, outcome.verdict)
            return state.end(outcome, now, stopped=decision.gate, retry_at=decision.retry_at)
        until, free, late = decision
        state.retried_late |= late
        state.delay = until - now
        state.followed_retry_after = was_invited_by_server(outcome)
        if outcome.repair is not None:
            state.call = state.call._replace(**outcome.repair._asdict())
        details = state.attempts, until, free, outcome.maybe_processed, outcome.verdict
        state.note(RetryPlanned, now, *details)
        now, uniform = yield from _back_off(target_state, state, until, now, uniform)


def _plan(
    target_state: TargetState, state: CallState, outcome: Outcome, now: float, uniform: float
) -> Generator[Command, Resume, tuple[Retry | NoRetry, float, float]]:
    """Decide about a retry. If the budget cannot pay, ask again after each backoff, unless the call fails fast."""
    deciding = partial(_decide, target_state, state, outcome)
    decision = deciding(now, uniform)
    while isinstance(decision, NoRetry) and decision.gate == "budget":
        target_state.refused_at = now
        refusal = decision
        if decision.ask_again_at is None or state.call.fail_fast:
            break
        until = decision.ask_again_at
        now, uniform = yield from _back_off(target_state, state, until, now, uniform)
        decision = deciding(now, uniform, asks_again=True)
        if isinstance(decision, NoRetry) and decision.gate != "budget":
            return refusal, now, uniform
    return decision, now, uniform


def _back_off(
    target_state: TargetState, state: CallState, until: float, now: float, uniform: float
) -> Generator[Command, Resume, tuple[float, float]]:
    """Wait until then, and return the time and a random number."""
    began = now
    target_state.backing_off += 1
    try:
        while now < until:  # the timers of some loops fire early
            _, now, uniform = yield Wait(until)
    finally:
        target_state.backing_off -= 1
    state.waited += now - began
    return now, uniform


def _decide(
    target_state: TargetState,
    state: CallState,
    outcome: Outcome,
    now: float,
    uniform: float,
    *,
    asks_again: bool = False,
) -> Retry | NoRetry:
    """Decide about a retry; the first time, also for the shadow policy."""
    policy, verdict = target_state.policy, outcome.verdict
    deciding: Callable[..., Retry | NoRetry] = partial(
        decide,
        treatment=target_state.treatments[verdict],
        outcome=outcome,
        attempt=state.attempts - state.earlier_attempts,
        left=state.allowance(verdict, now),
        load=target_state.load(now, state.sent_at),
        elsewhere=verdict in state.fallback_verdicts and target_state.is_open(now),
        now=now,
        uniform=uniform,
        previous=state.delay,
    )
    decision = deciding(policy.retry, budget=target_state.budget)
    if asks_again:
        return decision
    if target_state.shadow is not None and policy.shadow is not None and policy.shadow.retries:
        shadow_policy = policy.shadow.retry or policy.retry
        shadow_decision = deciding(shadow_policy, budget=target_state.shadow_budget)
        target_state.shadow.compare(now, decision, shadow_decision)
    return decision


def end_rejected(
    state: CallState, rejection: Rejection, failure: Outcome | None, now: float
) -> CallResult:
    """End a call that was rejected here. Its outcome is the failure of an earlier attempt, if any."""
    of_tenant = isinstance(rejection, TenantRejection)
    whose = "limit of its tenant: " if of_tenant else ""
    state.note(CallRejected, now, rejection.policy, whose + rejection.reason, rejection.retry_at)
    outcome = failure or Outcome(Verdict.REJECTED, rejection=rejection)
    stopped, retry_at = rejection.policy, rejection.retry_at
    return state.end(outcome, now, stopped=stopped, retry_at=retry_at, of_tenant=of_tenant)
