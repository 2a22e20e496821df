"""One attempt of a call: queue, send once, settle. With a hedge policy, others may be sent beside it.

A streamed answer is settled like any other, at its end: the permit stays with the frame of the
attempt while the caller reads.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple, TypeAlias

from stormbreak.core.call_state import CallState
from stormbreak.core.flow import (
    Command,
    DeliverStream,
    FlowClosed,
    Race,
    Resume,
    Send,
    Steps,
    WaitFor,
    close,
)
from stormbreak.core.gate import Permit
from stormbreak.core.hedge import HedgeTimer
from stormbreak.core.queue_order import Ticket
from stormbreak.core.target_state import TargetState
from stormbreak.core.tenant import Tenant, counted
from stormbreak.events import Committed, Hedged, HedgeRefused, Overtaken, Queued, Returned, Sent
from stormbreak.types import (
    CANCELLED,
    CANCELLED_AFTER_SEND,
    VERDICT_OK,
    Outcome,
    Rejection,
    TenantRejection,
    Verdict,
)

FIRST_OUTPUT_GRACE = 0.001  # seconds; a timer may run this much before its time
# The constructor of a NamedTuple is a Python function, and takes twice as long.
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
    """Queue unless there is a permit; send once and settle. `is_paid` is asked after a wait; if not, nothing is sent.

    `admission` answers with a permit (send now), a ticket (wait) or a rejection. However this frame is left, it settles
    the permit, or the ticket: that settles the ticket's permit, or takes it out of the queue.
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
    """Return the outcome of an attempt that may not leave, now that the queue has decided."""
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
    """Commit: the caller gets the output from here on."""
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
    """Record the end of an attempt; return its outcome, and what that says to the gates.

    It is marked if only the call's deadline ended it. An answer that does not fit its schema is an answer to the gates.
    """
    verdict = outcome.verdict
    if verdict is Verdict.TIMEOUT and _is_own_deadline(target_state, state, outcome, sent_at, now):
        outcome = outcome._replace(own_deadline=True)
    if outcome.rejection is not None:  # by the sender, for want of open files: nothing was sent
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
    """Whether the call's deadline, and no shorter timeout, ended an attempt.

    After the first output an attempt has no timeout of its own.
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

    It belongs to the period in which the attempt leaves: one that cannot be paid any more waits for money again.
    """
    tenant, make_attempt = state.tenant, partial(run_attempt, target_state, state, permit=permit)
    outcome = _UNPAID
    while outcome is _UNPAID:
        payer = None if tenant is None else tenant.payer(state.call.target)
        if tenant is None or payer is None:  # it has no spend limit any more
            return (yield from make_attempt(now, uniform))
        expires_at = inf if permit else state.expires_at(now)  # with one, it leaves now
        place = payer.admission.enter(state.call, now, expires_at)
        pay = partial(_renew, place, payer, state)
        run = partial(make_attempt, is_paid=pay)
        outcome, now, uniform = yield from hold(tenant, payer, place, state, run, now, uniform)
    return outcome, now, uniform


def _renew(
    place: Permit | Ticket | Rejection, payer: TargetState, state: CallState, now: float
) -> bool:
    """Return whether the money of a `place` with the payer is reserved in this period by now."""
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
    """Wait for the permit of a `place` in a queue of the tenant, and `run` with it. It is settled, however this frame is left."""
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
            unconnected = 0 if earlier else state.unconnected  # later it may be that of a rival
            sent = state.attempts - unconnected > earlier
            place.settle(counted(outcome, sent=sent), now, uniform)
            tenant.permits.discard(place)
    return outcome, now, uniform


# ---------------------------------------------------------------- hedged attempts
# A slow attempt gets others beside it: the first answer counts, the rest are cancelled. Each is an attempt like any
# other, with its own permit and frame. A failure ends the race only when no other attempt is in flight.
# `hedge` knows when an attempt is slow; this code decides whether to send another, the budget last.


class _Result(NamedTuple):
    """The outcome of an attempt, the time, and a random number."""

    outcome: Outcome
    now: float
    uniform: float


class _Rival:
    """One attempt of a race; once it is `sent`, at `sent_at`."""

    sent_at: float

    def __init__(self, flow: Attempt) -> None:
        self.flow = flow
        self.sent: Send | None = None

    def step(self, resume: Resume | None = None) -> Command | _Result:
        """Go on to the next command, or to the end."""
        try:
            return next(self.flow) if resume is None else self.flow.send(resume)
        except StopIteration as stop:
            return _Result(*stop.value)

    @property
    def first_output_at(self) -> float | None:
        """The time of its first output, if reported."""
        permit = self.sent and self.sent.permit
        return permit.first_output_at if permit else None


def run_hedged(target_state: TargetState, state: CallState, now: float, uniform: float) -> Attempt:
    """Make an attempt, and hedges while it is slow. All are settled, however the frame is left."""
    assert target_state.hedging is not None, "only a policy with hedges races"
    race = _HedgedAttempt(target_state, target_state.hedging, state)
    try:
        return (yield from race.run(now, uniform))
    except FlowClosed as closed:
        race.close(*closed.moment)
        raise
    finally:
        race.drop()


