"""An attempt, and others beside it if it takes long: the first answer counts, the rest are given up.

Each is an attempt like any other, with a permit of its own in a frame of its own. A failure ends the race only when
nobody else is under way. When an attempt is slow is a matter of `hedge`; whether another may be sent is decided here, the
budget last.
"""

from math import inf
from typing import NamedTuple

from stormbreak.core.attempt import Attempt, attempted
from stormbreak.core.call_state import CallState
from stormbreak.core.engine import Engine
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


class _Came(NamedTuple):
    """What an attempt came to, and when."""

    outcome: Outcome
    now: float
    uniform: float


class _Rival:
    """One attempt of a race; once it is `sent`, at `began`."""

    __slots__ = ("began", "flow", "sent")
    began: float

    def __init__(self, flow: Attempt) -> None:
        self.flow = flow
        self.sent: Send | None = None

    def step(self, resume: Resume | None = None) -> Command | _Came:
        """Go on to the next command, or to the end."""
        try:
            return next(self.flow) if resume is None else self.flow.send(resume)
        except StopIteration as stop:
            return _Came(*stop.value)

    @property
    def first_at(self) -> float | None:
        """When it began to put out, where that was told."""
        permit = self.sent and self.sent.permit
        return permit.first_at if permit else None


def raced(
    engine: Engine, lane: TargetState, trail: CallState, now: float, uniform: float
) -> Attempt:
    """Make an attempt, and others beside it while it is slow. All are settled, however the frame is left."""
    assert lane.hedging is not None, "whoever races has a policy for it"
    race = _Race(engine, lane, lane.hedging, trail)
    try:
        return (yield from race.run(now, uniform))
    except FlowClosed as closed:
        race.close(*closed.moment)
        raise
    finally:
        race.drop()


class _Race:
    """A race under way, and what has failed in it."""

    def __init__(
        self, engine: Engine, lane: TargetState, hedging: HedgeTimer, trail: CallState
    ) -> None:
        self._engine = engine
        self._lane = lane
        self._hedging = hedging
        self._trail = trail
        self._begins = trail.call.delivers or trail.call.streams
        self._rivals: list[_Rival] = []
        self._hedges = 0
        self._winner: _Rival | None = None
        self._failures: list[Outcome] = []

    def run(self, now: float, uniform: float) -> Attempt:
        """Run it to the end."""
        rival = _Rival(attempted(self._engine, self._lane, self._trail, now, uniform))
        self._rivals.append(rival)
        command = rival.step()
        while not isinstance(command, Send | _Came):  # it queues
            resume = yield command
            now = resume[1]
            command = rival.step(resume)
        if isinstance(command, _Came):
            return command
        slow_at = self._left(rival, command, now)
        while True:
            race = Race(tuple(rival.sent for rival in self._rivals if rival.sent), slow_at)
            outcome, now, uniform = yield race
            if race.first is None:
                slow_at = self._slow(now, uniform)
                continue
            came = yield from self._late_answer(
                race.first, _Came(outcome or CANCELLED_AFTER_SEND, now, uniform)
            )
            if came is not None:
                return came

    def close(self, now: float, uniform: float) -> None:
        """Give up all that are under way."""
        for rival in self._rivals:
            close(rival.flow, now, uniform)

    def drop(self) -> None:
        """Give them up where nobody says when."""
        for rival in self._rivals:
            rival.flow.close()

    def _left(self, rival: _Rival, sent: Send, now: float) -> float:
        """Take note that it was sent; when the next may follow."""
        rival.sent, rival.began = sent, now
        if self._hedges == self._hedging.most:
            return inf
        return now + self._hedging.delay(begins=self._begins)

    def _slow(self, now: float, uniform: float) -> float:
        """Send another beside those under way, if that may be; when the next may follow."""
        if any(rival.first_at is not None for rival in self._rivals):
            return inf
        call, trail = self._trail.call, self._trail
        gate = self._refusal(now)
        permit = None if gate else self._lane.admission.slip_in(call, now)
        if permit is None:
            gate = gate or self._lane.admission.held_by(now)
        elif self._lane.budget is not None and not self._lane.budget.try_pay(now):
            permit.settle(CANCELLED, now, uniform)
            gate = "budget"
        if permit is None or gate:
            trail.note(HedgeRefused(now, call.number, call.target, trail.attempts, gate))
            return inf
        self._hedges += 1
        after = now - self._rivals[-1].began
        trail.note(Hedged(now, call.number, call.target, trail.attempts + 1, after))
        rival = _Rival(attempted(self._engine, self._lane, trail, now, uniform, permit))
        self._rivals.append(rival)
        sent = rival.step()
        assert isinstance(sent, Send), "who has a permit is sent"
        return self._left(rival, sent, now)

    def _refusal(self, now: float) -> str:
        """Which gate, of those that cost nothing to ask, keeps another from being sent; empty if none."""
        call, trail, retry = self._trail.call, self._trail, self._lane.policy.retry
        here = trail.attempts - trail.before
        if here >= retry.max_attempts or (call.most is not None and trail.attempts >= call.most):
            return "attempts"
        if call.deadline_at is not None and call.deadline_at - now < retry.min_time_left:
            return "deadline"
        load = self._lane.load(now)
        return "load" if load.ill or load.gated else ""

    def _late_answer(self, sent: Send, came: _Came) -> Steps[_Came | None]:
        """One has ended, or begins to deliver: what the race came to, or None while others are under way."""
        rival = next(rival for rival in self._rivals if rival.sent is sent)
        took = (rival.first_at or came.now) - rival.began
        command = rival.step(came)
        if isinstance(command, DeliverStream):
            self._win(rival, took, came)
            command = rival.step((yield command))
        elif came.outcome.verdict is Verdict.OK:
            self._win(rival, took, came)
        assert isinstance(command, _Came), "an attempt is sent once"
        self._rivals.remove(rival)
        if rival is not self._winner:
            self._failures.append(command.outcome)
            if self._rivals:
                return None
        return command._replace(outcome=self._told(command.outcome))

    def _told(self, last: Outcome) -> Outcome:
        """What the race came to: a win, or else a failure that is final, or the last. The others have been, too."""
        told, trail = last, self._trail
        if self._winner is None:
            retries = self._lane.treatments
            told = next((each for each in self._failures if not retries[each.verdict].retry), last)
        for each in self._failures:
            if each is not told:
                trail.unconnected += each.verdict is Verdict.CONNECT_FAILED
                trail.maybe_processed += each.maybe_processed
        return told

    def _win(self, winner: _Rival, took: float, came: _Came) -> None:
        """Give up all others."""
        trail, call = self._trail, self._trail.call
        self._hedging.took(took, begins=self._begins)
        for rival in self._rivals:
            if rival is winner or rival.sent is None:
                continue
            age = came.now - rival.began
            self._hedging.took(age, begins=self._begins)
            trail.maybe_processed += 1
            trail.note(Overtaken(came.now, call.number, call.target, rival.sent.attempt, age))
            close(rival.flow, came.now, came.uniform)
        self._rivals[:] = [winner]
        self._winner = winner
