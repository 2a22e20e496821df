"""A call, from top to bottom: its targets, the attempts at each, and the backoff between them.

`run_call` begins it. `FallbackRun` moves a call with fallbacks from target to target. `run_target` makes attempts at one
target until one is answered or no retry is allowed (`retry` decides). How one attempt is made is in `attempt`; the
rules of fallbacks are in `fallback`. The result is an answer from any source, or the failure at the first target.

A driver runs the flow: it executes each command that the flow yields (`flow`) and resumes it with the outcome, the time
`now` in seconds, and `uniform`, a new random number in [0, 1).
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from math import inf
from typing import TypeAlias

from stormbreak.core.attempt import Attempt, hold, run_attempt, run_hedged, run_paid
from stormbreak.core.call_state import CallState
from stormbreak.core.engine import Engine
from stormbreak.core.fallback import DEPRIORITIZED, Step, ordered
from stormbreak.core.flow import Ask, Command, Flow, Resume, Wait
from stormbreak.core.retry import NoRetry, Retry, decide
from stormbreak.core.retry_budget import was_invited_by_server
from stormbreak.core.target_state import TargetState
from stormbreak.core.tenant import Tenant
from stormbreak.events import (
    CallRejected,
    FallbackRefused,
    FellBack,
    Labelled,
    RetryPlanned,
    RetryRefused,
)
from stormbreak.types import (
    CACHE,
    CANCELLED,
    DEGRADED,
    FALLBACK,
    VERDICT_OK,
    Call,
    CallResult,
    Outcome,
    Rejection,
    Target,
    TenantRejection,
    Verdict,
)

GRACE = 0.25  # seconds that a local answer may take beyond the deadline
_ALL_VERDICTS = frozenset(Verdict)

_FallbackSteps: TypeAlias = Generator[Command, Resume, Outcome]


def run_call(
    engine: Engine, call: Call, now: float, uniform: float, state: CallState | None = None
) -> Flow:
    """Run `call` to its end, at its target and its fallbacks. One that has passed its tenant's limits has a `state`."""
    if state is None:
        if engine.listeners and call.labels:
            engine.events.append(Labelled(now, call.number, call.target, call.labels))
        state = CallState(engine, call)
        if engine.tenants and call.tenant in engine.tenants:
            return _run_for_tenant(engine.tenants[call.tenant], state, now, uniform)
    target_state = engine.target_state(call.target)
    if engine.crowded:
        engine.make_room(now)
        target_state = engine.target_state(call.target)  # `make_room` may have marked it as unused
    if target_state.budget is not None:
        target_state.budget.earn(now)
    if target_state.shadow_budget is not None:
        target_state.shadow_budget.earn(now)
    if call.fallbacks:
        return FallbackRun(state, uniform).run(now)
    return run_target(target_state, state, now, uniform)


def _run_for_tenant(tenant: Tenant, state: CallState, now: float, uniform: float) -> Flow:
    """Wait for the limits of the call's tenant, and run it. A rejected one has no fallback: they hold for all targets."""
    engine, call = state.engine, state.call
    ended: CallResult | None = None
    # One that waits while a reload sets a limit was made without the bound that it needs.
    state.tenant = tenant if tenant.limits.spend.acts else None

    def run(now: float, uniform: float) -> Attempt:
        nonlocal ended
        try:
            ended = yield from run_call(engine, call, now, uniform, state)
        finally:  # also if it is cancelled
            tenant.sent += state.attempts > 0
        outcome = CANCELLED if ended.source in (CACHE, DEGRADED) else ended.outcome
        if ended.maybe_processed:
            outcome = outcome._replace(maybe_processed=True)
        tenant.tokens += 0 if outcome.usage is None else outcome.usage.total
        return outcome, state.ended_at, uniform

    if tenant.calls is None:
        yield from run(now, uniform)
    else:
        lease = tenant.calls.lease
        if lease is not None and lease.rests:
            lease.wake()
        place = tenant.calls.admission.enter(call, now, state.expires_at(now))
        outcome, now, _ = yield from hold(tenant, tenant.calls, place, state, run, now, uniform)
        if ended is None:
            assert outcome.rejection is not None, "it has not begun"
            return _end_rejected(state, outcome.rejection, None, now)
    assert ended is not None, "it was run"
    return ended


