"""The health of a target: overtaken, lost and dead attempts, their cause, and random 429s."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test
from watch import Watch

from stormbreak.core.diagnosis import TOP_TOTAL, Cause, Diagnosis
from stormbreak.core.failure_evidence import REMEMBERED
from stormbreak.core.gate import READY
from stormbreak.types import CANCELLED, TREATMENTS, Outcome, Tally, Verdict

USUAL = 1.3  # of answers that take a second


def test_a_new_diagnosis_knows_nothing():
    watch = Watch()
    diagnosis = watch.diagnosis

    assert diagnosis.ready_at(None, 0.0) == READY
    assert (diagnosis.late_at, diagnosis.dead_at, diagnosis.throttled_at) == (-inf, -inf, -inf)
    assert (watch.cause, watch.is_dead, watch.is_healthy) == (Cause.NONE, False, False)
    assert not diagnosis.is_overtaken(watch.now)


def test_one_answer_shows_a_healthy_target_for_three_minutes():
    watch = Watch().answer()
    assert watch.is_healthy
    assert watch.wait(180.0).is_healthy

    assert not watch.wait(0.1).is_healthy


def test_failures_beside_answers_on_time_change_nothing():
    watch = Watch().answer().fail(7)
    assert watch.is_healthy

    assert not watch.fail().is_healthy  # it is dead


def test_hung_attempts_are_unhealthy_without_a_check():
    watch = Watch().know()
    watch.send(8)
    watch.now += 50.0

    assert not watch.is_healthy


def test_a_target_is_unhealthy_if_most_answers_are_late():
    watch = Watch().know().late(6)
    assert watch.is_healthy
    watch.late(1)  # 1 - 0.9 ** 7 is more than a half
    assert not watch.is_healthy

    assert watch.answer().is_healthy


def test_an_attempt_is_overtaken_by_a_later_one_answered_on_time():
    watch = Watch().know().wait(1.0)
    early = watch.now
    watch.late(1)
    assert not watch.diagnosis.is_overtaken(early)
    watch.answer()

    assert watch.diagnosis.is_overtaken(early)
    assert not watch.diagnosis.is_overtaken(watch.now)


def timed_out(watch, *, after=3.0):
    """An attempt that hangs, and left at `now`."""
    hung = watch.send()
    watch.now += after
    watch.end(hung, TIMEOUT)
    return watch


@table_test(
    ("sent_after", "took", "luck"),
    [(0.0, 1.0, True), (0.1, 1.0, False), (0.0, 1.5, False)],
)
def test_a_timeout_is_luck_if_a_later_attempt_is_answered_in_half_its_time(sent_after, took, luck):
    watch = timed_out(Watch())
    watch.now += sent_after
    flights = watch.send()
    watch.now += took
    watch.end(flights)

    assert watch.diagnosis.timeouts.are_luck(watch.now) is luck


@table_test(("took", "luck"), [(None, False), (1.0, True), (2.0, False)])
def test_a_timeout_is_luck_if_a_later_attempt_was_answered_in_half_its_time(took, luck):
    watch = Watch()
    early, began_at = watch.send(), watch.now
    if took:
        watch.answer(took=took)
    watch.now = began_at + 3.0
    watch.end(early, TIMEOUT)

    assert watch.diagnosis.timeouts.are_luck(watch.now) is luck


def test_luck_is_remembered_for_minutes_or_until_an_answer_is_late():
    watch = Watch().know()
    early = watch.send()
    watch.answer().wait(3.0).end(early, TIMEOUT)
    now = watch.now

    assert watch.diagnosis.timeouts.are_luck(now + REMEMBERED)
    assert not watch.diagnosis.timeouts.are_luck(now + REMEMBERED + 0.1)
    assert not watch.late(1).diagnosis.timeouts.are_luck(now)


@table_test(("took", "luck"), [(0.9, True), (1.2, False)])
def test_luck_ends_with_an_answer_that_takes_over_half_the_timeout(took, luck):
    watch = Watch().know()
    early = watch.send()
    watch.answer()
    watch.now += 1.89
    watch.end(early, TIMEOUT)
    assert watch.diagnosis.timeouts.are_luck(watch.now)

    assert watch.answer(took=took).diagnosis.timeouts.are_luck(watch.now) is luck


@table_test(("later", "luck"), [(False, False), (True, True)])
def test_a_stream_shows_luck_only_if_it_left_after_the_timed_out_attempt(later, luck):
    """It counts when it ends, by the time of its first output."""
    watch = Watch().know(streams=True)
    before = watch.send(streams=True)
    watch.now += 0.1
    hung = watch.send()
    watch.now += 0.1
    after = watch.send(streams=True)
    watch.now += 0.1
    watch.first(before + after)
    watch.now += 3.0
    watch.end(hung, TIMEOUT)
    watch.end(after if later else before)

    assert watch.diagnosis.timeouts.are_luck(watch.now) is luck


def test_no_attempt_is_overtaken_while_all_hang():
    watch = Watch().know()
    early = watch.now
    before = watch.send(5)
    watch.now += 0.1
    watch.send(50)
    watch.end(before)

    assert not watch.diagnosis.is_overtaken(early)


def test_the_cause_is_bad_luck_for_a_while_after_a_failure():
    watch = Watch().know()
    assert watch.cause is Cause.NONE
    assert Watch().know().fail(1, THROTTLED).cause is Cause.NONE
    assert watch.fail(2).cause is Cause.BAD_LUCK
    assert watch.answer().cause is Cause.BAD_LUCK

    assert watch.answer(20).cause is Cause.NONE


def test_overload_lasts_ten_seconds_and_until_most_answers_are_on_time():
    watch = Watch().know().late(TOP_TOTAL)
    assert watch.cause is Cause.OVERLOAD
    assert watch.fail(3).wait(20.0).cause is Cause.OVERLOAD
    assert (
        Watch().know().late(TOP_TOTAL).wait(5.0).answer(1).fail(3).wait(4.0).cause is Cause.OVERLOAD
    )

    assert watch.answer(1).fail(3).cause is Cause.OVERLOAD
    assert watch.answer(1).fail(3).cause is Cause.BAD_LUCK


def test_refusals_alone_are_an_overload_until_an_answer():
    watch = Watch().know().wait(11.0)
    assert watch.fail(7, THROTTLED).cause is Cause.BAD_LUCK
    assert watch.fail(1, THROTTLED).cause is Cause.OVERLOAD
    assert Watch().know().fail(8, THROTTLED).cause is Cause.BAD_LUCK  # for less than ten seconds

    assert watch.answer().cause is Cause.BAD_LUCK
    assert watch.wait(11.0).fail(7, THROTTLED).cause is Cause.BAD_LUCK  # they count anew
    assert watch.fail(1, THROTTLED).cause is Cause.OVERLOAD


def test_random_429s_are_no_evidence():
    diagnosis = Diagnosis(TREATMENTS, is_random=lambda now: now >= 5.0)
    for now in (4.0, 6.0):
        diagnosis.settle(diagnosis.take(None, now), THROTTLED, now, 0.5)

    assert diagnosis.throttled_at == 4.0


@table_test("outcome", [OK, TIMEOUT, CANCELLED])
def test_an_overdue_overtaken_attempt_is_lost(outcome):
    watch = Watch().know()
    early = watch.send()
    watch.answer()
    assert watch.diagnosis.lost == 0  # not overdue
    assert watch.wait(2.0).diagnosis.lost == 1
    watch.send()
    assert watch.wait(2.0).diagnosis.lost == 1  # the later one was not overtaken
    watch.end(early, outcome)

    assert watch.diagnosis.lost == 0


def test_an_overdue_probe_is_lost_unless_most_answers_were_late():
    watch = Watch().know()
    watch.end(watch.send())
    sent_at = watch.now
    watch.send()
    assert (watch.diagnosis.lost_after, watch.diagnosis.overdue_at()) == (pytest.approx(USUAL), inf)
    watch.diagnosis.probed = True
    assert watch.diagnosis.overdue_at() == pytest.approx(sent_at + USUAL)
    assert watch.wait(2.0).diagnosis.lost == 1
    watch.late(7)
    assert (watch.diagnosis.lost_after, watch.diagnosis.overdue_at()) == (None, inf)

    assert watch.diagnosis.lost == 0


def test_an_attempt_is_passed_by_any_later_one_with_an_answer():
    watch = Watch().know()
    early = watch.now
    watch.now += 0.1
    sent_at = watch.now
    watch.late(1)

    assert watch.diagnosis.is_passed(early)
    assert not watch.diagnosis.is_passed(sent_at)


def test_a_late_stream_that_begins_is_not_lost():
    watch = Watch().know(streams=True)
    late = watch.send(streams=True)
    watch.wait(2.0)
    watch.first(watch.send(streams=True))
    begun = watch.send(streams=True)
    watch.first(begun)
    watch.end(begun)
    watch.now += 0.1
    watch.end(watch.send(streams=True))
    assert watch.diagnosis.lost == 1
    watch.first(late)

    assert watch.diagnosis.lost == 0


@table_test("limited", [False, True])
def test_after_late_answers_timeouts_mean_overload_and_quick_failures_mean_death(
    limited,
):
    slow, quick = (Watch(limited=limited).know().late(20) for _ in range(2))

    assert slow.fail(8, TIMEOUT).is_dead is not limited
    assert not quick.fail(7).late(1).fail(7).is_dead  # an answer ends the run
    assert quick.fail(1).is_dead
    hung = Watch(limited=limited).know().late(20)
    hung.send(8)
    assert hung.wait(5.0).is_dead is not limited


def test_timeouts_mean_death_half_a_minute_after_late_answers():
    watch = Watch(limited=True).know().late(20).fail(8, TIMEOUT)
    assert not watch.wait(29.0).is_dead

    assert watch.wait(1.0).is_dead


def test_ended_attempts_are_not_watched():
    watch = Watch()
    for _ in range(100):
        watch.end(watch.send())

    assert len(watch.diagnosis._watched) <= 1


def test_death_comes_before_any_other_cause():
    assert Watch().know().late(TOP_TOTAL).fail(8).cause is Cause.DEAD


def test_the_cause_is_none_after_22_answers_whatever_failed_before():
    assert Watch().fail(100).answer(21).cause is Cause.BAD_LUCK

    assert Watch().fail(100).answer(22).cause is Cause.NONE  # 0.9 ** 22 is less than a tenth


def test_answers_prove_concurrency_at_once():
    """Nine a second, a tenth of a second each; also before the mean is known."""
    watch = Watch()
    watch.send(15)  # so that no block of sixteen is complete
    watch.answer(1)
    watch.send(15)
    watch.answer(1)
    assert watch.diagnosis.answers == 2
    assert watch.diagnosis.proven(watch.now, late=False) == pytest.approx(0.2, rel=0.01)
    watch = Watch().answer(27)
    assert watch.diagnosis.mean == pytest.approx(0.1)

    assert watch.diagnosis.proven(watch.now, late=False) == pytest.approx(0.9, rel=0.2)


@table_test(("outcome", "proven"), [(Outcome(Verdict.BROKEN), 0.45), (SERVER_ERROR, 0.0)])
def test_a_cut_answer_proves_the_part_that_was_served(outcome, proven):
    watch = Watch().answer(27)
    for _ in range(100):  # nine a second, of half the usual time
        flights = watch.send()
        watch.now += 0.05
        watch.end(flights, outcome)
        watch.now += 0.06

    assert watch.diagnosis.proven(watch.now, late=False) == pytest.approx(proven, rel=0.2)


@table_test("renewed", [False, True])
def test_a_target_is_new_until_its_first_answer_is_half_a_minute_old(renewed):
    watch = Watch()
    assert watch.diagnosis.is_new(watch.now)
    first = watch.answer().now
    watch.now += 10.0
    if renewed:
        watch.answer()

    assert watch.diagnosis.is_new(first + 29.9)
    assert not watch.diagnosis.is_new(first + 30.1)


@table_test(
    ("outcomes", "hangs"),
    [
        ([TIMEOUT], True),
        ([SERVER_ERROR], False),
        ([TIMEOUT, OK], False),
        ([TIMEOUT, SERVER_ERROR], False),
    ],
)
def test_a_target_hangs_if_its_last_ended_attempt_timed_out(outcomes, hangs):
    watch = Watch()
    for outcome in outcomes:
        watch.fail(1, outcome)

    assert watch.diagnosis.hangs is hangs


def test_failures_stand_out_when_a_third_fails():
    watch = Watch().fail(3)
    assert watch.diagnosis.failed_at == -inf
    watch.fail()

    assert watch.diagnosis.failed_at == watch.now


@table_test("outcome", [THROTTLED, retry_in(3.0)])
def test_a_429_is_remembered(outcome):
    watch = Watch().fail(1, outcome)

    assert watch.diagnosis.throttled_at == watch.now


def test_a_429_is_random_if_most_attempts_beside_it_are_served():
    """All attempts that left between a refused attempt and its response had the same chance."""
    watch = Watch()
    burst = watch.send(9)
    watch.now += 0.1
    watch.end(burst[:1], THROTTLED)
    refused_at = watch.now
    watch.now += 1.0
    watch.end(burst[1:7])
    assert not watch.diagnosis.refusals.are_random
    watch.end(burst[7:8])  # 1 - 0.9 ** 7 is more than a half
    assert watch.diagnosis.refusals.are_random
    watch.end(burst[8:], THROTTLED)  # and one that is refused takes a tenth away
    assert watch.diagnosis.throttled_at == watch.now > refused_at
    assert not watch.diagnosis.refusals.are_random


def test_a_random_429_is_no_evidence():
    watch = Watch()
    burst = watch.send(42)
    watch.now += 0.1
    watch.end(burst[:1], THROTTLED)
    refused_at = watch.now
    watch.now += 1.0
    watch.end(burst[2:])
    watch.end(burst[1:2], THROTTLED)

    assert watch.diagnosis.throttled_at == refused_at


def test_attempts_sent_before_a_refused_one_or_after_its_429_do_not_count():
    watch = Watch()
    before = watch.send(20)
    watch.now += 0.1
    refused = watch.send()
    watch.now += 0.1
    watch.end(refused, THROTTLED)
    watch.now += 0.1
    after = watch.send(20)
    watch.now += 1.0
    watch.end(before + after)

    assert not watch.diagnosis.refusals.are_random


def test_a_429_is_not_random_if_all_attempts_beside_it_are_refused():
    watch = Watch()
    for _ in range(50):
        watch.fail(1, THROTTLED).answer()
        burst = watch.send(5)
        watch.now += 0.1
        watch.end(burst, THROTTLED)

    assert not watch.diagnosis.refusals.are_random
    assert watch.diagnosis.throttled_at == watch.now


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.sampled_from([OK, OK, SERVER_ERROR, SERVER_ERROR, TIMEOUT, THROTTLED, CANCELLED, Outcome(Verdict.RESET)]),
        st.integers(0, 30),
    ),
    max_size=30,
)  # fmt: skip


@given(STEPS)
def test_a_run_counts_failures_sent_after_all_answered_attempts(steps):
    watch, flying, answered, failed = Watch(), [], [-inf], []
    for pause, outcome, pick in steps:
        watch.now += pause
        flying += watch.send()
        if pick >= len(flying):
            continue
        flight = flying.pop(pick)
        watch.end([flight], outcome)
        if outcome is OK:
            answered.append(flight.sent_at)
        elif TREATMENTS[outcome.verdict].tally is Tally.FAILURE:
            failed.append(flight.sent_at)

        run = [sent_at for sent_at in failed if sent_at > max(answered)]
        undecided = [f for f in flying if run and min(run) <= f.sent_at <= max(run)]
        assert len(watch.diagnosis.run) == len(run)
        longest = watch.diagnosis.run.max_length
        assert watch.is_dead == (len(run) >= longest and len(undecided) <= len(run) / 4)
        assert 7.5 < longest < 42.6
        assert max(watch.diagnosis.dead_at, watch.diagnosis.late_at) <= watch.now
