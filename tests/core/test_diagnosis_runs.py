"""When a run of failures means that the target is dead, and when chance explains it."""

from math import inf, log
from random import Random

import pytest
from stage import INVALID, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test
from watch import Watch

from stormbreak.core.diagnosis import Cause
from stormbreak.types import CANCELLED, TREATMENTS, Tally, Verdict


def test_eight_failures_in_a_row_mean_death():
    watch = Watch().answer().fail(7)
    assert (watch.is_dead, watch.diagnosis.dead_at, len(watch.diagnosis.run)) == (False, -inf, 7)
    watch.fail()

    assert (watch.is_dead, watch.diagnosis.dead_at) == (True, watch.now)


def test_eight_failures_in_a_row_mean_death_in_a_cold_start():
    assert not Watch().fail(7).is_dead
    assert Watch().fail(8).is_dead


def test_slow_failures_mean_death_in_a_cold_start():
    """Two calls a second, each fails after five seconds: ten are always in flight."""
    watch, flying = Watch(), []
    for number in range(30):
        flying += watch.send()
        if number >= 10:
            watch.end([flying.pop(0)], TIMEOUT)
        assert watch.is_dead is (number >= 17), number  # the eighth failure
        watch.wait(0.5)


def test_an_answer_ends_the_run():
    watch = Watch()
    for _ in range(20):
        watch.fail(7).answer()

    assert (watch.diagnosis.dead_at, len(watch.diagnosis.run)) == (-inf, 0)


def test_an_outage_is_known_while_earlier_attempts_are_still_answered():
    """With many in flight, attempts sent before the outage are answered for a while."""
    watch = Watch().know()
    before = watch.send(200)
    watch.wait(0.1)
    for number in range(8):
        assert not watch.is_dead
        watch.fail()
        watch.end(before[25 * number : 25 * (number + 1)])

    assert watch.is_dead
    watch.answer()
    assert not watch.is_dead


def test_failures_of_attempts_sent_before_the_last_answered_one_do_not_count():
    watch = Watch()
    slow = watch.send(50)
    watch.answer()
    watch.end(slow, TIMEOUT)

    assert (watch.is_dead, len(watch.diagnosis.run)) == (False, 0)


def test_quick_failures_of_a_cold_burst_are_no_death_while_others_are_in_flight():
    """Ten of thirty fail at once: twenty are undecided."""
    watch = Watch()
    burst = watch.send(30)
    watch.now += 0.1
    watch.end(burst[:10], SERVER_ERROR)
    assert not watch.is_dead
    watch.now += 2.0
    watch.end(burst[10:11])
    assert len(watch.diagnosis.run) == 0
    watch.end(burst[11:], SERVER_ERROR)

    assert (watch.is_dead, watch.diagnosis.dead_at) == (False, -inf)


def test_a_cold_burst_of_failures_is_death_once_a_quarter_or_less_is_undecided():
    watch = Watch()
    burst = watch.send(30)
    watch.now += 0.1
    watch.end(burst[:23], SERVER_ERROR)
    assert not watch.is_dead  # 7 of 23 and more are undecided
    watch.end(burst[23:24], SERVER_ERROR)

    assert watch.is_dead


@table_test(("undecided", "dead"), [(2, True), (3, False)])
def test_attempts_in_flight_of_the_same_time_may_still_be_answered(undecided, dead):
    watch = Watch().answer()
    watch.send(50)  # left before
    watch.fail(4)
    watch.send(undecided)
    watch.fail(4)
    watch.now += 0.01
    watch.send(50)  # left after

    assert watch.is_dead is dead


def chance(failures):
    """A diagnosis after runs of failures that grew to `failures` between two answers."""
    watch = Watch()
    for number in range(failures + 1):
        for _ in range(100):
            watch.fail(number).answer()
    return watch


@table_test(
    ("failures", "longest"),
    [(0, log(0.001) / log(0.4)), (2, log(0.001) / log(2 / 3)), (9, log(0.001) / log(0.85))],
)
def test_frequent_failures_make_a_longer_run_explicable_by_chance(failures, longest):
    watch = chance(failures)

    assert watch.diagnosis.run.max_length == pytest.approx(longest, rel=0.01)
    watch.fail(int(longest))
    assert not watch.is_dead
    assert watch.fail().is_dead


