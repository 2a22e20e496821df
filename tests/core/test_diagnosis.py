"""What kind of trouble it is, from the answers of one target."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT, told
from table_test import table_test
from watch import Watch

from stormbreak.core.diagnosis import TOP_FIRST, TOP_TOTAL, Cause, Diagnosis
from stormbreak.core.failure_evidence import REMEMBERED
from stormbreak.core.gate import READY
from stormbreak.types import CANCELLED, TREATMENTS, Outcome, Tally, Verdict

USUAL = 1.3  # of answers that take a second
FIRST = 0.55  # of first outputs after 0.3 s


def test_nothing_is_known_at_first():
    watch = Watch()
    diagnosis = watch.diagnosis

    assert diagnosis.ready_at(None, 0.0) == READY
    assert (diagnosis.late_at, diagnosis.dead_at, diagnosis.throttled_at) == (-inf, -inf, -inf)
    assert (watch.cause, watch.is_dead, watch.is_healthy) == (Cause.NONE, False, False)
    assert not diagnosis.is_overtaken(watch.now)


# ------------------------------------------------------------ lateness


@table_test(("streams", "top"), [(False, 8), (True, 5)])
def test_so_many_late_answers_in_excess_are_evidence(streams, top):
    watch = Watch().know(streams=streams)
    watch.late(top - 1, streams=streams)
    assert watch.diagnosis.late_at == -inf
    watch.late(1, streams=streams)

    assert watch.diagnosis.late_at == watch.now


def test_what_takes_exactly_as_long_as_is_usual_is_on_time():
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


def test_before_anything_is_usual_nothing_is_late():
    watch = Watch().late(19)

    assert (watch.diagnosis.late_at, watch.is_healthy) == (-inf, True)


def test_as_many_on_time_as_late_are_no_evidence():
    watch = Watch().know()
    for _ in range(100):
        watch.late(1).answer(1)

    assert watch.diagnosis.late_at == -inf


def test_the_score_is_bounded_both_ways():
    watch = Watch().know().answer(100).late(TOP_TOTAL)  # a hundred on time are no credit
    assert watch.diagnosis.late_at == watch.now
    evidence_at = watch.late(100).now
    watch.answer(TOP_TOTAL).late(TOP_TOTAL - 1)  # nor a hundred late ones a debt

    assert watch.diagnosis.late_at == evidence_at


@table_test("outcome", [None, TIMEOUT, SERVER_ERROR, THROTTLED, CANCELLED])
def test_what_is_not_answered_has_no_vote(outcome):
    """An attempt that hangs, or fails late, says nothing of those that are served."""
    watch = Watch().know()
    flights = watch.send(100)
    watch.wait(50.0)
    if outcome is not None:
        watch.end(flights, outcome)

    assert watch.diagnosis.late_at == -inf


def test_where_first_outputs_are_known_the_end_does_not_matter():
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
def test_a_first_output_counts_once_and_not_after_the_end_and_not_where_nothing_streams(outcome):
    watch = Watch()
    one, two = watch.send(2, streams=True)
    watch.first([one, one])
    watch.end([two], outcome)
    watch.first([two, *watch.send(3)])
    assert watch.diagnosis._first_output_estimate.serving == 1
    watch.end([one], outcome)

    assert watch.diagnosis._first_output_estimate.serving == 0


def test_beside_streams_whole_answers_have_no_vote():
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
def test_what_may_have_waited_for_this_process_is_not_late(streams, at_first, at_end, late):
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
def test_streams_are_the_judges_until_none_has_left_for_two_minutes(age, streams):
    watch = Watch().know(streams=True)
    left_at = watch.now
    watch.send(1, streams=True)
    watch.diagnosis.look(left_at + age)

    assert watch.diagnosis.judge.streams is streams


def test_with_another_judge_scores_and_runs_begin_anew():
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


# ------------------------------------------------------------ well, overtaken, cause


def test_one_answer_shows_that_all_is_well_for_three_minutes():
    watch = Watch().answer()
    assert watch.is_healthy
    assert watch.wait(180.0).is_healthy

    assert not watch.wait(0.1).is_healthy


def test_failures_beside_answers_on_time_change_nothing():
    watch = Watch().answer().fail(7)
    assert watch.is_healthy

    assert not watch.fail().is_healthy  # it is dead


def test_attempts_that_hang_are_trouble_though_nobody_has_looked():
    watch = Watch().know()
    watch.send(8)
    watch.now += 50.0

    assert not watch.is_healthy


def test_where_most_answers_are_late_it_is_not_well():
    watch = Watch().know().late(6)
    assert watch.is_healthy
    watch.late(1)  # 1 - 0.9 ** 7 is more than a half
    assert not watch.is_healthy

    assert watch.answer().is_healthy


def test_who_left_before_one_that_was_answered_on_time_is_overtaken():
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
def test_timeouts_are_luck_if_one_that_left_meanwhile_is_answered_in_less_than_half_their_time(
    sent_after, took, luck
):
    watch = timed_out(Watch())
    watch.now += sent_after
    flights = watch.send()
    watch.now += took
    watch.end(flights)

    assert watch.diagnosis.timeouts.are_luck(watch.now) is luck


@table_test(("took", "luck"), [(None, False), (1.0, True), (2.0, False)])
def test_timeouts_are_luck_if_one_that_left_later_was_answered_before_in_less_than_half_their_time(
    took, luck
):
    watch = Watch()
    early, began_at = watch.send(), watch.now
    if took:
        watch.answer(took=took)
    watch.now = began_at + 3.0
    watch.end(early, TIMEOUT)

    assert watch.diagnosis.timeouts.are_luck(watch.now) is luck


def test_that_timeouts_are_luck_is_known_for_some_minutes_or_until_an_answer_is_late():
    watch = Watch().know()
    early = watch.send()
    watch.answer().wait(3.0).end(early, TIMEOUT)
    now = watch.now

    assert watch.diagnosis.timeouts.are_luck(now + REMEMBERED)
    assert not watch.diagnosis.timeouts.are_luck(now + REMEMBERED + 0.1)
    assert not watch.late(1).diagnosis.timeouts.are_luck(now)


@table_test(("took", "luck"), [(0.9, True), (1.2, False)])
def test_timeouts_are_luck_no_more_once_an_answer_takes_half_their_time_though_it_is_on_time(
    took, luck
):
    watch = Watch().know()
    early = watch.send()
    watch.answer()
    watch.now += 1.89
    watch.end(early, TIMEOUT)
    assert watch.diagnosis.timeouts.are_luck(watch.now)

    assert watch.answer(took=took).diagnosis.timeouts.are_luck(watch.now) is luck


@table_test(("later", "luck"), [(False, False), (True, True)])
def test_a_stream_shows_that_timeouts_are_luck_only_if_it_left_after_them(later, luck):
    """However long it lasts: it counts when it ends, by the time of its first output."""
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


def test_overload_lasts_until_most_answers_are_on_time_and_for_ten_seconds_at_least():
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


def test_429s_that_have_proved_to_be_luck_are_no_evidence():
    diagnosis = Diagnosis(TREATMENTS, is_random=lambda now: now >= 5.0)
    for now in (4.0, 6.0):
        diagnosis.settle(diagnosis.take(None, now), THROTTLED, now, 0.5)

    assert diagnosis.throttled_at == 4.0


@table_test("outcome", [OK, TIMEOUT, CANCELLED])
def test_lost_is_what_is_overdue_and_overtaken(outcome):
    watch = Watch().know()
    early = watch.send()
    watch.answer()
    assert watch.diagnosis.lost == 0  # not overdue
    assert watch.wait(2.0).diagnosis.lost == 1
    watch.send()
    assert watch.wait(2.0).diagnosis.lost == 1  # nobody overtook the later one
    watch.end(early, outcome)

    assert watch.diagnosis.lost == 0


def test_what_is_overdue_is_lost_while_the_circuit_sets_the_pace_unless_most_answers_were_late():
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


def test_an_attempt_is_passed_by_one_that_left_later_and_was_answered_late_or_not():
    watch = Watch().know()
    early = watch.now
    watch.now += 0.1
    sent_at = watch.now
    watch.late(1)

    assert watch.diagnosis.is_passed(early)
    assert not watch.diagnosis.is_passed(sent_at)


def test_a_stream_that_is_late_and_then_begins_is_not_lost():
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
def test_after_late_answers_timeouts_are_a_matter_of_the_limit_and_quick_failures_are_death(
    limited,
):
    slow, quick = (Watch(limited=limited).know().late(20) for _ in range(2))

    assert slow.fail(8, TIMEOUT).is_dead is not limited
    assert not quick.fail(7).late(1).fail(7).is_dead  # an answer ends the run
    assert quick.fail(1).is_dead
    hung = Watch(limited=limited).know().late(20)
    hung.send(8)
    assert hung.wait(5.0).is_dead is not limited


def test_timeouts_are_death_again_when_the_late_answers_are_half_a_minute_old():
    watch = Watch(limited=True).know().late(20).fail(8, TIMEOUT)
    assert not watch.wait(29.0).is_dead

    assert watch.wait(1.0).is_dead


def test_ended_attempts_are_not_watched():
    watch = Watch()
    for _ in range(100):
        watch.end(watch.send())

    assert len(watch.diagnosis._watched) <= 1


def test_the_cause_is_death_before_anything_else():
    assert Watch().know().late(TOP_TOTAL).fail(8).cause is Cause.DEAD


def test_however_much_failed_before_the_cause_is_none_after_as_many_answers():
    assert Watch().fail(100).answer(21).cause is Cause.BAD_LUCK

    assert Watch().fail(100).answer(22).cause is Cause.NONE  # 0.9 ** 22 is less than a tenth


def test_answers_prove_what_is_served_at_once():
    """Nine a second, of a tenth of a second each; before that is known to be the mean."""
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
def test_an_answer_that_is_cut_proves_the_part_of_it_that_was_served(outcome, proven):
    watch = Watch().answer(27)
    for _ in range(100):  # nine a second, of half the usual time
        flights = watch.send()
        watch.now += 0.05
        watch.end(flights, outcome)
        watch.now += 0.06

    assert watch.diagnosis.proven(watch.now, late=False) == pytest.approx(proven, rel=0.2)


@table_test("streams", [False, True])
@table_test("outcome", [OK, SERVER_ERROR])
def test_what_is_usual_is_known_once_the_last_has_ended_well_or_not(streams, outcome):
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
def test_once_it_is_known_what_is_usual_the_next_look_is_at_once(outcome):
    watch = Watch()
    flights = watch.send(33)
    watch.wait(0.9)
    watch.now += 0.1
    watch.end(flights[:31])
    assert watch.diagnosis.look_at > watch.now
    watch.end(flights[31:32], outcome)

    assert watch.diagnosis.look_at <= watch.now


def test_the_next_look_is_when_the_first_of_those_under_way_is_older_than_usual():
    watch = Watch().answer(32).wait(1.0)
    first = watch.now
    watch.send()
    watch.now += 0.2
    watch.send()

    assert watch.diagnosis.look_at == first + watch.diagnosis.judge.usual


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
def test_it_hangs_if_the_last_attempt_that_ended_timed_out(outcomes, hangs):
    watch = Watch()
    for outcome in outcomes:
        watch.fail(1, outcome)

    assert watch.diagnosis.hangs is hangs


def test_failures_stand_out_when_a_third_fails():
    watch = Watch().fail(3)
    assert watch.diagnosis.failed_at == -inf
    watch.fail()

    assert watch.diagnosis.failed_at == watch.now


@table_test("outcome", [THROTTLED, told(3.0)])
def test_a_429_is_remembered(outcome):
    watch = Watch().fail(1, outcome)

    assert watch.diagnosis.throttled_at == watch.now


def test_a_429_beside_which_most_are_served_is_that_of_one_and_not_of_all():
    """All that left between a refused attempt and the word of it had the same chance."""
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


def test_and_is_then_no_sign_that_all_must_wait():
    watch = Watch()
    burst = watch.send(42)
    watch.now += 0.1
    watch.end(burst[:1], THROTTLED)
    refused_at = watch.now
    watch.now += 1.0
    watch.end(burst[2:])
    watch.end(burst[1:2], THROTTLED)

    assert watch.diagnosis.throttled_at == refused_at


def test_who_left_before_a_refused_one_or_knew_of_it_says_nothing():
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


def test_where_all_beside_a_429_are_refused_it_is_that_of_all():
    watch = Watch()
    for _ in range(50):
        watch.fail(1, THROTTLED).answer()
        burst = watch.send(5)
        watch.now += 0.1
        watch.end(burst, THROTTLED)

    assert not watch.diagnosis.refusals.are_random
    assert watch.diagnosis.throttled_at == watch.now


def test_answers_that_are_late_or_come_in_an_outage_do_not_become_usual():
    watch = Watch().know().late(TOP_TOTAL)
    usual = watch.diagnosis.judge.usual
    for _ in range(5):
        watch.late(16)

    assert watch.diagnosis.judge.usual == usual


def test_the_mean_is_that_of_whole_answers():
    assert Watch().diagnosis.mean is None
    assert Watch().know().diagnosis.mean == pytest.approx(1.0)
    assert Watch().know(streams=True).diagnosis.mean == pytest.approx(1.0)
    quiet = Watch().know(streams=True).wait(200.0)
    assert not quiet.diagnosis.judge.streams

    assert quiet.diagnosis.mean == pytest.approx(1.0)


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.sampled_from([OK, OK, SERVER_ERROR, SERVER_ERROR, TIMEOUT, THROTTLED, CANCELLED, Outcome(Verdict.RESET)]),
        st.integers(0, 30),
    ),
    max_size=30,
)  # fmt: skip


@given(STEPS)
def test_the_run_is_of_failures_that_left_after_all_that_were_answered(steps):
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
