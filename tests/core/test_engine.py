import pytest
from quiet_fleet import QuietFleet
from stage import OK, OTHER, SERVER_ERROR, TARGET, Stage, policy, retry_in

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.types import Target

FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=2),
    open_duration=5.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


def sent(stage):
    return sum(run.sending for run in stage.runs)


def test_the_snapshot_shows_the_state_of_each_target():
    stage = Stage(Policy(limit=FixedLimit(max_in_flight=2)))
    stage.start().step(retry_in(8.0)).close()
    stage.start()

    assert stage.engine.snapshot(stage.now) == {
        "budget": 0.2,
        "targets": {
            "acme/large": {
                "place": "acme/large",
                "in_flight": 0,
                "limit": 2,
                "queued": 1,
                "circuit": "closed",
                "next_probe": None,
                "queue_age": 0.0,
                "held_by": "cooldown",
                "held_for": 8.0,
                "quota": None,
                "rate": None,
                "limit_learned": False,
                "diagnosis": "none",
                "trips": 0,
                "failure_rate": None,
                "slow_call_rate": None,
                "cooldown": 8.0,
                "cooldown_asked": 8.0,
                "service": 0.0,
                "budget": 0.2,
                "sharing": None,
                "members": None,
                "retries_refused": False,
            }
        },
    }


def test_the_queue_age_is_that_of_the_oldest_call():
    stage = Stage(Policy(limit=FixedLimit(max_in_flight=1)))
    for wait in (0.0, 2.0, 1.0):
        stage.start()
        stage.now += wait
    (target,) = stage.engine.snapshot(stage.now)["targets"].values()
    assert (target["queued"], target["queue_age"]) == (2, 3.0)


def test_a_target_has_one_state():
    stage = Stage()

    assert stage.engine.target_state(TARGET) is stage.engine.target_state(TARGET)


def test_without_a_breaker_there_is_no_circuit():
    stage = Stage(policy())
    stage.state.isolate(stage.now)
    stage.state.reset(stage.now)

    assert stage.engine.snapshot(stage.now)["targets"]["acme/large"]["circuit"] is None
    assert stage.start().sending


def test_isolating_by_hand_holds_patient_calls_and_rejects_fail_fast_ones():
    stage = Stage(policy(breaker=FRAGILE, limit=FixedLimit(max_in_flight=1)))
    blocker, impatient, patient = stage.start(), stage.start(), stage.start(fail_fast=False)
    stage.state.isolate(stage.now)
    stage.settle()
    assert impatient.ended.stopped == "breaker"
    blocker.step(OK)
    stage.tick(1e6)
    assert patient.queued

    stage.state.reset(stage.now)
    stage.settle()
    assert patient.sending


def after_circuit_closed(stage):
    """Bring twenty callers to wait for an open circuit, and let a probe close it."""
    for _ in range(2):
        stage.start().step(SERVER_ERROR).close()
    crowd = [stage.start(fail_fast=False) for _ in range(20)]
    stage.pass_time(5.0)
    probe = next(run for run in crowd if run.sending)
    stage.tick(0.5)
    return probe


def test_the_queue_leaves_paced_after_a_circuit_closed():
    stage = Stage(policy(breaker=FRAGILE, limit=FixedLimit(max_in_flight=10)))
    probe = after_circuit_closed(stage)
    probe.step(OK)
    stage.settle()
    left = []
    for _ in range(8):
        left.append(sent(stage))
        stage.pass_time(0.125)

    assert left == [4, 4, 4, 4, 8, 8, 8, 10]  # in groups of four, ten slots


def test_lifting_a_cooldown_keeps_the_pace_of_the_circuit():
    stage = Stage(policy(breaker=FRAGILE, limit=FixedLimit(max_in_flight=10)))
    early = stage.start()
    probe = after_circuit_closed(stage)
    early.step(retry_in(60.0)).close()
    probe.step(OK)  # closes the circuit and lifts the cooldown
    stage.settle()

    assert sent(stage) == 4
    stage.pass_time(0.5)
    assert sent(stage) == 8


