"""One attempt that may be hedged: when it is slow, others are sent beside it.

The first answer counts, and the rest are cancelled. Each is a normal attempt, with its own permit and frame. A failure
ends the race only when no other attempt is in flight. `hedge` knows when an attempt is slow; this code decides whether
to send another. It asks the budget last.
"""

from math import inf
from typing import NamedTuple

from stormbreak.core.attempt import Attempt, run_attempt, run_paid
from stormbreak.core.call_state import CallState
from stormbreak.core.flow import (
    Command,
    DeliverStream,
    FlowClosed,
    Race,
    Resume,
    Send,
    Steps,
    close,
)
from stormbreak.core.hedge import HedgeTimer
from stormbreak.core.target_state import TargetState
from stormbreak.events import Hedged, HedgeRefused, Overtaken
from stormbreak.types import CANCELLED, CANCELLED_AFTER_SEND, Outcome, Verdict


class _Result(NamedTuple):
    """The outcome of an attempt, the time, and a random number."""

    outcome: Outcome
    now: float
    uniform: float


class _Rival:
    """One attempt of a race; `sent` and `sent_at` are set when it is sent."""

    sent_at: float

    def __init__(self, flow: Attempt) -> None:
        self.flow = flow
        self.sent: Send | None = None

    def step(self, resume: Resume | None = None) -> Command | _Result:
        """Run to the next command, or to the end."""
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
    """Make an attempt, and hedges while it is slow. All are settled, however this frame ends."""
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
        while not isinstance(command, Send | _Result):  # the attempt waits in the queue
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
        """Cancel all attempts without knowing the time."""
        for rival in self._rivals:
            rival.flow.close()

    def _on_sent(self, rival: _Rival, sent: Send, now: float) -> float:
        """Record that an attempt was sent; return when the next may follow."""
        rival.sent, rival.sent_at = sent, now
        if self._hedges == self._hedging.max_hedges:
            return inf
        return now + self._hedging.delay(streams=self._streams)

    def _hedge(self, now: float, uniform: float) -> float:
        """Send another attempt beside those in flight, if allowed; return when the next may follow."""
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
        """Return the gate, of those that cost nothing, that refuses another attempt; empty if none does."""
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
        """Return the spend gate if the tenant cannot pay for another attempt now; empty if it can."""
        tenant, call = self._state.tenant, self._state.call
        payer = None if tenant is None else tenant.payer(call.target)
        return "" if payer is None or payer.admission.is_free(call, now) else "spend"

    def _on_return(self, sent: Send, result: _Result) -> Steps[_Result | None]:
        """Handle the end or first output of an attempt. Return the result of the race; None while it continues."""
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
        """Return the outcome of the race: a win, else a final failure, else the last one. Count the other failures."""
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
