"""Flows start, get answers, close and wait in any order, from several initial states; after every
step the engine must be consistent, and idle at the end.
"""

from math import inf

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stage import (
    INVALID,
    OK,
    OTHER,
    SERVER_ERROR,
    TARGET,
    THROTTLED,
    TIMEOUT,
    Stage,
    policy,
    retry_in,
)

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.presets import ARTICLE, INTERACTIVE
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, FailureRate, SlowRate
from stormbreak.types import CANCELLED, Priority

FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=2),
    open_duration=4.0,
    open_duration_factor=2.0,
    probes=3,
    max_concurrent_probes=2,
    probe_lease=6.0,
    max_half_open_duration=20.0,
)
POLICIES = {
    "tight": policy(
        limit=FixedLimit(max_in_flight=2),
        queue=QueuePolicy(max_size=3),
        breaker=FRAGILE,
        retry_budget=BudgetPolicy(ratio=0.5, low_traffic_calls=3),
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0)),
        attempt_timeout=10.0,
    ),
    "one by one": policy(
        limit=FixedLimit(max_in_flight=1),
        breaker=BreakerPolicy(
            trip=AnyRule(
                rules=(
                    FailureRate(ratio=0.5, min_calls=2),
                    SlowRate(window_calls=50, slow_call_threshold=4.0, min_calls=3),
                )
            ),
            open_duration=2.0,
            probes=1,
            max_concurrent_probes=1,
            probe_lease=3.0,
        ),
        retry=RetryPolicy(max_attempts=4, backoff=Backoff(initial_delay=1.0)),
    ),
    "automatic": policy(
        limit=AutomaticLimit(max_in_flight=3, headroom_factor=1.0, headroom=0.0),
        queue=QueuePolicy(max_size=8),
        retry_budget=BudgetPolicy(ratio=0.5, low_traffic_calls=3),
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0)),
        attempt_timeout=10.0,
    ),
    "aimd": policy(
        limit=AimdLimit(initial_in_flight=2, max_in_flight=4, slow_call_threshold=4.0),
        queue=QueuePolicy(max_size=8),
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0)),
        attempt_timeout=10.0,
    ),
    "learned rate": policy(
        limit=AutomaticLimit(max_in_flight=4),
        adaptive_rate=True,
        breaker=FRAGILE,
        retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0)),
    ),
    "no breaker": policy(limit=FixedLimit(max_in_flight=3), queue=QueuePolicy(max_size=5)),
    "article": ARTICLE,
    "interactive": INTERACTIVE,
}
INITIALLY = [
    "closed",
    "open",
    "half-open, probe hung",
    "cooling down",
    "queue full",
    "at the limit",
]
OUTCOMES = st.sampled_from(
    [
        OK,
        OK,
        SERVER_ERROR,
        THROTTLED,
        TIMEOUT,
        INVALID,
        CANCELLED,
        retry_in(0.0),
        retry_in(2.0),
        retry_in(9.0),
        retry_in(2.0)._replace(verdict=SERVER_ERROR.verdict),
        SERVER_ERROR._replace(committed=True),
        OK._replace(committed=True),
    ]
)
TARGETS = st.sampled_from([TARGET, TARGET, OTHER])
SPANS = st.sampled_from([None, None, 0.5, 3.0, 20.0])
PICK = st.integers(0, 10**6)