def test_a_run_beyond_chance_does_not_change_the_usual_run():
    watch = chance(1)
    before = watch.diagnosis.run.max_length
    watch.fail(100).answer()

    assert watch.diagnosis.run.max_length == before


def test_the_explicable_run_shrinks_when_failures_become_rare():
    watch = chance(5)
    assert watch.diagnosis.run.max_length > 30
    watch.answer(100)

    assert watch.diagnosis.run.max_length == pytest.approx(log(0.001) / log(0.4))


def test_an_overdue_attempt_that_is_answered_is_no_failure():
    """Of three overdue attempts the second is answered: one failed before it, one may still fail."""
    watch = Watch().know()
    flights = []
    for _ in range(3):
        watch.now += 0.1
        flights += watch.send()
    watch.wait(2.0)
    assert len(watch.diagnosis.run) == 3
    watch.end(flights[1:2])

    assert len(watch.diagnosis.run) == 1
    assert watch.diagnosis.run._usual_length == pytest.approx(0.1)


def test_reading_the_state_checks_for_overdue_attempts():
    watch = Watch().know()
    watch.send(8)
    watch.now += 2.0

    assert watch.is_dead


def test_an_attempt_older_than_usual_counts_once():
    watch = Watch().know()
    hanging = watch.send(8)
    assert not watch.wait(1.29).is_dead
    watch.wait(0.02)
    assert (watch.is_dead, watch.diagnosis.dead_at) == (True, watch.now)
    watch.end(hanging, TIMEOUT)

    assert len(watch.diagnosis.run) == 8


def test_a_target_is_not_dead_if_some_attempts_hang_beside_answers():
    watch = Watch().know()
    for _ in range(200):
        watch.send(5)
        watch.answer(took=1.0)
        assert not watch.is_dead

    assert watch.diagnosis.late_at == -inf
    assert watch.cause is Cause.BAD_LUCK or watch.cause is Cause.NONE


def test_a_hanging_attempt_does_not_count_before_a_baseline_exists():
    watch = Watch()
    watch.send(100)

    assert not watch.wait(1_000.0).is_dead


def test_a_begun_stream_and_a_plain_call_beside_streams_are_not_overdue():
    watch = Watch().know(streams=True)
    begun, _ = watch.send(20, streams=True), watch.send(20)
    watch.wait(0.3)
    watch.first(begun)
    assert not watch.wait(20.0).is_dead
    watch.send(8, streams=True)

    assert watch.wait(0.6).is_dead


@table_test(
    "outcome", [THROTTLED, retry_in(3.0), INVALID, CANCELLED, TIMEOUT._replace(own_deadline=True)]
)
def test_other_outcomes_neither_extend_nor_end_the_run(outcome):
    watch = Watch().fail(7).fail(50, outcome)
    assert not watch.is_dead

    assert watch.fail().is_dead


def test_a_verdict_that_the_policy_counts_as_a_failure_extends_the_run():
    as_failure = TREATMENTS[Verdict.THROTTLED]._replace(tally=Tally.FAILURE)

    assert Watch({**TREATMENTS, Verdict.THROTTLED: as_failure}).fail(8, THROTTLED).is_dead


def test_a_run_can_be_restarted():
    watch = Watch().fail(9)
    watch.diagnosis.run.start()
    assert not watch.is_dead
    assert not watch.fail(7).is_dead

    assert watch.fail().is_dead


def test_memory_for_runs_is_bounded():
    watch = Watch()
    watch.send(3_000)
    watch.fail(3_000)

    assert len(watch.diagnosis.run) == 256
    assert len(watch.diagnosis._watched) == 1_024


@table_test("share", [0.3, 0.5, 0.7])
def test_random_failures_are_hardly_ever_taken_for_death(share):
    watch, random, dead = Watch(), Random(7), 0
    for _ in range(3_000):
        if random.random() < share:
            watch.fail()
        else:
            watch.answer()
        dead += watch.is_dead

    assert dead <= 30
