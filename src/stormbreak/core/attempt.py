"""One attempt of a call: queue, send once, settle.

An answer that is delivered as it comes is settled like any other, at its end: the permit stays with the frame of the
attempt while the caller reads.
"""

from math import inf
from typing import TypeAlias

from stormbreak.core.call_state import CallState
from stormbreak.core.engine import Engine
from stormbreak.core.flow import DeliverStream, FlowClosed, Send, Steps, WaitFor
from stormbreak.core.permit import Permit
from stormbreak.core.target_state import TargetState
from stormbreak.core.ticket import Ticket
from stormbreak.events import Committed, Queued, Returned, Sent
from stormbreak.types import CANCELLED, CANCELLED_AFTER_SEND, Call, Outcome, Rejection, Verdict

FIRST_OUTPUT_GRACE = 0.001  # seconds; a timer may run this much before its time

Moment: TypeAlias = tuple[float, float]
Attempt: TypeAlias = Steps[tuple[Outcome, float, float]]


def attempted(
    engine: Engine,
    lane: TargetState,
    trail: CallState,
    now: float,
    uniform: float,
    permit: Permit | None = None,
) -> Attempt:
    """Queue, unless there is a permit already; send once and settle.

    Whatever was taken here, or brought, is settled here, however the frame is left.
    """
    call = trail.call
    place = permit or lane.admission.enter(call, now, _expires_at(call, trail, now))
    if isinstance(place, Rejection):
        return Outcome(Verdict.REJECTED, rejection=place), now, uniform
    outcome = CANCELLED
    try:
        if isinstance(place, Ticket):
            now, uniform = yield from _queue(lane, trail, place, now)
            if place.rejection is not None:
                outcome = Outcome(Verdict.REJECTED, rejection=place.rejection)
                return outcome, now, uniform
        trail.attempts += 1
        number = trail.attempts
        if call.span is not None:
            ends_at = now + call.span
            if call.deadline_at is not None:
                ends_at = min(ends_at, call.deadline_at)
            call = trail.call = call._replace(deadline_at=ends_at, span=None)
        timeout = _attempt_timeout(lane, call, now)
        if engine.listeners:
            trail.note(_sent(call, number, now))
        began = trail.sent_at = now
        permit = place.permit if isinstance(place, Ticket) else place
        outcome = CANCELLED_AFTER_SEND
        answered, now, uniform = yield Send(call.target, number, timeout, permit)
        outcome = answered or CANCELLED_AFTER_SEND
        trail.unconnected += outcome.rejection is not None  # by this machine: nothing was sent
        if call.delivers and outcome.committed:
            delivery = _delivery(engine, trail, number, permit, outcome, now, took=now - began)
            outcome = CANCELLED_AFTER_SEND
            answered, now, uniform = yield delivery
            outcome = (answered or CANCELLED_AFTER_SEND)._replace(committed=True)
        if outcome.verdict is Verdict.TIMEOUT and _by_own_deadline(lane, call, outcome, began, now):
            outcome = outcome._replace(own_deadline=True)
        _record_outcome(engine, lane, trail, number, outcome, now, took=now - began)
    except FlowClosed as closed:
        now, uniform = closed.moment
        raise
    finally:
        place.settle(outcome, now, uniform)
    return outcome, now, uniform


def _sent(call: Call, number: int, now: float) -> Sent:
    return Sent(now, call.number, call.target, number, call.priority, call.tenant, call.bound)


def _delivery(
    engine: Engine,
    trail: CallState,
    number: int,
    permit: Permit | None,
    outcome: Outcome,
    now: float,
    *,
    took: float,
) -> DeliverStream:
    """Commit: the caller gets the first output, and with it all that follows."""
    call = trail.call
    if permit is not None:
        permit.first(now)
    if engine.listeners:
        trail.note(Committed(now, call.number, call.target, number, took))
    until = call.deadline_at if call.stream_deadline_at is None else call.stream_deadline_at
    return DeliverStream(
        outcome,
        None if until == inf else until,
        trail.attempts,
        trail.waited,
        trail.maybe_processed,
    )


def _queue(lane: TargetState, trail: CallState, ticket: Ticket, now: float) -> Steps[Moment]:
    """Wait until the queue has decided about `ticket`."""
    call, began = trail.call, now
    trail.note(Queued(now, call.number, call.target, lane.admission.held_by(now)))
    while True:
        _, now, uniform = yield WaitFor(ticket, ticket.wake_at)
        lane.admission.check(ticket, now)
        if ticket.decided:
            trail.waited += now - began
            trail.queued += now - began
            return now, uniform


def _record_outcome(
    engine: Engine,
    lane: TargetState,
    trail: CallState,
    number: int,
    outcome: Outcome,
    now: float,
    *,
    took: float,
) -> None:
    if lane.budget is not None and not outcome.own_deadline:
        lane.budget.record(outcome, now)
    if outcome.verdict is not Verdict.OK and lane.treatments[outcome.verdict].retry:
        lane.failed_at = now
    if engine.listeners or outcome.verdict is not Verdict.OK:
        call = trail.call
        trail.note(
            Returned(
                now,
                call.number,
                call.target,
                number,
                outcome.verdict,
                outcome.status,
                outcome.code,
                took,
                outcome.detail,
                outcome.usage,
                outcome.maybe_processed,
            )
        )


def _expires_at(call: Call, trail: CallState, now: float) -> float:
    deadline_at = inf if call.deadline_at is None else call.deadline_at
    patience = inf if call.patience is None else call.patience - trail.waited
    return min(deadline_at, now + patience)


def _attempt_timeout(lane: TargetState, call: Call, now: float) -> float | None:
    timeout = lane.policy.attempt_timeout
    if call.deadline_at is None:
        return timeout
    left = call.deadline_at - now
    return left if timeout is None else min(timeout, left)


def _by_own_deadline(
    lane: TargetState, call: Call, outcome: Outcome, began: float, now: float
) -> bool:
    """Whether it was the call's deadline, and nothing shorter, that ended an attempt.

    Beyond the first output an attempt has no time of its own.
    """
    if (
        call.deadline_at is None
        or now < call.deadline_at - FIRST_OUTPUT_GRACE
        or outcome.status is not None
    ):
        return False
    timeout = lane.policy.attempt_timeout
    return outcome.committed or timeout is None or call.deadline_at - began < timeout
