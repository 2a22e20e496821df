"""A call from target to target: at each it is carried as far as it comes, and then perhaps falls back to the next.

How a call is carried at one target is `call`; which rules there are, and what a move costs, is `fallback`. What is
reported in the end is an answer, wherever it came from, or what the first target said.
"""

from collections.abc import Generator, Sequence
from math import inf
from typing import TypeAlias

from stormbreak.core.call import carry
from stormbreak.core.call_state import CallState, FallbackCallState
from stormbreak.core.engine import Engine
from stormbreak.core.fallback import DEPRIORITIZED, Step, ordered
from stormbreak.core.flow import Ask, Command, Flow, Resume
from stormbreak.events import CallRejected, FallbackRefused, FellBack, Labelled
from stormbreak.types import FALLBACK, Call, CallResult, Outcome, Target, Verdict

GRACE = 0.25
"""Seconds that an answer which is at hand may take beyond the deadline that failed all others."""

_ANY = frozenset(Verdict)

_Taken: TypeAlias = Generator[Command, Resume, Outcome]


def run_call(engine: Engine, call: Call, now: float, uniform: float) -> Flow:
    """Carry `call` to its end, at its target and where its fallbacks lead."""
    lane = engine.lane(call.target)
    if engine.crowded:
        engine.make_room(now)
        lane = engine.lane(call.target)  # which is used now
    if lane.earn is not None:
        lane.earn(now)
    if call.labels and engine.listeners:
        engine.events.append(Labelled(now, call.number, call.target, call.labels))
    if call.fallbacks:
        return FallbackRun(engine, FallbackCallState(engine, call), uniform).run(now)
    return carry(engine, lane, CallState(engine, call), now, uniform)