class Storm(RuleBasedStateMachine):
    """One engine with two targets, and any number of calls."""

    @initialize(
        name=st.sampled_from(sorted(POLICIES)),
        state=st.sampled_from(INITIALLY),
        chance=st.floats(0.0, 0.999),
    )
    def begin(self, name, state, chance):
        self.stage = Stage(POLICIES[name], chance=chance)
        self.planned = {}  # backing off, until when
        self.target_states = [self.stage.engine.target_state(target) for target in (TARGET, OTHER)]
        for target_state in self.target_states:
            self.watch(target_state)
        self.bring_to(state)

    def bring_to(self, state):
        stage, target_state = self.stage, self.stage.state
        if state in ("open", "half-open, probe hung") and target_state.breaker is not None:
            stage.fail_until_open()
            if state != "open":
                stage.tick(target_state.breaker.until - stage.now)
                stage.start()
                stage.tick(1.0)
        elif state == "cooling down":
            stage.start().step(retry_in(5.0))
        elif state == "at the limit":
            for _ in range(min(target_state.slots.limit, 12)):
                stage.start()
        elif state == "queue full":
            for _ in range(target_state.slots.limit + 4 if target_state.slots.limit < 12 else 0):
                stage.start()

    def watch(self, target_state):
        """Check every grant when it happens."""
        grant = target_state.admission._grant

        def watched(call, now):
            assert target_state.cooldown.until <= now, "left during a cooldown"
            assert target_state.slots.in_flight < target_state.slots.limit, "left beyond the limit"
            if target_state.rate is not None:
                assert target_state.rate.ready_at(None, now) <= now, "left faster than the rate"
            if target_state.breaker is not None:
                assert target_state.breaker.state is not State.ISOLATED, "left while isolated"
                if target_state.breaker.state is State.OPEN:
                    assert target_state.breaker.until <= now, "left while open"
            return grant(call, now)

        target_state.admission._grant = watched

    # -------------------------------------------------------------- actions

    @rule(
        target_=TARGETS,
        within=SPANS,
        patience=SPANS,
        priority=st.sampled_from(list(Priority)),
        fail_fast=st.booleans(),
        tenant=st.sampled_from(["", "shop", "jobs"]),
        delivers=st.booleans(),
    )
    def start(self, target_, within, patience, priority, fail_fast, tenant, delivers):
        self.stage.start(
            target=target_,
            within=within,
            patience=patience,
            priority=priority,
            fail_fast=fail_fast,
            tenant=tenant,
            delivers=delivers,
            streams=delivers,
        )

    def pick(self, which, pick):
        runs = [run for run in self.stage.runs if which(run)]
        return runs[pick % len(runs)] if runs else None

    @rule(pick=PICK, outcome=OUTCOMES, chance=st.floats(0.0, 0.999))
    def answer(self, pick, outcome, chance):
        self.stage.chance = chance
        if run := self.pick(lambda run: run.sending or run.delivering, pick):
            delivered = run.delivering
            run.step(outcome)
            assert run.over or not delivered, "sent again after the first output"

    @rule(pick=PICK, drops=st.booleans())
    def cancel(self, pick, drops):
        if run := self.pick(lambda run: not run.over, pick):
            run.drop() if drops else run.close()

    @rule(pick=PICK)
    def first_output(self, pick):
        if run := self.pick(lambda run: run.sending, pick):
            run.command.permit.first_output(self.stage.now)
            self.stage.take_away()

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 2.0, 5.0, 30.0]))
    def time_passes(self, seconds):
        """No call is resumed: a driver may be late."""
        self.stage.now += seconds

    @rule(pick=PICK)
    def resume_one(self, pick):
        if run := self.pick(lambda run: run.due, pick):
            run.step()

    @rule()
    def resume_all(self):
        self.stage.settle()

    @rule(pick=PICK)
    def resume_too_early(self, pick):
        if run := self.pick(lambda run: run.queued or run.backing_off, pick):
            run.step()

    @precondition(lambda self: self.stage.state.breaker is not None)
    @rule(closes=st.booleans())
    def by_hand(self, closes):
        target_state = self.stage.state
        (target_state.reset if closes else target_state.isolate)(self.stage.now)
        self.stage.take_away()

    # -------------------------------------------------------------- invariants

    def runs_of(self, target_state):
        return [run for run in self.stage.runs if run.call.target == target_state.target]

    @invariant()
    def slots_are_held_by_calls_that_may_send_only(self):
        for target_state in self.target_states:
            holders = [
                run
                for run in self.runs_of(target_state)
                if run.sending
                or run.delivering
                or (run.queued and run.command.ticket.permit is not None)
            ]
            assert len(holders) == target_state.slots.in_flight
            fixed = isinstance(self.stage.engine.policy.limit, FixedLimit)
            assert (
                target_state.slots.in_flight <= target_state.slots.limit or not fixed
            )  # others may shrink

    @invariant()
    def queue_places_are_held_by_waiting_calls(self):
        for target_state in self.target_states:
            waiting = [run.command.ticket for run in self.runs_of(target_state) if run.queued]
            undecided = [ticket for ticket in waiting if not ticket.decided]
            assert len(undecided) == target_state.admission.queued
            assert target_state.admission.queued <= self.stage.engine.policy.queue.max_size
            assert set(target_state.admission._queue) == set(undecided)

    @invariant()
    def probes_are_bounded_and_of_this_epoch(self):
        for breaker in [
            target_state.breaker
            for target_state in self.target_states
            if target_state.breaker is not None
        ]:
            trial = breaker.trial
            assert (breaker.state is State.HALF_OPEN) == (trial is not None)
            if trial is None:
                continue
            held = [p for p in trial.probes if p.lease_until > self.stage.now]
            assert len(held) <= breaker._policy.max_concurrent_probes
            assert {trial} >= {probe.trial for probe in trial.probes}
            assert trial.succeeded + trial.failed + len(held) <= breaker._policy.probes

    @invariant()
    def the_budget_is_never_negative(self):
        if (budget := self.stage.engine.budget) is not None:
            assert budget.balance(self.stage.now) >= 0.0

    @invariant()
    def no_wake_up_is_lost(self):
        for target_state in self.target_states:
            if not target_state.admission.queued:
                continue
            admission, now = target_state.admission, self.stage.now
            following = admission._next()
            ready_at = admission._ready_at(following.call, now)
            if ready_at == inf:  # a call with a slot will pump, or a change by hand
                isolated = (
                    target_state.breaker is not None
                    and target_state.breaker.state is State.ISOLATED
                )
                assert target_state.slots.in_flight >= target_state.slots.limit or isolated
                continue
            timer = target_state.admission._timekeeper
            assert timer is not None
            assert timer.check_at <= max(ready_at, self.stage.now)
            (owner,) = [
                r for r in self.runs_of(target_state) if r.queued and r.command.ticket is timer
            ]
            assert timer.due or owner.command.until <= timer.check_at

    @invariant()
    def a_decided_ticket_is_woken(self):
        for run in self.stage.runs:
            if run.queued and run.command.ticket.decided:
                assert run.due

    @invariant()
    def no_retry_leaves_before_its_time(self):
        for run in self.stage.runs:
            until = self.planned.pop(run, None)
            if run.backing_off:
                self.planned[run] = run.command.until
            elif until is not None and not run.closed:
                assert self.stage.now >= until

    # -------------------------------------------------------------- teardown

    def teardown(self):
        if not hasattr(self, "stage"):
            return
        for run in self.stage.runs[::2]:
            run.close()
        self.drain()
        for target_state in self.target_states:
            assert (target_state.slots.in_flight, target_state.admission.queued) == (0, 0)
            assert (
                target_state.breaker is None
                or target_state.breaker.trial is None
                or not target_state.breaker.trial.probes
            )

    def drain(self):
        """Answer every call that is sent; no call may be left waiting."""
        for target_state in self.target_states:
            target_state.reset(self.stage.now)
        self.stage.take_away()
        for _ in range(400):
            self.stage.settle()
            for run in self.stage.runs:
                if run.sending or run.delivering:
                    run.step(OK)
            if all(run.over for run in self.stage.runs):
                return
            self.stage.now = max(self.stage.now, min(self.stage._due_at(), self.stage.now + 2000))
        left = [run.command for run in self.stage.runs if not run.over]
        raise AssertionError(f"starved: {left}")


MODERATE = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestStorm = Storm.TestCase
TestStorm.settings = MODERATE


@pytest.mark.prove
class TestLongStorm(Storm.TestCase):
    settings = settings(MODERATE, max_examples=5_000, stateful_step_count=80)