# ---------------------------------------------------------------- one target


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
            return _end_rejected(state, outcome.rejection, failure, now)
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
        state.was_told = was_invited_by_server(outcome)
        if outcome.repair is not None:
            state.call = state.call._replace(**outcome.repair._asdict())
        details = state.attempts, until, free, outcome.maybe_processed, outcome.verdict
        state.note(RetryPlanned, now, *details)
        now, uniform = yield from _back_off(target_state, state, until, now, uniform)


def _plan(
    target_state: TargetState, state: CallState, outcome: Outcome, now: float, uniform: float
) -> Generator[Command, Resume, tuple[Retry | NoRetry, float, float]]:
    """Decide about a retry. One that the budget cannot pay may ask again after each backoff, unless the call fails fast."""
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
        while now < until:  # the timers of some loops run early
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
    """Decide about a retry, the first time also for the shadow policy."""
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


def _end_rejected(
    state: CallState, rejection: Rejection, failure: Outcome | None, now: float
) -> CallResult:
    """End a call that was rejected here; its outcome is the failure of an earlier attempt, if there was one."""
    of_tenant = isinstance(rejection, TenantRejection)
    whose = "limit of its tenant: " if of_tenant else ""
    state.note(CallRejected, now, rejection.policy, whose + rejection.reason, rejection.retry_at)
    outcome = failure or Outcome(Verdict.REJECTED, rejection=rejection)
    stopped, retry_at = rejection.policy, rejection.retry_at
    return state.end(outcome, now, stopped=stopped, retry_at=retry_at, of_tenant=of_tenant)


# ---------------------------------------------------------------- from target to target


