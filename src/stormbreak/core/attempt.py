"""One attempt of a call: queue, send once, settle. `hedged_attempt` sends another one beside a slow one.

A streamed answer is settled like any other, at its end: the permit stays with the frame of the
attempt while the caller reads.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeAlias

from stormbreak.core.call_state import CallState
from stormbreak.core.flow import (
    DeliverStream,
    FlowClosed,
    Send,
    Steps,
    WaitFor,
)
from stormbreak.core.gate import Permit
from stormbreak.core.queue_order import Ticket
from stormbreak.core.target_state import TargetState
from stormbreak.core.tenant import Tenant, counted
from stormbreak.events import Committed, Queued, Returned, Sent
from stormbreak.types import (
    CANCELLED,
    CANCELLED_AFTER_SEND,
    VERDICT_OK,
    Outcome,
    Rejection,
    TenantRejection,
    Verdict,
)

FIRST_OUTPUT_GRACE = 0.001  # seconds; a timer may fire this much early
# The constructor of a NamedTuple is a Python function and takes twice as long.
_tuple = tuple.__new__
_UNPAID = Outcome(Verdict.CANCELLED, detail="its money was that of an earlier period")

Attempt: TypeAlias = Steps[tuple[Outcome, float, float]]


def run_attempt(
    target_state: TargetState,
    state: CallState,
    now: float,
    uniform: float,
    permit: Permit | None = None,
    is_paid: Callable[[float], bool] | None = None,
) -> Attempt:
    """Queue unless there is a permit; send once and settle. If `is_paid` is false after a wait, nothing is sent.

    `admission` answers with a permit (send now), a ticket (wait) or a rejection. However this frame ends, it settles
    the permit or the ticket. Settling a ticket settles its permit, or takes it out of the queue.
    """
    call = state.call
    deadline_at, patience = call.deadline_at, call.patience
    expires_at = inf if deadline_at is None else deadline_at
    if patience is not None and (until := now + (patience - state.waited)) < expires_at:
        expires_at = until
    place = permit or target_state.admission.enter(call, now, expires_at)
    if isinstance(place, Rejection):
        return Outcome(Verdict.REJECTED, rejection=place), now, uniform
    outcome = CANCELLED
    try:
        if isinstance(place, Ticket):
            now, uniform = yield from _wait_in_queue(target_state, state, place, now)
            refused = _refused(place, is_paid, now)
            if refused is not None:
                outcome = refused
                return outcome, now, uniform
            permit = place.permit
        else:
            permit = place
        timeout = _begin(target_state, state, now)
        number, sent_at = state.attempts, now
        outcome = CANCELLED_AFTER_SEND
        answered, now, uniform = yield _tuple(Send, (call.target, number, timeout, permit))
        outcome = answered or CANCELLED_AFTER_SEND
        if call.delivers and outcome.committed:
            delivery = _commit(state, number, permit, outcome, now, took=now - sent_at)
            outcome = CANCELLED_AFTER_SEND
            answered, now, uniform = yield delivery
            outcome = (answered or CANCELLED_AFTER_SEND)._replace(committed=True)
        result = outcome
        if outcome.verdict is not VERDICT_OK or state.engine.listeners:
            result, outcome = _note_return(target_state, state, number, outcome, sent_at, now)
        if target_state.budget is not None and not outcome.own_deadline:
            target_state.budget.record(outcome, now)
    except FlowClosed as closed:
        now, uniform = closed.moment
        raise
    finally:
        if permit is None:
            place.settle(outcome, now, uniform)
        else:
            target_state.admission.settle(permit, outcome, now, uniform)
    return result, now, uniform


def _wait_in_queue(
    target_state: TargetState, state: CallState, ticket: Ticket, now: float
) -> Steps[tuple[float, float]]:
    """Wait until the queue decides about `ticket`; return the time and a random number."""
    began, admission = now, target_state.admission
    state.note(Queued, now, admission.held_by(state.call, now))
    while True:
        _, now, uniform = yield WaitFor(ticket, ticket.wake_at)
        admission.check(ticket, now)
        if ticket.decided:
            state.waited += now - began
            state.queued += now - began
            return now, uniform


def _refused(ticket: Ticket, is_paid: Callable[[float], bool] | None, now: float) -> Outcome | None:
    """Return the outcome if the queue's decision does not allow the attempt; None if it may leave."""
    if ticket.rejection is not None:
        return Outcome(Verdict.REJECTED, rejection=ticket.rejection)
    return None if is_paid is None or is_paid(now) else _UNPAID


def _begin(target_state: TargetState, state: CallState, now: float) -> float | None:
    """Count the attempt, start the call's span with the first, and return the timeout."""
    call = state.call
    if call.span is not None:
        ends_at = now + call.span
        if call.deadline_at is not None:
            ends_at = min(ends_at, call.deadline_at)
        call = state.call = call._replace(deadline_at=ends_at, span=None)
    state.attempts += 1
    state.sent_at = now
    if state.engine.listeners:
        state.note(Sent, now, state.attempts, call.priority, call.tenant, call.bound)
    timeout, deadline_at = target_state.policy.attempt_timeout, call.deadline_at
    if deadline_at is None:
        return timeout
    left = deadline_at - now
    return left if timeout is None or left < timeout else timeout


