"""What kind of trouble it is, from the answers of one target."""

from math import inf, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, told

from stormbreak.core.diagnosis import TOP_FIRST, TOP_TOTAL, Cause, Diagnosis
from stormbreak.core.gate import OPEN
from stormbreak.types import CANCELLED, TREATMENTS, Outcome, Tally, Verdict

USUAL = 1.3  # of answers that take a second
FIRST = 0.55  # of first outputs after 0.3 s


class Watch:
    """A diagnosis with a clock, and attempts that are sent and ended by hand."""

    def __init__(self, treatments=TREATMENTS):
        self.diagnosis = Diagnosis(treatments)
        self.now = 100.0

    def send(self, count=1, *, streams=False):
        take = self.diagnosis.take_streamed if streams else self.diagnosis.take
        return [take(self.now) for _ in range(count)]

    def end(self, flights, outcome=OK):
        for flight in flights:
            self.diagnosis.settle(flight, outcome, self.now, 0.5)

    def first(self, flights):
        for flight in flights:
            self.diagnosis.first(flight, self.now)

    def wait(self, seconds):
        self.now += seconds
        self.diagnosis.look(self.now)
        return self

    def fail(self, count=1, outcome=SERVER_ERROR):
        """So many, one after the other, that fail at once."""
        for _ in range(count):
            self.now += 0.01
            self.end(self.send(), outcome)
        return self

    def answer(self, count=1, *, took=0.1):
        """So many, one after the other."""
        for _ in range(count):
            self.now += 0.01
            flights = self.send()
            self.now += took
            self.end(flights)
        return self

    def know(self, *, streams=False):
        """Learn what is usual: whole answers take a second, and first outputs 0.3 s."""
        flights = self.send(32, streams=streams)
        self.now += 0.3
        self.first(flights)
        self.now += 0.7
        self.end(flights)
        return self.wait(1.0)

    def late(self, count, *, streams=False):
        """Answers that all come late."""
        flights = self.send(count, streams=streams)
        self.now += 2.0
        self.first(flights)
        self.end(flights)
        return self

    @property
    def is_dead(self):
        return self.diagnosis.is_dead(self.now)

    @property
    def is_well(self):
        return self.diagnosis.is_well(self.now)

    @property
    def cause(self):
        return self.diagnosis.cause(self.now)


def test_nothing_is_known_at_first():
    watch = Watch()
    diagnosis = watch.diagnosis

    assert diagnosis.ready_at(0.0) == OPEN
    assert (diagnosis.late_at, diagnosis.dead_at, diagnosis.throttled_at) == (-inf, -inf, -inf)
    assert (watch.cause, watch.is_dead, watch.is_well) == (Cause.NONE, False, False)
    assert not diagnosis.is_overtaken(watch.now)


# ------------------------------------------------------------ lateness


@pytest.mark.parametrize(("streams", "top"), [(False, 8), (True, 5)])
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

    assert (watch.diagnosis.late_at, watch.is_well) == (-inf, True)


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


@pytest.mark.parametrize("outcome", [None, TIMEOUT, SERVER_ERROR, THROTTLED, CANCELLED])
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
    watch.end(watch.send(TOP_FIRST, streams=True))  # in one piece, at once
    assert watch.diagnosis.late_at == -inf
    watch.late(TOP_FIRST, streams=True)

    assert watch.diagnosis.late_at == watch.now


def test_a_first_output_counts_once_and_not_after_the_end_and_not_where_nothing_streams():
    watch = Watch()
    one, two = watch.send(2, streams=True)
    watch.first([one, one])
    watch.end([two])
    watch.first([two, *watch.send(3)])
    assert watch.diagnosis._by_first.serving == 1
    watch.end([one])

    assert watch.diagnosis._by_first.serving == 0


def test_beside_streams_whole_answers_have_no_vote():
    watch = Watch().know(streams=True)
    for _ in range(50):
        watch.send(1, streams=True)  # one has just left
        watch.late(1)

    assert watch.diagnosis.late_at == -inf


@pytest.mark.parametrize(("age", "streams"), [(119.9, True), (120.0, False)])
def test_streams_are_the_judges_until_none_has_left_for_two_minutes(age, streams):
    watch = Watch().know(streams=True)
    left_at = watch.now
    watch.send(1, streams=True)
    watch.diagnosis.look(left_at + age)

    assert watch.diagnosis.judge.streams is streams