def test_a_circuit_that_closes_keeps_the_pace_of_a_cooldown():
    stage = Stage(policy(breaker=FRAGILE, limit=FixedLimit(max_in_flight=10)))
    early = stage.start()
    probe = after_circuit_closed(stage)
    probe.command, answer = None, probe
    stage.state.cooldown.settle(
        stage.now, retry_in(4.0), stage.now, 0.0
    )  # as late as the probe itself
    answer.step(OK)
    early.close()
    stage.pass_time(3.9)
    assert sent(stage) == 0
    stage.pass_time(0.1)
    assert sent(stage) == 4
    stage.pass_time(1.0)
    assert sent(stage) == 8


def test_the_queue_leaves_paced_after_a_cooldown():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=10)))
    stage.start().step(retry_in(4.0)).close()
    for _ in range(20):
        stage.start()
    stage.pass_time(3.99)
    assert sent(stage) == 0
    left = []
    stage.pass_time(0.01)
    for _ in range(10):
        left.append(sent(stage))
        stage.pass_time(0.2)

    assert left == [4, 4, 4, 4, 8, 8, 8, 8, 10, 10]  # in groups of four, ten slots


# ---------------------------------------------------------------- a forked child


def test_a_forked_child_starts_without_leases_and_stalls_of_its_parent():
    stage = Stage(policy())
    stage.engine.fleet = QuietFleet()
    stage.engine.stalls.beat(stage.now - 60.0, lambda: True)
    assert stage.engine.stalls.is_recent(stage.now)
    stage.engine.start_over()
    assert not stage.engine.stalls.is_recent(stage.now)
    assert stage.engine.fleet.restarts == 1


# ---------------------------------------------------------------- prices and leases


def test_a_spend_limit_needs_prices():
    stage = Stage(policy(spend=SpendPolicy(max_usd=1.0)))
    with pytest.raises(ConfigurationError, match=r"spend\.max_usd needs an engine"):
        stage.start()


def test_an_engine_leases_only_in_a_fleet_and_for_policies_that_share():
    shares = policy(fleet=FleetPolicy(url="redis://x"))
    alone = Stage(shares)
    assert alone.start().sending
    private = Stage(policy())
    private.engine.fleet = QuietFleet()
    assert private.start().sending
    assert private.engine.fleet.lease_of == {}
    alone.engine.fleet = QuietFleet()
    assert alone.start(target=OTHER).queued
    assert set(alone.engine.fleet.lease_of) == {OTHER}


def test_a_call_wakes_a_resting_lease():
    stage = Stage(policy(fleet=FleetPolicy(url="redis://x"), limit=AimdLimit()))
    stage.engine.fleet = QuietFleet()
    lease = stage.state.lease
    lease.rest()
    stage.start()
    assert (lease.rests, stage.engine.fleet.woken) == (False, 2)


# ---------------------------------------------------------------- by hand


def test_a_target_can_be_paused_before_its_first_call():
    stage = Stage(policy())
    stage.engine.pause(TARGET, 5.0, stage.now)
    run = stage.start()
    assert run.queued
    stage.engine.reset(TARGET, stage.now)
    stage.settle()
    assert run.sending


# ---------------------------------------------------------------- memory


def test_open_circuits_survive_a_restart_of_the_engine():
    stage = Stage(policy(breaker=FRAGILE))
    stage.fail_until_open()
    stage.start(target=OTHER).step(OK)
    saved = stage.engine.save_circuits(stage.now)
    assert set(saved) == {TARGET}
    assert Stage(policy()).engine.save_circuits(stage.now) == {}
    later = Stage(policy(breaker=FRAGILE))
    later.engine.restore_circuits(saved, later.now, elapsed=1.0)
    assert later.state.breaker.ready_at(None, later.now) == later.now + 4.0


def test_an_engine_without_a_breaker_saves_no_circuit():
    stage = Stage(policy())
    stage.start().step(OK)
    assert stage.engine.save_circuits(stage.now) == {}


def test_targets_are_forgotten_together_and_not_while_one_is_needed():
    stage = Stage(policy())
    run = stage.start()
    stage.start(target=OTHER).step(OK)
    assert not stage.engine.forget([TARGET, OTHER], stage.now)
    assert set(stage.engine.targets) == {TARGET, OTHER}
    run.step(OK)
    assert stage.engine.forget([TARGET, OTHER, Target("acme", "none")], stage.now)
    assert not stage.engine.targets


def test_a_target_that_was_reset_before_its_first_call_is_shown():
    stage = Stage(policy())
    stage.engine.reset(TARGET, stage.now)
    assert set(stage.engine.snapshot(stage.now)["targets"]) == {"acme/large"}