class FallbackRun:
    """One call with fallbacks; `chance` decides where it goes by weight."""

    def __init__(self, engine: Engine, trail: FallbackCallState, chance: float) -> None:
        self._engine = engine
        self._trail = trail
        self._chance = chance
        self._call = trail.call
        self._met: set[Verdict] = set()
        self._tried: set[Target] = set()

    def run(self, now: float) -> Flow:
        """Try the target, then every step that is for a verdict that was met."""
        trail, steps = self._trail, self._call.fallbacks
        first = yield from self._run_target(self._call.target, steps, now)
        outcome = first.outcome
        for place, step in enumerate(steps, 1):
            if _is_over(outcome):
                break
            if self._met & step.on:
                take = self._move if step.targets else self._ask
                outcome = yield from take(step, steps[place:], outcome)
        trail.more = False
        if outcome.verdict is Verdict.OK:
            return trail.end(outcome, trail.ended_at)
        trail.call = trail.call._replace(target=self._call.target)
        said = outcome if outcome.verdict is Verdict.CANCELLED else first.outcome
        return trail.end(said, trail.ended_at, stopped=first.stopped, retry_at=first.retry_at)

    def _move(self, step: Step, later: Sequence[Step], outcome: Outcome) -> _Taken:
        """Go on to the targets of `step`, until one answers."""
        trail = self._trail
        targets = [
            target
            for target in ordered(step, self._chance, self._load)
            if target not in self._tried
        ]
        for place, target in enumerate(targets, 1):
            gate = self._refusal(target, outcome, trail.ended_at)
            if gate is not None:
                self._note_refusal(str(target), gate)
                continue
            self._emit_fallback(str(target), outcome)
            others = (step, *later) if place < len(targets) else later
            ended = yield from self._run_target(target, others, trail.ended_at)
            outcome = ended.outcome
            if _is_over(outcome):
                trail.source = FALLBACK
                break
        return outcome

    def _ask(self, step: Step, later: Sequence[Step], outcome: Outcome) -> _Taken:  # noqa: ARG002
        """Have the driver ask who is at hand; what it does not find leaves the failure as it is."""
        trail, deadline_at = self._trail, self._trail.call.deadline_at
        until = None if deadline_at is None else max(deadline_at, trail.ended_at + GRACE)
        found, now, _ = yield Ask(step, outcome, until)
        trail.ended_at = now
        if found is None or found.verdict is not Verdict.OK:
            self._note_refusal(step.source, "nothing found")
            return outcome
        self._emit_fallback(step.source, outcome)
        trail.source = step.source
        return found

    def _run_target(
        self, target: Target, steps: Sequence[Step], now: float
    ) -> Generator[Command, Resume, CallResult]:
        trail = self._trail
        self._tried.add(target)
        elsewhere = self._fallback_targets(steps, now)
        if target != self._call.target and self._call.patience is None:
            elsewhere = _ANY  # it ends, and may begin again at its own target
        trail.move(
            target,
            patience=self._patience(steps),
            fail_fast=self._call.fail_fast or bool(elsewhere),
            elsewhere=elsewhere,
        )
        lane = self._engine.lane(target)
        ended = yield from carry(self._engine, lane, trail, now, self._chance)
        outcome = ended.outcome
        self._met.add(outcome.verdict)
        if ended.history and isinstance(ended.history[-1], CallRejected):
            self._met.add(Verdict.REJECTED)  # after a failure, which is what it ended with
        lane = self._engine.lane(target)  # a new one may have taken its place
        if outcome.verdict is Verdict.OK:
            lane.failed_in_a_row = 0
        elif lane.treatments[outcome.verdict].retry:
            lane.failed_in_a_row += 1
        return ended

    def _fallback_targets(self, steps: Sequence[Step], now: float) -> frozenset[Verdict]:
        """For which verdicts a target of these steps can take the call, so that it need not wait for an open circuit."""
        engine, tried = self._engine, self._tried
        return frozenset[Verdict]().union(
            *(
                step.on
                for step in steps
                if step.bounds_waiting
                and any(
                    target not in tried and not engine.is_open(target, now)
                    for target, _ in step.targets
                )
            )
        )

    def _patience(self, steps: Sequence[Step]) -> float | None:
        """How long the call may be unserved in all, where these steps are still to come."""
        bounds = [
            self._trail.waited + step.after for step in steps if step.after and step.bounds_waiting
        ]
        patience = min(bounds, default=inf)
        if self._call.patience is not None:
            patience = min(patience, self._call.patience)
        return None if patience == inf else patience

    def _refusal(self, target: Target, outcome: Outcome, now: float) -> str | None:
        """Which gate keeps the call from moving; the budget is charged last, and only where all others agree."""
        call, engine, attempts = self._trail.call, self._engine, self._trail.attempts
        if call.most is not None and attempts >= call.most:
            return "attempts"
        left = inf if call.deadline_at is None else call.deadline_at - now
        lane = engine.lane(target)
        if left < lane.policy.retry.min_time_left:
            return "deadline"
        is_load = lane.treatments[outcome.verdict].retry  # not so where it was rejected here
        doubted = lane.failed_in_a_row >= DEPRIORITIZED
        if is_load and doubted and lane.budget is not None and not lane.budget.try_pay(now):
            return "budget"
        return None

    def _load(self, target: Target) -> float:
        return self._engine.lane(target).taken(self._trail.ended_at)

    def _emit_fallback(self, to: str, outcome: Outcome) -> None:
        trail, call = self._trail, self._trail.call
        trail.note(
            FellBack(
                trail.ended_at,
                call.number,
                call.target,
                to,
                outcome.verdict,
                outcome.maybe_processed,
            )
        )

    def _note_refusal(self, to: str, gate: str) -> None:
        trail, call = self._trail, self._trail.call
        trail.note(FallbackRefused(trail.ended_at, call.number, call.target, to, gate))


def _is_over(outcome: Outcome) -> bool:
    """Whether nothing else is to be tried: it is answered, given up, or part of it has reached the caller."""
    return outcome.committed or outcome.verdict in (Verdict.OK, Verdict.CANCELLED)
