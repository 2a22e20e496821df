"""Fallbacks of a call whose target cannot answer: other targets, by the rules of its policy (`fallback_policy`).

One deadline and one budget hold across all of them. The result is an answer from any source, or the failure at the
first target.

While a rule for rejected calls remains, the call waits at most the rule's `max_wait` for a slot, a cooldown or a
backoff. It does not wait for an open circuit while the circuit of a target of such a rule lets calls pass. If every
circuit is open, it waits for the circuit of its own target. A call with unlimited patience never waits for the circuit
of a
fallback: it ends there, since its own target may recover sooner.

A fallback is extra load for the other target. So it is free only while that target seems healthy (fewer than
`DEPRIORITIZED` failures in a row) or nothing was sent so far. Otherwise it costs budget like a retry: when everything
is down, fallbacks must not double the traffic.
"""

from collections.abc import Callable, Generator, Sequence
from math import inf
from typing import TypeAlias

from stormbreak.core.call_state import CallState
from stormbreak.core.fallback_policy import Step, TargetOrder
from stormbreak.core.flow import Ask, Command, Flow, Resume
from stormbreak.core.retry_loop import run_target
from stormbreak.events import CallRejected, FallbackRefused, FellBack
from stormbreak.types import FALLBACK, CallResult, Outcome, Target, Verdict

DEPRIORITIZED = 3
"""Retryable failures in a row of a target, after which a fallback to it costs budget."""

GRACE = 0.25  # seconds that a local answer may take beyond the deadline
_ALL_VERDICTS = frozenset(Verdict)

_FallbackSteps: TypeAlias = Generator[Command, Resume, Outcome]


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
        self._retry_at = inf  # the earliest `retry_at` of all targets

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
        """Ask the driver for a local answer; without one, return the failure."""
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
            fallback_verdicts = _ALL_VERDICTS  # the call ends here, or restarts at its own target
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
            self._met.add(Verdict.REJECTED)  # its outcome is an earlier failure
        target_state = engine.target_state(target)  # the state may have been replaced
        if outcome.verdict is Verdict.OK:
            target_state.failed_in_a_row = 0
        elif target_state.treatments[outcome.verdict].retry:
            target_state.failed_in_a_row += 1
        return ended

    def _fallback_verdicts(self, steps: Sequence[Step], now: float) -> frozenset[Verdict]:
        """Return the verdicts with which a target of these steps takes the call instead of an open circuit."""

        def is_free(target: Target) -> bool:
            return target not in self._tried and not self._engine.is_open(target, now)

        open_steps = (
            step.on
            for step in steps
            if step.bounds_waiting and any(is_free(target) for target, _ in step.targets)
        )
        return frozenset[Verdict]().union(*open_steps)

    def _patience(self, steps: Sequence[Step]) -> float | None:
        """Return the maximum time unserved while these steps remain. A pool of one target has no other target left."""
        waited = self._state.waited
        bounds = [
            waited + step.after
            for step in steps
            if step.after and step.bounds_waiting and self._is_left(step)
        ]
        if self._call.patience is not None:
            bounds.append(self._call.patience)
        return min(bounds, default=None)

    def _is_left(self, step: Step) -> bool:
        return not step.targets or any(target not in self._tried for target, _ in step.targets)

    def _refusing_gate(self, target: Target, outcome: Outcome, now: float) -> str | None:
        """Return the gate that refuses the fallback, if any; the budget is charged last, if all others agree."""
        call, target_state = self._state.call, self._engine.target_state(target)
        if call.max_attempts is not None and self._state.attempts >= call.max_attempts:
            return "attempts"
        left = inf if call.deadline_at is None else call.deadline_at - now
        if left < target_state.policy.retry.min_time_left:
            return "deadline"
        is_load = target_state.treatments[outcome.verdict].retry  # not for a rejection of our own
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
    """Whether the call ends here: it is answered or cancelled, or part of an answer has reached the caller."""
    return outcome.committed or outcome.verdict in (Verdict.OK, Verdict.CANCELLED)


def ordered(step: Step, uniform: float, load: Callable[[Target], float]) -> tuple[Target, ...]:
    """Return the targets of a step in order; `load` is the used share of a target's capacity.

    In the order by weight, the first target is drawn with `uniform`, and the others follow by weight. Full targets come
    last.
    """
    places = step.targets
    if step.choose is TargetOrder.IN_ORDER:
        return tuple(target for target, _ in places)
    loads = {target: load(target) for target, _ in places}
    if step.choose is TargetOrder.LEAST_LOADED:
        return tuple(sorted(loads, key=loads.__getitem__))
    free = [place for place in places if loads[place[0]] < 1.0] or list(places)
    drawn = uniform * sum(weight for _, weight in free)
    first = free[-1][0]
    for target, weight in free:
        drawn -= weight
        if drawn < 0:
            first = target
            break
    others = sorted(
        (place for place in places if place[0] != first),
        key=lambda place: (loads[place[0]] >= 1.0, -place[1]),
    )
    return (first, *(target for target, _ in others))
