"""Hedges: a slow attempt gets a second one, and the first answer counts."""

from dataclasses import replace
from math import inf

import pytest
from races import AFTER, FIRST, answered, events_of, scene, slow
from stage import INVALID, OK, OTHER, SERVER_ERROR, THROTTLED, TIMEOUT, Stage
from table_test import table_test

from stormbreak.core.admission import TargetQueue
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback_policy import Step, TargetOrder
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.events import Committed, Hedged, HedgeRefused, Overtaken, Returned, Sent
from stormbreak.types import FALLBACK, Outcome, Verdict


def test_a_fast_attempt_gets_no_hedge():
    stage = scene()
    run = stage.start(races=True)
    stage.pass_time(0.9 * AFTER)
    run.cross(1, OK)

    assert run.ended.attempts == 1
    assert not events_of(stage, Hedged, HedgeRefused, Overtaken)


def test_a_slow_attempt_gets_a_hedge():
    stage = scene()
    run = slow(stage)

    assert run.racing == [1, 2]
    assert stage.state.slots.in_flight == 2
    (hedged,) = events_of(stage, Hedged)
    assert (hedged.attempt, hedged.after) == (2, pytest.approx(AFTER))
    assert [sent.attempt for sent in events_of(stage, Sent)] == [1, 2]


@table_test("winner", [1, 2])
def test_the_first_answer_wins_and_the_other_attempt_is_cancelled(winner):
    stage = scene()
    run = slow(stage)
    stage.now += 0.25
    run.cross(winner, OK)

    assert run.ended.outcome is OK
    assert (run.ended.attempts, run.ended.maybe_processed) == (2, 1)
    assert stage.state.slots.in_flight == 0
    (overtaken,) = events_of(stage, Overtaken)
    assert overtaken.attempt == 3 - winner
    assert overtaken.took == pytest.approx(0.25 + AFTER * (winner == 2))
    assert [returned.attempt for returned in events_of(stage, Returned)] == [winner]


@table_test("failed", [1, 2])
@table_test("failure", [SERVER_ERROR, INVALID, TIMEOUT])
def test_the_call_waits_for_the_other_attempt_after_a_failure(failed, failure):
    stage = scene()
    run = slow(stage)
    run.cross(failed, failure)
    assert run.racing == [3 - failed]
    run.cross(3 - failed, OK)

    assert run.ended.outcome is OK
    assert not events_of(stage, Overtaken)


@table_test("order", [(1, 2), (2, 1)])
def test_the_call_backs_off_when_all_attempts_have_failed(order):
    stage = scene()
    run = slow(stage)
    for attempt in order:
        run.cross(attempt, SERVER_ERROR)
    assert run.backing_off
    stage.pass_time(0.1)

    assert run.racing == [3]


@table_test("last", [SERVER_ERROR, INVALID])
def test_a_final_failure_is_reported_before_a_transient_one(last):
    first = INVALID if last is SERVER_ERROR else SERVER_ERROR
    run = slow(scene())
    run.cross(1, first)
    run.cross(2, last)

    assert run.ended.outcome is INVALID


@table_test("wins", [True, False])
def test_a_failed_hedge_counts_as_maybe_processed(wins):
    """It may have been billed, and nothing else reports it."""
    lost = TIMEOUT._replace(maybe_processed=True)
    run = slow(scene(retry=RetryPolicy(max_attempts=2)))
    run.cross(1, lost)
    run.cross(2, OK if wins else Outcome(Verdict.CONNECT_FAILED))

    assert run.ended.maybe_processed == 1
    assert run.ended.unconnected == (not wins)


@table_test("wins", [True, False])
def test_an_attempt_without_a_connection_is_counted_in_a_race(wins):
    run = slow(scene(retry=RetryPolicy(max_attempts=2)))
    run.cross(1, Outcome(Verdict.CONNECT_FAILED))
    run.cross(2, OK if wins else SERVER_ERROR)

    assert run.ended.unconnected == 1


def test_attempts_at_another_target_do_not_use_up_those_of_a_hedge():
    stage = scene(retry=RetryPolicy(max_attempts=2))
    answered(stage, OTHER)
    step = Step(frozenset({Verdict.INVALID}), None, FALLBACK, ((OTHER, 1.0),), TargetOrder.IN_ORDER)
    run = stage.start(races=True, fallbacks=(step,))
    run.cross(1, INVALID)
    stage.pass_time(AFTER)

    assert run.racing == [2, 3]


def test_an_attempt_that_fails_fast_is_retried_without_a_hedge():
    stage = scene()
    run = stage.start(races=True)
    run.cross(1, SERVER_ERROR)

    assert run.backing_off
    assert not events_of(stage, Hedged)


def test_a_call_sends_as_many_hedges_as_the_policy_allows():
    stage = scene(most=2)
    run = slow(stage)
    stage.pass_time(AFTER)
    assert run.racing == [1, 2, 3]
    stage.pass_time(100.0)
    assert run.racing == [1, 2, 3]
    run.cross(2, OK)

    assert run.ended.maybe_processed == 2
    assert [event.attempt for event in events_of(stage, Overtaken)] == [1, 3]


def test_a_driver_that_cannot_cancel_attempts_sends_no_hedge():
    stage = scene()
    run = stage.start()
    stage.pass_time(10.0)

    assert run.sending


