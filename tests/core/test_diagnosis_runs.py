"""When a run of failures is death, and when chance explains it."""

from math import inf, log
from random import Random

import pytest
from stage import INVALID, SERVER_ERROR, THROTTLED, TIMEOUT, told
from table_test import table_test
from watch import Watch

from stormbreak.core.diagnosis import Cause
from stormbreak.types import CANCELLED, TREATMENTS, Tally, Verdict


def test_eight_failures_in_a_row_are_more_than_chance_explains():
    watch = Watch().answer().fail(7)
    assert (watch.is_dead, watch.diagnosis.dead_at, len(watch.diagnosis.run)) == (False, -inf, 7)
    watch.fail()

    assert (watch.is_dead, watch.diagnosis.dead_at) == (True, watch.now)


def test_they_are_at_a_cold_start_too():
    assert not Watch().fail(7).is_dead
    assert Watch().fail(8).is_dead


def test_a_dead_target_is_known_from_cold_though_its_failures_are_slow():
    """Two calls a second, of which each fails after five: ten are always under way."""
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


def test_an_outage_is_known_though_answers_of_before_still_come():
    """With many in flight, answers come for a while to attempts that left before it."""
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


def test_failures_of_attempts_that_left_before_the_last_that_was_answered_do_not_count():
    watch = Watch()
    slow = watch.send(50)
    watch.answer()
    watch.end(slow, TIMEOUT)

    assert (watch.is_dead, len(watch.diagnosis.run)) == (False, 0)


def test_of_a_cold_burst_failures_come_first_and_answers_later():
    """Refused at once are ten of thirty: nobody knows while twenty are awaited."""
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


def test_a_cold_burst_of_failures_alone_is_dead_when_a_quarter_is_undecided_at_most():
    watch = Watch()
    burst = watch.send(30)
    watch.now += 0.1
    watch.end(burst[:23], SERVER_ERROR)
    assert not watch.is_dead  # 7 of 23 and more are undecided
    watch.end(burst[23:24], SERVER_ERROR)

    assert watch.is_dead


@table_test(("undecided", "dead"), [(2, True), (3, False)])
def test_those_of_the_same_time_that_are_under_way_may_still_be_answered(undecided, dead):
    watch = Watch().answer()
    watch.send(50)  # left before
    watch.fail(4)
    watch.send(undecided)
    watch.fail(4)
    watch.now += 0.01
    watch.send(50)  # left after

    assert watch.is_dead is dead


def chance(failures):
    """What is learned where more and more fail between two answers, and at last so many."""
    watch = Watch()
    for number in range(failures + 1):
        for _ in range(100):
            watch.fail(number).answer()
    return watch


@table_test(
    ("failures", "longest"),
    [(0, log(0.001) / log(0.4)), (2, log(0.001) / log(2 / 3)), (9, log(0.001) / log(0.85))],
)
def test_where_more_fail_by_chance_a_longer_run_is_explained(failures, longest):
    watch = chance(failures)

    assert watch.diagnosis.run.max_length == pytest.approx(longest, rel=0.01)
    watch.fail(int(longest))
    assert not watch.is_dead
    assert watch.fail().is_dead


def test_a_run_that_chance_did_not_explain_teaches_nothing_of_chance():
    watch = chance(1)
    before = watch.diagnosis.run.max_length
    watch.fail(100).answer()

    assert watch.diagnosis.run.max_length == before


def test_where_failures_become_rare_what_chance_explains_becomes_less():
    watch = chance(5)
    assert watch.diagnosis.run.max_length > 30
    watch.answer(100)

    assert watch.diagnosis.run.max_length == pytest.approx(log(0.001) / log(0.4))


def test_who_is_answered_after_all_has_not_failed():
    """Of three that are overdue the second is answered: one failed before it, and one may yet have."""
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


def test_every_check_looks_at_the_time():
    watch = Watch().know()
    watch.send(8)
    watch.now += 2.0

    assert watch.is_dead


def test_who_is_older_than_usual_counts_once():
    watch = Watch().know()
    hanging = watch.send(8)
    assert not watch.wait(1.29).is_dead
    watch.wait(0.02)
    assert (watch.is_dead, watch.diagnosis.dead_at) == (True, watch.now)
    watch.end(hanging, TIMEOUT)

    assert len(watch.diagnosis.run) == 8


def test_where_a_share_hangs_beside_answers_nothing_is_dead():
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


def test_a_stream_that_has_begun_is_not_overdue_nor_is_what_does_not_stream():
    watch = Watch().know(streams=True)
    begun, _ = watch.send(20, streams=True), watch.send(20)
    watch.wait(0.3)
    watch.first(begun)
    assert not watch.wait(20.0).is_dead
    watch.send(8, streams=True)

    assert watch.wait(0.6).is_dead


@table_test(
    "outcome", [THROTTLED, told(3.0), INVALID, CANCELLED, TIMEOUT._replace(own_deadline=True)]
)
def test_what_is_no_failure_neither_lengthens_the_run_nor_ends_it(outcome):
    watch = Watch().fail(7).fail(50, outcome)
    assert not watch.is_dead

    assert watch.fail().is_dead


def test_what_a_policy_counts_as_a_failure_counts():
    ill = TREATMENTS[Verdict.THROTTLED]._replace(tally=Tally.FAILURE)

    assert Watch({**TREATMENTS, Verdict.THROTTLED: ill}).fail(8, THROTTLED).is_dead


def test_a_run_can_be_begun_anew():
    watch = Watch().fail(9)
    watch.diagnosis.run.start()
    assert not watch.is_dead
    assert not watch.fail(7).is_dead

    assert watch.fail().is_dead


def test_what_is_kept_is_bounded():
    watch = Watch()
    watch.send(3_000)
    watch.fail(3_000)

    assert len(watch.diagnosis.run) == 256
    assert len(watch.diagnosis._watched) == 1_024


@table_test("share", [0.3, 0.5, 0.7])
def test_bad_luck_is_hardly_ever_taken_for_death(share):
    watch, random, dead = Watch(), Random(7), 0
    for _ in range(3_000):
        if random.random() < share:
            watch.fail()
        else:
            watch.answer()
        dead += watch.is_dead

    assert dead <= 30