def test_with_another_judge_scores_and_runs_begin_anew():
    watch = Watch().know(streams=True).know().wait(200.0)
    watch.late(TOP_TOTAL - 1).fail(7)
    assert (watch.diagnosis._late, watch.diagnosis.failures) == (TOP_TOTAL - 1, 7)
    watch.send(1, streams=True)
    watch.wait(0.1)
    assert watch.diagnosis.judge.streams
    assert (watch.diagnosis._late, watch.diagnosis._late_share, watch.diagnosis.failures) == (
        0,
        0,
        0,
    )


# ------------------------------------------------------------ dead


def test_eight_failures_in_a_row_are_more_than_chance_explains():
    watch = Watch().answer().fail(7)
    assert (watch.is_dead, watch.diagnosis.dead_at, watch.diagnosis.failures) == (False, -inf, 7)
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

    assert (watch.diagnosis.dead_at, watch.diagnosis.failures) == (-inf, 0)


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

    assert (watch.is_dead, watch.diagnosis.failures) == (False, 0)


def test_of_a_cold_burst_failures_come_first_and_answers_later():
    """Refused at once are ten of thirty: nobody knows while twenty are awaited."""
    watch = Watch()
    burst = watch.send(30)
    watch.now += 0.1
    watch.end(burst[:10], SERVER_ERROR)
    assert not watch.is_dead
    watch.now += 2.0
    watch.end(burst[10:11])
    assert watch.diagnosis.failures == 0
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


@pytest.mark.parametrize(("undecided", "dead"), [(2, True), (3, False)])
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


@pytest.mark.parametrize(
    ("failures", "longest"),
    [(0, log(0.001) / log(0.4)), (2, log(0.001) / log(2 / 3)), (9, log(0.001) / log(0.85))],
)
def test_where_more_fail_by_chance_a_longer_run_is_explained(failures, longest):
    watch = chance(failures)

    assert watch.diagnosis.longest_run == pytest.approx(longest, rel=0.01)
    watch.fail(int(longest))
    assert not watch.is_dead
    assert watch.fail().is_dead


def test_a_run_that_chance_did_not_explain_teaches_nothing_of_chance():
    watch = chance(1)
    before = watch.diagnosis.longest_run
    watch.fail(100).answer()

    assert watch.diagnosis.longest_run == before


def test_where_failures_become_rare_what_chance_explains_becomes_less():
    watch = chance(5)
    assert watch.diagnosis.longest_run > 30
    watch.answer(100)

    assert watch.diagnosis.longest_run == pytest.approx(log(0.001) / log(0.4))


def test_who_is_answered_after_all_has_not_failed():
    """Of three that are overdue the second is answered: one failed before it, and one may yet have."""
    watch = Watch().know()
    flights = []
    for _ in range(3):
        watch.now += 0.1
        flights += watch.send()
    watch.wait(2.0)
    assert watch.diagnosis.failures == 3
    watch.end(flights[1:2])

    assert watch.diagnosis.failures == 1
    assert watch.diagnosis._usual_run == pytest.approx(0.1)


def test_whoever_asks_looks_at_the_time():
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

    assert watch.diagnosis.failures == 8


def test_where_a_share_hangs_beside_answers_nothing_is_dead():
    watch = Watch().know()
    for _ in range(200):
        watch.send(5)
        watch.answer(took=1.0)
        assert not watch.is_dead

    assert watch.diagnosis.late_at == -inf
    assert watch.cause is Cause.BAD_LUCK or watch.cause is Cause.NONE


def test_before_anything_is_usual_who_hangs_does_not_count():
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


