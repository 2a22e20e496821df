"""Which answers of a target are late, and which time is usual."""

from math import inf

import pytest
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT
from table_test import table_test
from watch import Watch

from stormbreak.core.diagnosis import TOP_FIRST, TOP_TOTAL
from stormbreak.types import CANCELLED

USUAL = 1.3  # of answers that take a second
FIRST = 0.55  # of first outputs after 0.3 s


@table_test(("streams", "top"), [(False, 8), (True, 5)])
def test_enough_late_answers_are_evidence(streams, top):
    watch = Watch().know(streams=streams)
    watch.late(top - 1, streams=streams)
    assert watch.diagnosis.late_at == -inf
    watch.late(1, streams=streams)

    assert watch.diagnosis.late_at == watch.now


def test_an_answer_of_exactly_the_usual_time_is_on_time():
    watch = Watch().know()
    assert watch.diagnosis.judge.usual == pytest.approx(USUAL)
    flights = watch.send(TOP_TOTAL)
    watch.now += watch.diagnosis.judge.usual - 1e-9
    watch.end(flights)
    assert watch.diagnosis.late_at == -inf
    flights = watch.send(TOP_TOTAL)
    watch.now += watch.diagnosis.judge.usual + 1e-9
    watch.end(flights)

    assert watch.diagnosis.late_at == watch.now


def test_no_answer_is_late_before_a_usual_time_is_known():
    watch = Watch().late(19)

    assert (watch.diagnosis.late_at, watch.is_healthy) == (-inf, True)


def test_as_many_answers_on_time_as_late_are_no_evidence():
    watch = Watch().know()
    for _ in range(100):
        watch.late(1).answer(1)

    assert watch.diagnosis.late_at == -inf


def test_the_late_score_is_bounded_both_ways():
    watch = Watch().know().answer(100).late(TOP_TOTAL)  # a hundred on time give no credit
    assert watch.diagnosis.late_at == watch.now
    evidence_at = watch.late(100).now
    watch.answer(TOP_TOTAL).late(TOP_TOTAL - 1)  # a hundred late ones are no debt

    assert watch.diagnosis.late_at == evidence_at


@table_test("outcome", [None, TIMEOUT, SERVER_ERROR, THROTTLED, CANCELLED])
def test_an_attempt_without_an_answer_is_no_evidence_of_lateness(outcome):
    """An attempt that hangs or fails late says nothing about answers."""
    watch = Watch().know()
    flights = watch.send(100)
    watch.wait(50.0)
    if outcome is not None:
        watch.end(flights, outcome)

    assert watch.diagnosis.late_at == -inf


def test_a_stream_is_judged_by_its_first_output_not_by_its_end():
    watch = Watch().know(streams=True)
    assert watch.diagnosis.judge.usual == pytest.approx(FIRST)
    flights = watch.send(50, streams=True)
    watch.wait(0.3)
    watch.first(flights)
    watch.wait(50.0)
    watch.end(flights)
    assert watch.diagnosis.late_at == -inf
    burst = watch.send(TOP_FIRST, streams=True)
    watch.end(watch.send(TOP_FIRST, streams=True))  # in one piece, at once
    assert watch.diagnosis.late_at == -inf
    watch.wait(50.0)
    watch.end(burst)  # one that left as late was on time
    assert watch.diagnosis.late_at == -inf
    watch.late(TOP_FIRST, streams=True)

    assert watch.diagnosis.late_at == watch.now


@table_test("outcome", [OK, SERVER_ERROR])
def test_a_first_output_counts_once_before_the_end_and_only_for_streams(outcome):
    watch = Watch()
    one, two = watch.send(2, streams=True)
    watch.first([one, one])
    watch.end([two], outcome)
    watch.first([two, *watch.send(3)])
    assert watch.diagnosis._first_output_estimate.serving == 1
    watch.end([one], outcome)

    assert watch.diagnosis._first_output_estimate.serving == 0


