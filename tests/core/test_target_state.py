"""The state of a target: the known load, and how pauses, circuits and manual controls act on its queue."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
from quiet_fleet import QuietFleet
from stage import OK, SERVER_ERROR, TARGET, THROTTLED, TIMEOUT, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy, Load
from stormbreak.core.send_rate import AdaptiveSendRate
from stormbreak.core.trip import ConsecutiveFailures, SlowRate
from stormbreak.types import Outcome, Verdict

ONCE = RetryPolicy(max_attempts=1)
FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=2),
    open_duration=5.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


SLUGGISH = BreakerPolicy(trip=SlowRate(ratio=0.5, slow_call_threshold=2.0, min_calls=2))


def sending(stage):
    return [run for run in stage.runs if run.sending]


def one_slow_answer(stage):
    run = stage.start()
    stage.now += 3.0
    run.step(OK)


def refusals(stage):
    for _ in range(5):
        stage.now += 1.0
        stage.start().step(THROTTLED)


def two_failures(stage):
    for _ in range(2):
        stage.start().step(SERVER_ERROR)


@table_test(
    ("breaker", "ends_calm"),
    [
        (FRAGILE, lambda stage: stage.engine.pause(TARGET, 5.0, stage.now)),
        (FRAGILE, lambda stage: stage.engine.isolate(TARGET, stage.now)),
        (FRAGILE, lambda stage: stage.start().step(retry_in(5.0))),
        (FRAGILE, two_failures),
        (FRAGILE, refusals),
        (SLUGGISH, one_slow_answer),
    ],
)
def test_every_gate_that_closes_ends_a_calm(breaker, ends_calm):
    stage = Stage(policy(retry=ONCE, breaker=breaker, adaptive_rate=True))
    stage.start().step(OK)
    ends_calm(stage)

    assert not stage.start().sending


def test_an_interrupt_while_a_circuit_opens_ends_a_calm(monkeypatch):
    """A bug: the circuit was open, but calls still left, as the queue did not know it."""
    stage = Stage(policy(retry=ONCE, breaker=SLUGGISH))
    stage.start().step(OK)
    with monkeypatch.context() as patch:
        patch.setattr(stage.state.admission, "end_calm", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one_slow_answer(stage)
    stage.engine.recover([], stage.now)

    assert stage.state.breaker.state is State.OPEN
    assert not stage.start().sending


@table_test(("calls", "share"), [(0, 0.0), (1, 0.25), (4, 1.0), (6, 1.5)])
def test_utilization_counts_calls_in_flight_and_in_the_queue(calls, share):
    stage = Stage(policy(limit=FixedLimit(max_in_flight=4), breaker=FRAGILE))
    for _ in range(calls):
        stage.start()

    assert stage.state.utilization(stage.now) == share


def test_one_call_fully_uses_a_limit_of_one():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)))
    stage.start()

    assert stage.state.utilization(stage.now) == 1.0


def test_a_target_in_a_cooldown_is_fully_used():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=4), retry=ONCE))
    stage.start().step(retry_in(10.0))

    assert stage.state.utilization(stage.now) == 1.0
    assert stage.state.utilization(stage.now + 10.0) == 0.0


def test_a_waiting_call_shows_that_the_gates_hold_the_traffic():
    stage = Stage(policy(retry=ONCE))
    stage.start().step(retry_in(10.0))
    assert not stage.state.load(stage.now).gated
    stage.start()

    assert stage.state.load(stage.now).gated


def test_an_answer_shows_a_healthy_target_and_overtakes_earlier_attempts():
    stage = Stage(policy(retry=ONCE, limit=AutomaticLimit()))
    assert stage.state.load(stage.now) == Load(new=True)
    stage.tick(1.0)
    stage.start().step(OK)

    assert stage.state.load(stage.now, stage.now - 0.1) == Load(
        healthy=True, timeouts_are_luck=True, new=True
    )
    assert stage.state.load(stage.now, stage.now) == Load(healthy=True, new=True)
    assert stage.state.load(stage.now + 30.1, stage.now) == Load(healthy=True)


@table_test("limit", [FixedLimit(), AimdLimit()])
def test_a_target_is_new_only_with_an_automatic_limit(limit):
    assert not Stage(policy(limit=limit)).state.load(100.0).new


@table_test("adaptive_rate", [False, True])
def test_slowed_by_429s_holds_with_an_adaptive_rate(adaptive_rate):
    stage = Stage(policy(adaptive_rate=adaptive_rate))
    stage.start().step(THROTTLED)

    assert stage.state.load(stage.now).slowed_by_429s is adaptive_rate


def test_slowed_by_429s_holds_if_most_attempts_beside_them_are_served():
    stage = Stage(policy())
    stage.state.diagnosis.refusals._served = 0.6

    assert stage.state.load(stage.now).slowed_by_429s


def test_slowed_by_429s_holds_if_the_limit_has_fallen():
    stage = Stage(policy(limit=AimdLimit()))
    stage.start(max_attempts=1).step(THROTTLED)

    assert stage.state.load(stage.now).slowed_by_429s


def test_a_fallen_limit_does_not_count_for_a_dead_target():
    stage = Stage(policy(limit=AimdLimit(), retry=ONCE))
    stage.start().step(THROTTLED)
    assert stage.state.load(stage.now).limited
    for _ in range(8):
        stage.start().step(SERVER_ERROR)
    assert not stage.state.load(stage.now).limited


def test_calls_that_waited_for_a_pause_do_not_make_the_limit_bind():
    stage = Stage(policy(limit=AutomaticLimit(), retry=ONCE))
    stage.start().step(retry_in(3.0))
    for _ in range(100):
        stage.start()
    stage.pass_time(6.0)

    assert len(sending(stage)) == 100
    assert stage.state.slots.limit == 256


def test_the_snapshot_shows_the_diagnosis():
    stage = Stage(policy(retry=ONCE))
    for number in range(8):
        assert stage.state.snapshot(stage.now)["diagnosis"] == ("bad luck" if number else "none")
        stage.start().step(SERVER_ERROR)

    assert stage.state.snapshot(stage.now)["diagnosis"] == "dead"
    assert not stage.state.load(stage.now).healthy


@table_test("is_overtaken", [False, True])
def test_each_attempt_is_checked_for_an_overtaking_answer(is_overtaken):
    backoff = Backoff(kind="constant", initial_delay=1.0)
    stage = Stage(Policy(retry=RetryPolicy(max_attempts=2, backoff=backoff), breaker=None))
    run = stage.start() if is_overtaken else None
    stage.tick(1.0)
    stage.start().step(OK)
    stage.tick(1.0)
    run = run or stage.start()
    run.step(TIMEOUT)

    assert run.backing_off is is_overtaken


@table_test(("named", "second_group"), [(0.1, 0.04), (4.0, 0.8), (60.0, 2.0)])
def test_after_a_pause_the_queue_leaves_within_half_of_its_length(named, second_group):
    """Within 0.1 to 5 seconds, in groups of four."""
    stage = Stage(policy(limit=FixedLimit(max_in_flight=10), retry=ONCE))
    stage.start().step(retry_in(named))
    for _ in range(20):
        stage.start()
    stage.pass_time(named)
    assert len(sending(stage)) == 4
    stage.pass_time(0.9 * second_group)
    assert len(sending(stage)) == 4
    stage.pass_time(0.11 * second_group)

    assert len(sending(stage)) == 8


def test_a_call_that_may_not_wait_for_a_new_pause_is_rejected_at_once():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1), retry=ONCE))
    blocker, brief, patient = stage.start(), stage.start(patience=5.0), stage.start()
    blocker.step(retry_in(60.0))
    stage.settle()

    assert (brief.ended.stopped, brief.ended.waited) == ("cooldown", 0.0)
    assert patient.queued


def test_only_a_heavy_call_waits_for_tokens_that_only_it_lacks(monkeypatch):
    stage = Stage(policy(rate_limit=RateLimitPolicy(tpm=6e6), retry=ONCE))
    monkeypatch.setattr(type(stage.state.quota), "is_what_lacks", lambda *_: True)
    stage.start().step(retry_in(60.0))
    assert stage.start().sending
    monkeypatch.setattr(type(stage.state.quota), "is_what_lacks", lambda *_: False)
    stage.start().step(retry_in(60.0))

    assert stage.start().queued


def test_only_the_refused_call_waits_if_most_calls_are_served():
    stage = Stage(policy(retry=ONCE))
    crowd = [stage.start() for _ in range(50)]
    stage.tick(0.1)
    crowd[0].step(retry_in(0.5))
    stage.tick(1.0)
    for run in crowd[2:]:
        run.step(OK)
    assert stage.state.diagnosis.refusals.are_random
    crowd[1].step(retry_in(60.0))

    assert stage.start().sending


def throttled_half_the_time():
    """A stage with a learned send rate and one call at a time."""
    rules = policy(adaptive_rate=True, retry=ONCE, limit=FixedLimit(max_in_flight=1))
    stage = Stage(rules)
    number = 0
    while not stage.state.rate.in_force(stage.now):
        run = stage.start()
        if run.sending:
            run.step((OK, THROTTLED)[number % 2])
            number += 1
        stage.pass_time(0.2)
    for run in stage.runs:
        if not run.over:
            run.close()
    return stage


def test_under_a_learned_rate_the_oldest_call_goes_first():
    stage = throttled_half_the_time()
    blocker = stage.start()
    stage.pass_time(60.0)
    assert blocker.sending
    assert stage.state.rate.in_force(stage.now)
    crowd = [stage.start() for _ in range(10)]
    blocker.step(OK)
    while not any(run.sending for run in crowd):
        stage.pass_time(0.1)

    assert crowd[0].sending


def test_openings_of_the_circuit_are_counted():
    stage = Stage(policy(breaker=FRAGILE, retry=ONCE))
    assert stage.state.openings == 0
    for _ in range(2):
        stage.start().step(SERVER_ERROR)
    assert stage.state.openings == 1
    stage.tick(5.0)
    stage.start().step(OK)
    assert stage.state.openings == 1
    for _ in range(2):
        stage.start().step(SERVER_ERROR)

    assert stage.state.openings == 2


def test_reset_releases_calls_that_wait_for_a_pause():
    stage = Stage(policy(retry=ONCE))
    stage.start().step(retry_in(60.0))
    crowd = [stage.start() for _ in range(9)]
    stage.state.reset(stage.now)
    stage.settle()

    assert all(run.sending for run in crowd)
    assert stage.state.snapshot(stage.now)["cooldown"] == 0.0


def test_reset_releases_paced_calls_at_once():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=10), retry=ONCE))
    stage.start().step(retry_in(4.0))
    for _ in range(20):
        stage.start()
    stage.pass_time(4.0)
    assert len(sending(stage)) == 4
    stage.state.reset(stage.now)
    stage.settle()

    assert len(sending(stage)) == 10


def test_after_a_reset_a_lifted_pause_leaves_no_pace():
    stage = Stage(policy(breaker=FRAGILE, retry=ONCE))
    early = [stage.start() for _ in range(2)]
    for _ in range(2):
        stage.start().step(SERVER_ERROR)
    stage.tick(5.0)
    early += [stage.start()]
    early[-1].step(OK)  # the probe: the circuit closes, paced
    stage.state.reset(stage.now)
    early[0].step(retry_in(60.0))
    crowd = [stage.start() for _ in range(9)]
    late = stage.state.cooldown
    late.lift(stage.now)
    stage.state.admission.pump(stage.now)
    stage.settle()

    assert all(run.sending for run in crowd)


def test_waiting_calls_leave_when_a_circuit_is_restored_as_closed():
    stage = Stage(policy(breaker=FRAGILE))
    stage.state.isolate(stage.now)
    run = stage.start(fail_fast=False)
    stage.state.restore(
        CircuitSnapshot(state=State.CLOSED, open_left=0.0, open_for=5.0), stage.now, elapsed=0
    )
    stage.settle()

    assert run.sending


def test_the_snapshot_of_an_idle_target_has_every_key():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=2)))

    assert stage.state.target == TARGET
    assert stage.state.snapshot(stage.now) == {
        "place": "acme/large",
        "in_flight": 0,
        "limit": 2,
        "queued": 0,
        "circuit": None,
        "next_probe": None,
        "queue_age": 0.0,
        "held_by": None,
        "held_for": None,
        "quota": None,
        "rate": None,
        "limit_learned": False,
        "diagnosis": "none",
        "trips": 0,
        "failure_rate": None,
        "slow_call_rate": None,
        "cooldown": 0.0,
        "cooldown_asked": 0.0,
        "service": 0.0,
        "budget": None,
        "sharing": None,
        "members": None,
        "retries_refused": False,
    }


SHARED = policy(
    fleet=FleetPolicy(url="redis://x"),
    rate_limit=RateLimitPolicy(rpm=60.0),
    limit=AimdLimit(),
    retry=ONCE,
)


def in_a_fleet(policy):
    stage = Stage(policy)
    stage.engine.fleet = QuietFleet()
    return stage


@table_test("limits", [{"rate_limit": RateLimitPolicy()}, {"limit": FixedLimit()}, {}])
def test_a_call_asks_the_fleet_for_missing_units(limits):
    stage = in_a_fleet(replace(SHARED, **limits))
    run = stage.start()
    asks = limits.get("rate_limit") is None
    assert (run.queued, stage.engine.fleet.woken) == (asks, asks)


@table_test("hold", [lambda engine, now: engine.pause(TARGET, 5.0, now),
    lambda engine, now: engine.isolate(TARGET, now, duration=5.0)])  # fmt: skip
def test_a_held_call_asks_the_fleet_only_when_it_may_leave(hold):
    stage = in_a_fleet(replace(SHARED, breaker=FRAGILE))
    hold(stage.engine, stage.now)
    assert stage.start(fail_fast=False).queued
    assert stage.engine.fleet.woken == 0
    stage.pass_time(10.0)
    assert stage.engine.fleet.woken == 1


def test_a_cooldown_is_reported_to_the_fleet_at_once():
    stage = in_a_fleet(replace(SHARED, rate_limit=RateLimitPolicy()))
    stage.start().step(retry_in(5.0))
    assert stage.engine.fleet.woken == 1


def test_a_lifted_cooldown_leaves_no_pace_if_no_circuit_has_closed():
    stage = Stage(policy(retry=ONCE))
    stage.engine.pause(TARGET, 5.0, stage.now)
    for _ in range(9):
        stage.start()
    stage.state.cooldown.lift(stage.now)
    stage.state.admission.pump(stage.now)
    stage.settle()
    assert len(sending(stage)) == 9


def test_an_isolation_may_get_an_end_while_calls_wait():
    stage = Stage(policy(breaker=FRAGILE))
    stage.engine.isolate(TARGET, stage.now)
    run = stage.start(fail_fast=False)
    stage.engine.isolate(TARGET, stage.now, duration=5.0)
    stage.pass_time(6.0)
    assert run.sending


def test_a_schema_mismatch_counts_as_success_unless_the_policy_counts_it():
    misfit = Outcome(Verdict.SCHEMA_MISMATCH, status=200)
    assert Stage(policy()).state.as_evidence(misfit).verdict is Verdict.OK
    counting = policy(failures=(Verdict.SCHEMA_MISMATCH,))
    assert Stage(counting).state.as_evidence(misfit) is misfit


def test_the_snapshot_shows_for_ten_seconds_that_the_budget_refused_a_retry():
    stage = Stage(policy(retry_budget=BudgetPolicy(ratio=0.0, low_traffic_calls=0)))
    stage.start().step(TIMEOUT)
    assert stage.state.snapshot(stage.now)["retries_refused"]
    assert not stage.state.snapshot(stage.now + 10.0)["retries_refused"]


# ---------------------------------------------------------------- random refusals


def test_random_refusals_end_the_cooldown_and_are_no_evidence():
    stage = Stage(policy(adaptive_rate=True, retry=ONCE))
    stage.start().step(retry_in(30.0))
    assert stage.state.cooldown.until > stage.now
    stage.state.rate._found(stage.now)
    assert stage.state.cooldown.until <= stage.now
    assert stage.state.diagnosis.throttled_at < stage.now


def test_only_the_refused_call_waits_while_refusals_are_random(monkeypatch):
    monkeypatch.setattr(AdaptiveSendRate, "is_random", lambda _self, _now: True)
    stage = Stage(policy(adaptive_rate=True, retry=ONCE))
    stage.start().step(retry_in(30.0))
    assert stage.start().sending


def test_a_closing_circuit_restarts_the_count_of_refusals(monkeypatch):
    restarts = []
    monkeypatch.setattr(AdaptiveSendRate, "restart", lambda _self, now: restarts.append(now))
    stage = Stage(policy(adaptive_rate=True, breaker=FRAGILE, retry=ONCE))
    two_failures(stage)
    stage.now += 5.0
    stage.start().step(OK)
    assert restarts == [stage.now]


def test_the_snapshot_shows_the_scarce_quota_also_without_waiting_calls():
    stage = Stage(policy(rate_limit=RateLimitPolicy(rpm=60.0)))
    assert stage.state.snapshot(stage.now)["quota"] is None
    stage.start().step(OK)
    assert stage.state.snapshot(stage.now)["quota"] == "requests"