@pytest.mark.parametrize(
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
    watch.diagnosis.start_run()
    assert not watch.is_dead
    assert not watch.fail(7).is_dead

    assert watch.fail().is_dead


def test_what_is_kept_is_bounded():
    watch = Watch()
    watch.send(3_000)
    watch.fail(3_000)

    assert watch.diagnosis.failures == 256
    assert len(watch.diagnosis._watched) == 1_024


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_bad_luck_is_hardly_ever_taken_for_death(share):
    watch, random, dead = Watch(), Random(7), 0
    for _ in range(3_000):
        if random.random() < share:
            watch.fail()
        else:
            watch.answer()
        dead += watch.is_dead

    assert dead <= 30


# ------------------------------------------------------------ well, overtaken, cause


def test_one_answer_shows_that_all_is_well_for_three_minutes():
    watch = Watch().answer()
    assert watch.is_well
    assert watch.wait(180.0).is_well

    assert not watch.wait(0.1).is_well


def test_failures_beside_answers_on_time_change_nothing():
    watch = Watch().answer().fail(7)
    assert watch.is_well

    assert not watch.fail().is_well  # it is dead


def test_where_most_answers_are_late_it_is_not_well():
    watch = Watch().know().late(6)
    assert watch.is_well
    watch.late(1)  # 1 - 0.9 ** 7 is more than a half
    assert not watch.is_well

    assert watch.answer().is_well


def test_who_left_before_one_that_was_answered_on_time_is_overtaken():
    watch = Watch().know().wait(1.0)
    early = watch.now
    watch.late(1)
    assert not watch.diagnosis.is_overtaken(early)
    watch.answer()

    assert watch.diagnosis.is_overtaken(early)
    assert not watch.diagnosis.is_overtaken(watch.now)


def test_where_all_hang_nobody_is_overtaken():
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
    assert watch.fail(2).cause is Cause.BAD_LUCK
    assert watch.answer().cause is Cause.BAD_LUCK

    assert watch.answer(20).cause is Cause.NONE


def test_overload_lasts_until_an_answer_is_on_time_and_for_ten_seconds_at_least():
    watch = Watch().know().late(TOP_TOTAL)
    assert watch.cause is Cause.OVERLOAD
    assert watch.fail(3).wait(20.0).cause is Cause.OVERLOAD
    assert (
        Watch().know().late(TOP_TOTAL).wait(5.0).answer(1).fail(3).wait(4.0).cause is Cause.OVERLOAD
    )

    assert watch.answer(1).fail(3).cause is Cause.BAD_LUCK


def test_where_everybody_is_refused_it_is_an_overload_until_somebody_is_answered():
    watch = Watch().know().wait(11.0)
    assert watch.fail(7, THROTTLED).cause is Cause.BAD_LUCK
    assert watch.fail(1, THROTTLED).cause is Cause.OVERLOAD

    assert watch.answer().cause is Cause.BAD_LUCK


def test_429s_that_have_proved_to_be_luck_are_no_evidence():
    diagnosis = Diagnosis(TREATMENTS, is_luck=lambda now: now >= 5.0)
    for now in (4.0, 6.0):
        diagnosis.settle(diagnosis.take(now), THROTTLED, now, 0.5)

    assert diagnosis.throttled_at == 4.0


def test_lost_is_what_is_overdue_and_overtaken():
    watch = Watch().know()
    early = watch.send()
    watch.answer()
    assert watch.diagnosis.lost == 0  # not overdue
    assert watch.wait(2.0).diagnosis.lost == 1
    watch.send()
    assert watch.wait(2.0).diagnosis.lost == 1  # nobody overtook the later one
    watch.end(early)

    assert watch.diagnosis.lost == 0


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


def test_failures_stand_out_when_a_third_fails():
    watch = Watch().fail(3)
    assert watch.diagnosis.failed_at == -inf
    watch.fail()

    assert watch.diagnosis.failed_at == watch.now


@pytest.mark.parametrize("outcome", [THROTTLED, told(3.0)])
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
    assert not watch.diagnosis.refuses_some
    watch.end(burst[7:8])  # 1 - 0.9 ** 7 is more than a half
    assert watch.diagnosis.refuses_some
    watch.end(burst[8:], THROTTLED)  # and one that is refused takes a tenth away
    assert watch.diagnosis.throttled_at == watch.now > refused_at
    assert not watch.diagnosis.refuses_some


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

    assert not watch.diagnosis.refuses_some


def test_where_all_beside_a_429_are_refused_it_is_that_of_all():
    watch = Watch()
    for _ in range(50):
        watch.fail(1, THROTTLED).answer()
        burst = watch.send(5)
        watch.now += 0.1
        watch.end(burst, THROTTLED)

    assert not watch.diagnosis.refuses_some
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
        assert watch.diagnosis.failures == len(run)
        longest = watch.diagnosis.longest_run
        assert watch.is_dead == (len(run) >= longest and len(undecided) <= len(run) / 4)
        assert 7.5 < longest < 42.6
        assert max(watch.diagnosis.dead_at, watch.diagnosis.late_at) <= watch.now