class FallbackRun:
    """One call with fallbacks; the random number `uniform` draws a target of a weighted pool."""

    def __init__(self, state: CallState, uniform: float) -> None:
        state.may_move = True
        self._engine = state.engine
        self._state = state
        self._uniform = uniform
        self._call = state.call
        self._met: set[Verdict] = set()
        self._tried: set[Target] = set()
        self._retry_at = inf  # when a retry first makes sense at one of them

    def run(self, now: float) -> Flow:
        """Try the target, then every step whose verdicts match a failure."""
        state, steps = self._state, self._call.fallbacks
        first = yield from self._run_target(self._call.target, steps, now)
        outcome = first.outcome
        for place, step in enumerate(steps, 1):
            if _is_over(outcome):
                break
            if not self._met & step.on:
                continue
            if step.targets:
                outcome = yield from self._move(step, steps[place:], outcome)
            else:
                outcome = yield from self._ask(step, outcome)
        state.may_move = False
        if outcome.verdict is Verdict.OK:
            return state.end(outcome, state.ended_at)
        state.call = state.call._replace(target=self._call.target)
        last = outcome if outcome.verdict is Verdict.CANCELLED else first.outcome
        retry_at = None if self._retry_at == inf else self._retry_at
        stopped, of_tenant = first.stopped, first.of_tenant
        return state.end(
            last, state.ended_at, stopped=stopped, retry_at=retry_at, of_tenant=of_tenant
        )

    def _move(self, step: Step, later: Sequence[Step], outcome: Outcome) -> _FallbackSteps:
        """Try the targets of `step` until one answers."""
        state = self._state
        in_order = ordered(step, self._uniform, self._utilization)
        targets = [target for target in in_order if target not in self._tried]
        for place, target in enumerate(targets, 1):
            gate = self._refusing_gate(target, outcome, state.ended_at)
            if gate is not None:
                state.note(FallbackRefused, state.ended_at, str(target), gate)
                continue
            self._note_fallback(str(target), outcome)
            others = (step, *later) if place < len(targets) else later
            ended = yield from self._run_target(target, others, state.ended_at)
            outcome = ended.outcome
            if _is_over(outcome):
                state.source = FALLBACK
                break
        return outcome

    def _ask(self, step: Step, outcome: Outcome) -> _FallbackSteps:
        """Ask the driver for a local answer; without one the failure stays."""
        state, deadline_at = self._state, self._state.call.deadline_at
        until = None if deadline_at is None else max(deadline_at, state.ended_at + GRACE)
        found, now, _ = yield Ask(step, outcome, until)
        state.ended_at = now
        if found is None or found.verdict is not Verdict.OK:
            state.note(FallbackRefused, now, step.source, "nothing found")
            return outcome
        self._note_fallback(step.source, outcome)
        state.source = step.source
        return found

    def _run_target(
        self, target: Target, steps: Sequence[Step], now: float
    ) -> Generator[Command, Resume, CallResult]:
        state, engine = self._state, self._engine
        self._tried.add(target)
        fallback_verdicts = self._fallback_verdicts(steps, now)
        if target != self._call.target and self._call.patience is None:
            fallback_verdicts = _ALL_VERDICTS  # it ends, and may begin again at its own target
        state.move(
            target,
            patience=self._patience(steps),
            fail_fast=self._call.fail_fast or bool(fallback_verdicts),
            fallback_verdicts=fallback_verdicts,
            later_verdicts=frozenset[Verdict]().union(*(step.on for step in steps)),
        )
        ended = yield from run_target(engine.target_state(target), state, now, self._uniform)
        outcome = ended.outcome
        self._met.add(outcome.verdict)
        if ended.retry_at is not None:
            self._retry_at = min(self._retry_at, ended.retry_at)
        if ended.history and isinstance(ended.history[-1], CallRejected):
            self._met.add(Verdict.REJECTED)  # after a failure, which is what it ended with
        target_state = engine.target_state(target)  # a new one may have taken its place
        if outcome.verdict is Verdict.OK:
            target_state.failed_in_a_row = 0
        elif target_state.treatments[outcome.verdict].retry:
            target_state.failed_in_a_row += 1
        return ended

    def _fallback_verdicts(self, steps: Sequence[Step], now: float) -> frozenset[Verdict]:
        """The verdicts for which a target of these steps can take the call, so that it need not wait for an open circuit."""

        def is_free(target: Target) -> bool:
            return target not in self._tried and not self._engine.is_open(target, now)

        open_steps = (
            step.on
            for step in steps
            if step.bounds_waiting and any(is_free(target) for target, _ in step.targets)
        )
        return frozenset[Verdict]().union(*open_steps)

    def _patience(self, steps: Sequence[Step]) -> float | None:
        """Return the maximum time unserved while these steps remain."""
        waited = self._state.waited
        bounds = [waited + step.after for step in steps if step.after and step.bounds_waiting]
        if self._call.patience is not None:
            bounds.append(self._call.patience)
        return min(bounds, default=None)

    def _refusing_gate(self, target: Target, outcome: Outcome, now: float) -> str | None:
        """Return the gate that refuses the fallback, if any; the budget is charged last, if all others agree."""
        call, target_state = self._state.call, self._engine.target_state(target)
        if call.max_attempts is not None and self._state.attempts >= call.max_attempts:
            return "attempts"
        left = inf if call.deadline_at is None else call.deadline_at - now
        if left < target_state.policy.retry.min_time_left:
            return "deadline"
        is_load = target_state.treatments[
            outcome.verdict
        ].retry  # not so where it was rejected here
        doubted, budget = target_state.failed_in_a_row >= DEPRIORITIZED, target_state.budget
        if is_load and doubted and budget is not None and not budget.try_pay(now):
            return "budget"
        return None

    def _utilization(self, target: Target) -> float:
        return self._engine.target_state(target).utilization(self._state.ended_at)

    def _note_fallback(self, to: str, outcome: Outcome) -> None:
        state = self._state
        state.note(FellBack, state.ended_at, to, outcome.verdict, outcome.maybe_processed)


def _is_over(outcome: Outcome) -> bool:
    """Whether the call ends here: it is answered, cancelled, or part of it has reached the caller."""
    return outcome.committed or outcome.verdict in (Verdict.OK, Verdict.CANCELLED)