def test_whole_answers_do_not_count_beside_streams():
    watch = Watch().know(streams=True)
    for _ in range(50):
        watch.send(1, streams=True)  # one has just left
        watch.late(1)

    assert watch.diagnosis.late_at == -inf


@table_test(
    ("streams", "at_first", "at_end", "late"),
    [
        (True, False, False, True),
        (True, True, False, False),
        (True, False, True, True),
        (False, True, False, True),
        (False, False, True, False),
    ],
)
def test_an_answer_that_this_process_may_have_delayed_is_not_late(streams, at_first, at_end, late):
    watch = Watch().know(streams=streams)
    flights = watch.send(TOP_TOTAL, streams=streams)
    watch.now += 2.0
    watch.stall(stalled=at_first)
    watch.first(flights)
    watch.now += 1.0
    watch.stall(stalled=at_end)
    watch.end(flights)

    assert (watch.diagnosis.late_at == watch.now) is late


@table_test(("age", "streams"), [(119.9, True), (120.0, False)])
def test_streams_are_judged_until_none_has_left_for_two_minutes(age, streams):
    watch = Watch().know(streams=True)
    left_at = watch.now
    watch.send(1, streams=True)
    watch.diagnosis.check(left_at + age)

    assert watch.diagnosis.judge.streams is streams


def test_a_change_from_whole_answers_to_streams_resets_scores_and_runs():
    watch = Watch().know(streams=True).know().wait(200.0)
    watch.late(1).late(TOP_TOTAL - 2).fail(7)
    assert (watch.diagnosis._late, len(watch.diagnosis.run)) == (TOP_TOTAL - 1, 7)
    watch.send(1, streams=True)
    watch.wait(0.1)
    assert watch.diagnosis.judge.streams
    assert (
        watch.diagnosis._late,
        watch.diagnosis._late_share,
        len(watch.diagnosis.run),
        len(watch.diagnosis._late_answers.times),
    ) == (
        0,
        0,
        0,
        0,
    )


@table_test("streams", [False, True])
@table_test("outcome", [OK, SERVER_ERROR])
def test_the_usual_time_is_known_once_the_last_attempt_of_a_block_ends(streams, outcome):
    watch = Watch()
    flights = watch.send(32, streams=streams)
    watch.now += 0.3
    watch.first(flights[:30])
    watch.now += 0.7
    watch.end(flights[:31])
    assert watch.diagnosis.judge.usual is None
    watch.end(flights[31:], outcome)

    assert watch.wait(1.0).diagnosis.judge.usual == pytest.approx(FIRST if streams else USUAL)


@table_test("outcome", [OK, SERVER_ERROR])
def test_the_next_check_is_due_at_once_when_the_usual_time_is_known(outcome):
    watch = Watch()
    flights = watch.send(33)
    watch.wait(0.9)
    watch.now += 0.1
    watch.end(flights[:31])
    assert watch.diagnosis.check_at > watch.now
    watch.end(flights[31:32], outcome)

    assert watch.diagnosis.check_at <= watch.now


def test_the_next_check_is_due_when_the_oldest_attempt_exceeds_the_usual_time():
    watch = Watch().answer(32).wait(1.0)
    first = watch.now
    watch.send()
    watch.now += 0.2
    watch.send()

    assert watch.diagnosis.check_at == first + watch.diagnosis.judge.usual


def test_late_answers_and_answers_in_an_outage_do_not_become_usual():
    watch = Watch().know().late(TOP_TOTAL)
    usual = watch.diagnosis.judge.usual
    for _ in range(5):
        watch.late(16)

    assert watch.diagnosis.judge.usual == usual


def test_the_mean_counts_whole_answers():
    assert Watch().diagnosis.mean is None
    assert Watch().know().diagnosis.mean == pytest.approx(1.0)
    assert Watch().know(streams=True).diagnosis.mean == pytest.approx(1.0)
    quiet = Watch().know(streams=True).wait(200.0)
    assert not quiet.diagnosis.judge.streams

    assert quiet.diagnosis.mean == pytest.approx(1.0)