def _commit(
    state: CallState,
    number: int,
    permit: Permit | None,
    outcome: Outcome,
    now: float,
    *,
    took: float,
) -> DeliverStream:
    """Commit: from now on the caller gets the output."""
    call = state.call
    if permit is not None:
        permit.first_output(now)
    if state.engine.listeners:
        state.note(Committed, now, number, took)
    until = call.deadline_at if call.stream_deadline_at is None else call.stream_deadline_at
    return DeliverStream(
        outcome,
        None if until == inf else until,
        state.attempts,
        state.waited,
        state.maybe_processed,
        permit,
    )


def _note_return(
    target_state: TargetState,
    state: CallState,
    number: int,
    outcome: Outcome,
    sent_at: float,
    now: float,
) -> tuple[Outcome, Outcome]:
    """Record the end of an attempt; return its outcome for the call, and the outcome for the gates.

    The outcome is marked if only the call's deadline ended the attempt. For the gates, an answer that does not fit its
    schema counts as an answer.
    """
    verdict = outcome.verdict
    if verdict is Verdict.TIMEOUT and _is_own_deadline(target_state, state, outcome, sent_at, now):
        outcome = outcome._replace(own_deadline=True)
    if outcome.rejection is not None:  # the sender had no free file descriptor: nothing was sent
        state.unconnected += 1
    if target_state.treatments[verdict].retry:
        target_state.failed_at = now
    details = outcome.status, outcome.code, now - sent_at, outcome.detail, outcome.usage
    state.note(Returned, now, number, verdict, *details, outcome.maybe_processed)
    evidence = outcome
    if verdict is Verdict.SCHEMA_MISMATCH:
        evidence = target_state.as_evidence(outcome)
    return outcome, evidence


def _is_own_deadline(
    target_state: TargetState, state: CallState, outcome: Outcome, sent_at: float, now: float
) -> bool:
    """Whether an attempt was ended by the call's deadline, not by a shorter timeout.

    After the first output an attempt has no timeout.
    """
    deadline_at = state.call.deadline_at
    early = deadline_at is None or now < deadline_at - FIRST_OUTPUT_GRACE
    if early or deadline_at is None or outcome.status is not None:
        return False
    timeout = target_state.policy.attempt_timeout
    return outcome.committed or timeout is None or deadline_at - sent_at < timeout


# ---------------------------------------------------------------- limits of tenants


def run_paid(
    target_state: TargetState,
    state: CallState,
    now: float,
    uniform: float,
    permit: Permit | None = None,
) -> Attempt:
    """Wait for the money of the call's tenant, and make the attempt. Reserved money is held while it queues.

    The money belongs to the period in which the attempt leaves. If that period ends first, the attempt waits again.
    """
    tenant, make_attempt = state.tenant, partial(run_attempt, target_state, state, permit=permit)
    outcome = _UNPAID
    while outcome is _UNPAID:
        payer = None if tenant is None else tenant.payer(state.call.target)
        if tenant is None or payer is None:  # the tenant has no spend limit any more
            return (yield from make_attempt(now, uniform))
        expires_at = inf if permit else state.expires_at(now)  # with a permit it leaves now
        place = payer.admission.enter(state.call, now, expires_at)
        pay = partial(_renew, place, payer, state)
        run = partial(make_attempt, is_paid=pay)
        outcome, now, uniform = yield from hold(tenant, payer, place, state, run, now, uniform)
    return outcome, now, uniform


def _renew(
    place: Permit | Ticket | Rejection, payer: TargetState, state: CallState, now: float
) -> bool:
    """Return whether the money of a `place` with the payer is reserved in the present period."""
    paid = place.permit if isinstance(place, Ticket) else place
    return not isinstance(paid, Permit) or payer.admission.renew(paid, state.call, now)


def hold(
    tenant: Tenant,
    queue: TargetState,
    place: Permit | Ticket | Rejection,
    state: CallState,
    run: Callable[[float, float], Attempt],
    now: float,
    uniform: float,
) -> Attempt:
    """Wait for the permit of a `place` in a queue of the tenant, and `run` with it. It is settled in any case."""
    outcome, earlier = None, state.attempts
    try:
        if isinstance(place, Ticket):
            now, uniform = yield from _wait_in_queue(queue, state, place, now)
            place = place.permit or place.rejection or place
        if isinstance(place, Rejection):
            rejection = TenantRejection(*place)
            rejection.tenant = tenant.name
            return Outcome(Verdict.REJECTED, rejection=rejection), now, uniform
        assert isinstance(place, Permit), "the queue has decided"
        tenant.permits.add(place)
        outcome, now, uniform = yield from run(now, uniform)
    except FlowClosed as closed:
        now, uniform = closed.moment
        raise
    finally:
        if not isinstance(place, Rejection):
            unconnected = 0 if earlier else state.unconnected  # later it may belong to a rival
            sent = state.attempts - unconnected > earlier
            place.settle(counted(outcome, sent=sent), now, uniform)
            tenant.permits.discard(place)
    return outcome, now, uniform
