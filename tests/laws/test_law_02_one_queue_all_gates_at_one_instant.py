"""Law 2. One queue per target. A call leaves it only when every gate agrees at one instant; then all are
taken in one step, the breaker's probe last. Nothing is held while waiting or backing off. Waiting is not an
attempt. After a cooldown or a closing circuit the queue leaves paced (tests/core/test_engine.py has the
figures).
"""

from hypothesis import given
from hypothesis import strategies as st
from stage import OK, OTHER, SERVER_ERROR, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.gate import READY
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import CANCELLED

ONE_PROBE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1),
    open_duration=5.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


def scene(**changes):
    return Stage(
        policy(
            **{
                "limit": FixedLimit(max_in_flight=1),
                "breaker": ONE_PROBE,
                "retry": RetryPolicy(backoff=Backoff(kind="constant", initial_delay=3.0)),
                **changes,
            }
        )
    )


def test_a_call_waits_for_the_cooldown_although_a_slot_is_free():
    stage = scene()
    blocker, waiting = stage.start(), stage.start()
    blocker.step(retry_in(20.0)).close()
    stage.pass_time(19.9)
    assert waiting.queued
    assert stage.state.slots.in_flight == 0
    stage.pass_time(0.1)
    assert waiting.sending


def test_a_call_waits_for_a_slot_although_the_cooldown_is_over():
    stage = scene(limit=FixedLimit(max_in_flight=2))
    slow, blocker, waiting = stage.start(), stage.start(), stage.start()
    blocker.step(retry_in(20.0)).close()
    other = stage.start()
    stage.pass_time(60.0)
    assert [waiting.sending, other.sending] == [True, False]
    slow.step(OK)
    stage.settle()
    assert other.sending


def test_the_probe_is_not_taken_while_another_gate_holds_the_call():
    stage = scene(limit=FixedLimit(max_in_flight=2))
    slow, failed = stage.start(), stage.start()
    failed.step(SERVER_ERROR).close()
    slow_too = stage.start(fail_fast=False)
    stage.state.slots.limit = 1  # no slot when the open time ends
    stage.pass_time(60.0)
    assert slow_too.queued
    assert stage.state.breaker.state is State.OPEN  # only a call that leaves moves it
    slow.step(CANCELLED)
    stage.settle()
    assert slow_too.sending
    assert stage.state.breaker.state is State.HALF_OPEN


def test_all_gates_are_taken_in_one_step_and_the_probe_last():
    stage = scene()
    *gates, observer = stage.state.admission._gates
    stage.fail_until_open()

    assert [gate.name for gate in gates] == ["cooldown", "pace", "limit", "breaker"]
    assert observer is stage.state.diagnosis
    assert observer.ready_at(None, stage.now) == READY  # it holds nothing back


@table_test("outcome", [SERVER_ERROR, retry_in(3.0)])
def test_a_call_in_backoff_holds_nothing(outcome):
    stage = scene(breaker=None)
    run, other = stage.start(), stage.start(target=OTHER)
    run.step(outcome)

    assert run.backing_off
    assert stage.state.slots.in_flight == 0
    assert other.sending


def test_a_call_in_the_queue_holds_nothing():
    stage = scene()
    stage.start()
    for _ in range(5):
        stage.start()

    assert stage.state.slots.in_flight == 1


@given(waits=st.integers(1, 4))  # in a longer queue the newest would go first
def test_waiting_is_not_an_attempt(waits):
    stage = scene(retry=RetryPolicy(max_attempts=1))
    blockers = [stage.start() for _ in range(waits)]
    run = stage.start()
    for blocker in blockers:
        stage.pass_time(10.0)
        blocker.step(OK)
        stage.settle()
    ended = run.step(OK).ended

    assert (ended.attempts, ended.waited) == (1, 10.0 * waits)


def test_the_queue_of_one_target_does_not_hold_calls_of_another():
    stage = scene()
    stage.start()
    stage.start()

    assert stage.start(target=OTHER).sending


def test_a_retry_queues_like_any_call():
    stage = scene(breaker=None)
    run = stage.start()
    run.step(SERVER_ERROR)
    crowd = [stage.start() for _ in range(3)]
    stage.pass_time(3.0)
    assert run.queued
    for other in crowd:
        other.step(OK)
        stage.settle()
    assert run.sending