class _HedgedAttempt:
    """A race in progress, and its failures."""

    def __init__(self, target_state: TargetState, hedging: HedgeTimer, state: CallState) -> None:
        self._target_state = target_state
        self._hedging = hedging
        self._state = state
        self._streams = state.call.delivers or state.call.streams
        self._rivals: list[_Rival] = []
        self._hedges = 0
        self._winner: _Rival | None = None
        self._failures: list[Outcome] = []

    def run(self, now: float, uniform: float) -> Attempt:
        make_attempt = run_attempt if self._state.tenant is None else run_paid
        rival = _Rival(make_attempt(self._target_state, self._state, now, uniform))
        self._rivals.append(rival)
        command = rival.step()
        while not isinstance(command, Send | _Result):  # it queues
            resume = yield command
            now = resume[1]
            command = rival.step(resume)
        if isinstance(command, _Result):
            return command
        slow_at = self._on_sent(rival, command, now)
        while True:
            race = Race(tuple(rival.sent for rival in self._rivals if rival.sent), slow_at)
            outcome, now, uniform = yield race
            if race.first is None:
                slow_at = self._hedge(now, uniform)
                continue
            result = _Result(outcome or CANCELLED_AFTER_SEND, now, uniform)
            ended = yield from self._on_return(race.first, result)
            if ended is not None:
                return ended

    def close(self, now: float, uniform: float) -> None:
        """Cancel all attempts in flight."""
        for rival in self._rivals:
            close(rival.flow, now, uniform)

    def drop(self) -> None:
        """Cancel them without knowing the time."""
        for rival in self._rivals:
            rival.flow.close()

    def _on_sent(self, rival: _Rival, sent: Send, now: float) -> float:
        """Record that it was sent; return when the next may follow."""
        rival.sent, rival.sent_at = sent, now
        if self._hedges == self._hedging.max_hedges:
            return inf
        return now + self._hedging.delay(streams=self._streams)

    def _hedge(self, now: float, uniform: float) -> float:
        """Send another attempt beside those in flight, if that is allowed; return when the next may follow."""
        if any(rival.first_output_at is not None for rival in self._rivals):
            return inf
        state, target_state = self._state, self._target_state
        gate = self._refusing_gate(now) or self._unpaid(now)
        permit = None if gate else target_state.admission.try_enter(state.call, now)
        if permit is None:
            gate = gate or target_state.admission.held_by(state.call, now)
        elif target_state.budget is not None and not target_state.budget.try_pay(now):
            permit.settle(CANCELLED, now, uniform)
            gate = "budget"
        if permit is None or gate:
            state.note(HedgeRefused, now, state.attempts, gate)
            return inf
        self._hedges += 1
        state.note(Hedged, now, state.attempts + 1, now - self._rivals[-1].sent_at)
        make_attempt = run_attempt if state.tenant is None else run_paid
        rival = _Rival(make_attempt(target_state, state, now, uniform, permit))
        self._rivals.append(rival)
        sent = rival.step()
        assert isinstance(sent, Send), "an attempt with a permit is sent"
        return self._on_sent(rival, sent, now)

    def _refusing_gate(self, now: float) -> str:
        """Return the free gate that refuses another attempt; empty if none does."""
        state, call, retry = self._state, self._state.call, self._target_state.policy.retry
        here = state.attempts - state.earlier_attempts
        if here >= retry.max_attempts or (
            call.max_attempts is not None and state.attempts >= call.max_attempts
        ):
            return "attempts"
        if call.deadline_at is not None and call.deadline_at - now < retry.min_time_left:
            return "deadline"
        load = self._target_state.load(now)
        return "load" if load.in_trouble or load.gated else ""

    def _unpaid(self, now: float) -> str:
        """Return the gate of money if the tenant cannot pay for another attempt now; empty if it can."""
        tenant, call = self._state.tenant, self._state.call
        payer = None if tenant is None else tenant.payer(call.target)
        return "" if payer is None or payer.admission.is_free(call, now) else "spend"

    def _on_return(self, sent: Send, result: _Result) -> Steps[_Result | None]:
        """Handle the end or first output of an attempt: return the result of the race, None while others are in flight."""
        rival = next(rival for rival in self._rivals if rival.sent is sent)
        took = (rival.first_output_at or result.now) - rival.sent_at
        command = rival.step(result)
        if isinstance(command, DeliverStream):
            self._win(rival, took, result)
            command = rival.step((yield command))
        elif result.outcome.verdict is Verdict.OK:
            self._win(rival, took, result)
        assert isinstance(command, _Result), "an attempt is sent once"
        self._rivals.remove(rival)
        if rival is not self._winner:
            self._failures.append(command.outcome)
            if self._rivals:
                return None
        return command._replace(outcome=self._combined(command.outcome))

    def _combined(self, last: Outcome) -> Outcome:
        """The outcome of the race: a win, or else a failure that is final, or the last. Counts the other failures."""
        chosen, state = last, self._state
        if self._winner is None:
            treatments = self._target_state.treatments
            final = (each for each in self._failures if not treatments[each.verdict].retry)
            chosen = next(final, last)
        for each in self._failures:
            if each is not chosen:
                state.unconnected += each.verdict is Verdict.CONNECT_FAILED
                state.maybe_processed += each.maybe_processed
        return chosen

    def _win(self, winner: _Rival, took: float, result: _Result) -> None:
        """Cancel all other attempts."""
        state, now = self._state, result.now
        self._hedging.on_return(took, streams=self._streams)
        for rival in self._rivals:
            if rival is winner or rival.sent is None:
                continue
            age = now - rival.sent_at
            self._hedging.on_return(age, streams=self._streams)
            state.maybe_processed += 1
            state.note(Overtaken, now, rival.sent.attempt, age)
            close(rival.flow, now, result.uniform)
        self._winner = winner
