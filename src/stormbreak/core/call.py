"""The life of a call at one target: queue, send, settle, and perhaps back off and queue again.

An answer that is delivered as it comes is settled like any other, at its end: the permit stays with the frame of the
attempt while the caller reads.
"""

from collections.abc import Callable, Generator
from functools import partial
from math import inf
from typing import TypeAlias

from stormbreak.core.engine import Engine, Lane
from stormbreak.core.flow import Closed, Command, Deliver, Flow, Resume, Send, Wait, WaitFor
from stormbreak.core.permit import Permit
from stormbreak.core.retry import Retry, Stop, TimeLeft, decide
from stormbreak.core.shadow import ShadowGate
from stormbreak.core.ticket import Ticket
from stormbreak.core.trail import Trail
from stormbreak.events import (
    CallRejected,
    Committed,
    Queued,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
)
from stormbreak.types import CANCELLED, GIVEN_UP, Call, Ended, Outcome, Rejection, Verdict

EARLY = 0.001  # seconds; a timer may run this much before its time

Moment: TypeAlias = tuple[float, float]
Attempt: TypeAlias = Generator[Command, Resume, tuple[Outcome, float, float]]


def carry(engine: Engine, trail: Trail, now: float, uniform: float) -> Flow:
    """Carry the call of `trail` to its end at its target. Nothing is held while backing off."""
    call = trail.call
    lane = engine.lane(call.target)
    failure: Outcome | None = None
    while True:
        outcome, now, uniform = yield from _attempt(engine, lane, trail, now, uniform)
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
            load=lane.load(now),
            now=now,
            uniform=uniform,
            previous=trail.delay,
        )
        decision = deciding(lane.policy.retry, budget=lane.budget)
        if lane.shadow is not None:
            _decide_beside(lane, lane.shadow, decision, deciding, now)
        if isinstance(decision, Stop):
            trail.note(RetryRefused(now, call.number, call.target, trail.attempts, decision.gate))
            return trail.end(outcome, now, stopped=decision.gate, retry_at=decision.retry_at)
        until = decision.until
        trail.delay = until - now
        trail.note(
            RetryPlanned(
                now, call.number, call.target, trail.attempts, *decision, outcome.maybe_processed
            )
        )
        began = now
        while now < until:  # the timers of some loops run early
            _, now, uniform = yield Wait(until)
        trail.waited += now - began


def _decide_beside(
    lane: Lane,
    shadow: ShadowGate,
    decision: Retry | Stop,
    deciding: Callable[..., Retry | Stop],
    now: float,
) -> None:
    """Let the shadow decide about the same retry, and compare."""
    policy = lane.policy.shadow
    if policy is not None and policy.retries:
        retry = policy.retry or lane.policy.retry
        shadow.decided(now, decision, deciding(retry, budget=lane.shadow_budget))


def _attempt(engine: Engine, lane: Lane, trail: Trail, now: float, uniform: float) -> Attempt:
    """Queue, send once and settle. Whatever was taken here is settled here, however the frame is left."""
    call = trail.call
    place = lane.admission.enter(call, now, _expires_at(call, trail, now))
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
        if call.span is not None:
            ends_at = now + call.span
            if call.deadline_at is not None:
                ends_at = min(ends_at, call.deadline_at)
            call = trail.call = call._replace(deadline_at=ends_at, span=None)
        timeout = _attempt_timeout(lane, call, now)
        if engine.listeners:
            trail.note(Sent(now, call.number, call.target, trail.attempts))
        began = now
        permit = place.permit if isinstance(place, Ticket) else place
        outcome = GIVEN_UP
        answered, now, uniform = yield Send(call.target, trail.attempts, timeout, permit)
        outcome = answered or GIVEN_UP
        if call.delivers and outcome.committed:
            delivery = _delivery(engine, trail, permit, outcome, now, took=now - began)
            outcome = GIVEN_UP
            answered, now, uniform = yield delivery
            outcome = (answered or GIVEN_UP)._replace(committed=True)
        if outcome.verdict is Verdict.TIMEOUT and _by_own_deadline(lane, call, outcome, began, now):
            outcome = outcome._replace(own_deadline=True)
        _take_note(engine, lane, trail, outcome, now, took=now - began)
    except Closed as closed:
        now, uniform = closed.moment
        raise
    finally:
        place.settle(outcome, now, uniform)
    return outcome, now, uniform


def _delivery(
    engine: Engine,
    trail: Trail,
    permit: Permit | None,
    outcome: Outcome,
    now: float,
    *,
    took: float,
) -> Deliver:
    """Commit: the caller gets the first output, and with it all that follows."""
    call = trail.call
    if permit is not None:
        permit.first(now)
    if engine.listeners:
        trail.note(Committed(now, call.number, call.target, trail.attempts, took))
    until = call.deadline_at if call.end_at is None else call.end_at
    return Deliver(
        outcome,
        None if until == inf else until,
        trail.attempts,
        trail.waited,
        trail.maybe_processed,
    )


def _queue(
    lane: Lane, trail: Trail, ticket: Ticket, now: float
) -> Generator[Command, Resume, Moment]:
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


def _take_note(
    engine: Engine, lane: Lane, trail: Trail, outcome: Outcome, now: float, *, took: float
) -> None:
    if lane.budget is not None and not outcome.own_deadline:
        lane.budget.record(outcome, now)
    if engine.listeners or outcome.verdict is not Verdict.OK:
        call = trail.call
        trail.note(
            Returned(
                now,
                call.number,
                call.target,
                trail.attempts,
                outcome.verdict,
                outcome.status,
                outcome.code,
                took,
                outcome.detail,
            )
        )


def _rejected(trail: Trail, rejection: Rejection, failure: Outcome | None, now: float) -> Ended:
    """End a call that was refused here. What an earlier attempt met at the target is told first."""
    call = trail.call
    trail.note(CallRejected(now, call.number, call.target, *rejection))
    outcome = failure or Outcome(Verdict.REJECTED, rejection=rejection)
    return trail.end(outcome, now, stopped=rejection.policy, retry_at=rejection.retry_at)


def _expires_at(call: Call, trail: Trail, now: float) -> float:
    deadline_at = inf if call.deadline_at is None else call.deadline_at
    patience = inf if call.patience is None else call.patience - trail.waited
    return min(deadline_at, now + patience)


def _time_left(trail: Trail, now: float) -> TimeLeft:
    call = trail.call
    return TimeLeft(
        deadline=inf if call.deadline_at is None else call.deadline_at - now,
        patience=inf if call.patience is None else call.patience - trail.waited,
        attempts=inf if call.most is None else call.most - trail.attempts,
    )


def _attempt_timeout(lane: Lane, call: Call, now: float) -> float | None:
    timeout = lane.policy.attempt_timeout
    if call.deadline_at is None:
        return timeout
    left = call.deadline_at - now
    return left if timeout is None else min(timeout, left)


def _by_own_deadline(lane: Lane, call: Call, outcome: Outcome, began: float, now: float) -> bool:
    """Whether it was the call's deadline, and nothing shorter, that ended an attempt.

    Beyond the first output an attempt has no time of its own.
    """
    if call.deadline_at is None or now < call.deadline_at - EARLY or outcome.status is not None:
        return False
    timeout = lane.policy.attempt_timeout
    return outcome.committed or timeout is None or call.deadline_at - began < timeout
