"""Run a call: within the limits of its tenant, at its target, and with its fallbacks.

`run_target` (`retry_loop`) makes attempts at one target until one is answered or no retry is allowed. `FallbackRun`
(`fallback`) moves a call with fallbacks from target to target.

A driver runs the flow: it executes each command that the flow yields (`flow`) and resumes it with the outcome, the time
`now` in seconds, and `uniform`, a new random number in [0, 1).
"""

from stormbreak.core.attempt import Attempt, hold
from stormbreak.core.call_state import CallState
from stormbreak.core.engine import MAX_TARGETS, Engine
from stormbreak.core.fallback import FallbackRun
from stormbreak.core.flow import Flow
from stormbreak.core.retry_loop import end_rejected, run_target
from stormbreak.core.tenant import Tenant
from stormbreak.events import Labelled
from stormbreak.types import CACHE, CANCELLED, DEGRADED, Call, CallResult


def run_call(
    engine: Engine, call: Call, now: float, uniform: float, state: CallState | None = None
) -> Flow:
    """Run `call` to its end, at its target and its fallbacks. `state` is given if it has passed its tenant's limits."""
    if state is None:
        if engine.listeners and call.labels:
            engine.events.append(Labelled(now, call.number, call.target, call.labels))
        state = CallState(engine, call)
        if engine.tenants and call.tenant in engine.tenants:
            return _run_for_tenant(engine.tenants[call.tenant], state, now, uniform)
    target_state = engine.target_state(call.target)
    if len(engine.targets) > MAX_TARGETS:
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
    """Wait for the limits of the call's tenant, and run it. Without a fallback: the limits hold for all targets."""
    engine, call = state.engine, state.call
    ended: CallResult | None = None
    # If a reload sets a spend limit while the call waits, the call lacks the bound that the limit needs.
    state.tenant = tenant if tenant.limits.spend.acts else None

    def run(now: float, uniform: float) -> Attempt:
        nonlocal ended
        try:
            ended = yield from run_call(engine, call, now, uniform, state)
        finally:  # also on a cancel
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
            return end_rejected(state, outcome.rejection, None, now)
    assert ended is not None, "it was run"
    return ended