def test_a_stream_with_output_gets_no_hedge():
    stage = scene()
    run = stage.start(races=True, streams=True)
    run.command.sends[0].permit.first_output(stage.now)
    stage.pass_time(10.0)

    assert run.racing == [1]
    assert not events_of(stage, Hedged, HedgeRefused)


def test_the_first_attempt_with_output_delivers_the_stream():
    stage = scene()
    run = slow(stage, delivers=True)
    run.cross(2, FIRST)
    assert run.delivering
    assert stage.state.slots.in_flight == 1
    assert [event.attempt for event in events_of(stage, Committed)] == [2]
    run.step(OK)

    assert run.ended.outcome.committed
    assert run.ended.maybe_processed == 1
    assert stage.state.slots.in_flight == 0


def test_a_stream_that_breaks_after_its_first_output_is_not_retried():
    run = slow(scene(), delivers=True)
    run.cross(1, FIRST)
    run.step(SERVER_ERROR)

    assert run.ended.outcome.verdict is Verdict.SERVER_ERROR
    assert run.ended.attempts == 2


def test_a_race_returns_the_outcome_of_the_stream_not_of_a_failed_hedge():
    run = slow(scene(), delivers=True)
    run.cross(1, SERVER_ERROR)
    run.cross(2, FIRST)
    run.step(TIMEOUT)

    assert run.ended.outcome.verdict is Verdict.TIMEOUT


@table_test("leave", ["close", "drop"])
@table_test("hedged", [False, True])
def test_cancelling_a_call_cancels_all_of_its_attempts(leave, hedged):
    stage = scene()
    run = slow(stage) if hedged else stage.start(races=True)
    getattr(run, leave)()

    assert stage.state.slots.in_flight == 0


@table_test("leave", ["close", "drop"])
def test_a_cancelled_call_frees_its_slot_in_the_queue_and_during_a_stream(leave):
    stage = scene(limit=FixedLimit(max_in_flight=2))
    first, second = stage.start(), stage.start(races=True, delivers=True)
    queued = stage.start(races=True)
    assert queued.queued
    getattr(queued, leave)()
    second.cross(1, FIRST)
    getattr(second, leave)()
    first.step(OK)

    assert (stage.state.slots.in_flight, stage.state.admission.queued) == (0, 0)


def test_the_hedge_delay_starts_when_a_queued_call_is_sent():
    stage = scene(limit=FixedLimit(max_in_flight=2))
    others = [stage.start(), stage.start()]
    run = stage.start(races=True)
    stage.pass_time(10.0)
    assert run.queued
    for other in others:
        other.step(OK)
    stage.settle()
    assert run.racing == [1]
    stage.pass_time(0.9 * AFTER)
    assert run.racing == [1]
    stage.pass_time(0.1 * AFTER + 0.01)

    assert run.racing == [1, 2]


def test_a_rejected_call_does_not_start():
    stage = scene(breaker=BreakerPolicy())
    stage.state.isolate(stage.now)
    run = stage.start(races=True, fail_fast=True)

    assert run.ended.outcome.verdict is Verdict.REJECTED


def test_a_cancelled_slow_attempt_counts_for_the_percentile():
    """Else the percentile would count winners only and become too short."""
    stage = scene(hedge=HedgePolicy(delay=AFTER, percentile=0.7))
    for _ in range(20):
        stage.start(races=True).cross(1, OK)
    for _ in range(40):
        run = stage.start(races=True)
        stage.pass_time(2.0)
        run.cross(run.racing[-1], OK)

    assert stage.state.hedging.delay(streams=False) == pytest.approx(2.0)


def test_each_target_has_its_own_hedge_times():
    stage = scene()
    stage.start(races=True, target=OTHER)

    assert stage.engine.target_state(OTHER).hedging is not stage.state.hedging


def test_a_throttled_hedge_does_not_fail_the_call():
    stage = scene()
    run = slow(stage)
    run.cross(2, THROTTLED)
    run.cross(1, OK)

    assert run.ended.outcome is OK


def test_a_policy_without_hedges_sends_none():
    stage = Stage(replace(scene().engine.policy, hedge=None))

    assert stage.start(races=True).sending


@table_test(
    ("call", "begins"),
    [({}, False), ({"streams": True}, True), ({"delivers": True}, True)],
)
def test_the_hedge_delay_is_learned_from_first_outputs_or_whole_answers(call, begins):
    stage = scene(hedge=HedgePolicy())
    for _ in range(20):
        run = stage.start(races=True, **call)
        stage.now += 0.25
        if begins:
            run.command.sends[0].permit.first_output(stage.now)
        stage.now += 1.0
        run.cross(1, FIRST if "delivers" in call else OK)
        if run.delivering:
            run.step(OK)
    took = stage.state.hedging.delay(streams=begins)

    assert took == pytest.approx(0.25 if begins else 1.25)
    assert stage.state.hedging.delay(streams=not begins) == inf


def test_cancelled_attempts_settle_at_the_time_of_the_cancel(monkeypatch):
    settled = {}
    settle = TargetQueue.settle
    monkeypatch.setattr(
        TargetQueue,
        "settle",
        lambda queue, permit, outcome, now, uniform: (
            settled.setdefault(permit, (outcome.verdict, now)),
            settle(queue, permit, outcome, now, uniform),
        ),
    )
    stage = scene()
    run = slow(stage)
    permits = [send.permit for send in run.command.sends]
    stage.now += 3.0
    run.close()

    assert [settled[permit] for permit in permits] == [(Verdict.CANCELLED, stage.now)] * 2
