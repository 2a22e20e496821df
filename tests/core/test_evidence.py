from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT

from stormbreak.core.evidence import TOP_FIRST, TOP_TOTAL, Evidence
from stormbreak.core.flight import Flight, Landing
from stormbreak.types import CANCELLED

USUAL = 2.0


class Court:
    """Evidence, and attempts that are sent and landed by hand."""

    def __init__(self, *, streams=False):
        self.evidence = Evidence()
        self.streams = streams

    def send(self, at, count=1, usual=USUAL):
        flights = [Flight(at) for _ in range(count)]
        for flight in flights:
            self.evidence.sent(flight, usual)
        return flights

    def vote(self, now, usual=USUAL):
        self.evidence.vote(now, usual, streams=self.streams)


def test_there_is_none_at_first():
    assert (Evidence().at, Evidence().late_at, Evidence().votes_at) == (-inf, -inf, inf)


@pytest.mark.parametrize(("streams", "top"), [(False, TOP_TOTAL), (True, TOP_FIRST)])
def test_so_many_hung_calls_are_evidence_when_they_reach_the_usual_age(streams, top):
    court = Court(streams=streams)
    court.send(10.0, top - 1)
    court.vote(50.0)
    assert court.evidence.at == -inf
    court.send(50.0)
    court.vote(51.9)
    assert court.evidence.at == -inf
    court.vote(52.0)

    assert court.evidence.at == court.evidence.late_at == 52.0


def test_each_votes_once():
    court = Court()
    court.send(0.0, TOP_TOTAL - 1)
    for second in range(100):
        court.vote(2.0 + second)

    assert court.evidence.at == -inf


def test_when_the_next_has_a_vote():
    court = Court()
    court.send(1.0)
    court.send(5.0)
    assert court.evidence.votes_at == 3.0
    court.vote(3.0)
    assert court.evidence.votes_at == 7.0
    court.vote(7.0)
    assert court.evidence.votes_at == inf


def test_who_left_before_anything_was_usual_does_not_vote():
    court = Court()
    court.send(0.0, 3 * TOP_TOTAL, usual=None)
    court.vote(100.0)

    assert court.evidence.at == -inf


@pytest.mark.parametrize("took", [0.1, 5.0])
@pytest.mark.parametrize(
    "outcome", [THROTTLED, SERVER_ERROR, CANCELLED, TIMEOUT._replace(own_deadline=True)]
)
def test_what_was_refused_or_cut_does_not_vote(outcome, took):
    court = Court()
    court.send(0.0, TOP_TOTAL - 1)
    for flight in court.send(0.0, 3 * TOP_TOTAL):
        flight.land(outcome, took)
    court.vote(9.0)
    assert court.evidence.late_at == -inf
    court.send(9.0)
    court.vote(11.0)

    assert court.evidence.late_at == 11.0  # the first and this one


def test_what_takes_exactly_as_long_as_is_usual_is_in_time():
    court = Court()
    for flight in court.send(0.0, TOP_TOTAL):
        flight.land(OK, 2.0)
    court.vote(2.0)

    assert court.evidence.late_at == -inf


def test_a_short_timeout_is_late():
    court = Court()
    for flight in court.send(0.0, TOP_TOTAL):
        flight.land(TIMEOUT, 1.0)
    court.vote(2.0)

    assert court.evidence.late_at == 2.0


def test_the_score_is_bounded_both_ways():
    court = Court()
    for flight in court.send(0.0, 100):
        flight.land(OK, 1.0)
    court.vote(2.0)
    court.send(2.0, TOP_TOTAL)  # a hundred in time are no credit
    court.vote(4.0)
    assert court.evidence.late_at == 4.0
    court.send(4.0, 100)
    court.vote(6.0)
    for flight in court.send(6.0, TOP_TOTAL):  # nor a hundred late ones a debt
        flight.land(OK, 7.0)
    court.vote(8.0)
    court.send(8.0, TOP_TOTAL - 1)
    court.vote(10.0)

    assert court.evidence.late_at == 6.0


def test_as_many_in_time_as_late_are_no_evidence():
    court = Court()
    for second in range(100):
        (answered, _) = court.send(second, 2)
        answered.land(OK, second + 1)
    court.vote(200.0)

    assert court.evidence.at == -inf


def test_with_first_outputs_known_the_end_does_not_matter():
    court = Court(streams=True)
    for number, flight in enumerate(court.send(0.0, 50)):
        flight.first_at = 1.0
        if number < 25:
            flight.land(OK, 50.0)
    court.vote(60.0)
    assert court.evidence.at == -inf
    for flight in court.send(60.0, TOP_FIRST):
        flight.first_at = 62.5
    court.vote(63.0)

    assert court.evidence.late_at == 63.0


def test_starting_over_forgets_who_was_to_vote():
    court = Court()
    court.send(0.0, TOP_TOTAL - 1)
    court.vote(2.0)
    court.send(2.0, 50)
    court.evidence.start_over()
    assert court.evidence.votes_at == inf
    court.vote(90.0)
    court.send(90.0, TOP_TOTAL - 1)
    court.vote(92.0)

    assert court.evidence.at == -inf


def test_no_more_than_so_many_wait_to_vote():
    court = Court()
    court.send(0.0, 3_000)

    assert len(court.evidence._voters) == 1_024


def landed(evidence, landing, now, usual=USUAL):
    """An attempt that was sent, and ends so."""
    flight = Flight(now)
    evidence.sent(flight, usual)
    flight.landing = landing
    evidence.landed(flight, now)


def share(failures, of):
    """The errors of a long mix with that share; when they were evidence."""
    evidence = Evidence()
    for number in range(50 * of):
        failed = number % of < failures
        landed(evidence, Landing.REFUSED if failed else Landing.ANSWERED, float(number))
    return evidence.at


def test_a_share_of_errors_of_more_than_a_third_is_evidence():
    assert share(1, 3) == -inf
    assert share(3, 10) == -inf
    assert share(4, 10) > 0


def test_five_errors_in_a_row_are_evidence_and_two_stand_out():
    evidence = Evidence()
    for second in range(4):
        landed(evidence, (Landing.REFUSED, Landing.LATE)[second % 2], float(second))
    assert (evidence.at, evidence.errors_at) == (-inf, 3.0)
    landed(evidence, Landing.CUT, 4.0)
    assert evidence.at == -inf
    landed(evidence, Landing.REFUSED, 5.0)

    assert (evidence.at, evidence.errors_at, evidence.late_at) == (5.0, 5.0, -inf)


def test_at_a_cold_start_attempts_under_way_speak_against_failures():
    """Refusals come at once, answers later: ten of thirty refused are no evidence while twenty are awaited."""
    evidence = Evidence()
    awaited = [Flight(0.0) for _ in range(20)]
    for flight in awaited:
        evidence.sent(flight, None)
    for _ in range(10):
        landed(evidence, Landing.REFUSED, 0.1, usual=None)
    assert (evidence.at, evidence.errors_at) == (-inf, -inf)
    for flight in awaited:
        flight.landing = Landing.REFUSED
        evidence.landed(flight, 0.2)

    assert (evidence.at, evidence.errors_at) == (0.2, 0.2)


def test_at_a_cold_start_fifteen_failures_outweigh_twenty_under_way():
    evidence = Evidence()
    for _ in range(20):
        evidence.sent(Flight(0.0), None)
    for number in range(15):
        assert evidence.at == -inf
        landed(evidence, Landing.REFUSED, 1.0 + number, usual=None)

    assert evidence.at == 15.0


def test_two_errors_stand_out_unless_the_first_was_forgiven():
    evidence = Evidence()
    for second, landing in enumerate([Landing.REFUSED, *[Landing.ANSWERED] * 3, Landing.REFUSED]):
        landed(evidence, landing, float(second))
    assert evidence.errors_at == -inf
    landed(evidence, Landing.REFUSED, 5.0)

    assert evidence.errors_at == 5.0


def test_one_error_does_not_stand_out():
    evidence = Evidence()
    landed(evidence, Landing.REFUSED, 1.0)

    assert evidence.errors_at == -inf


def test_whoever_has_waited_for_more_than_a_second_is_evidence():
    evidence = Evidence()
    evidence.waited(1.0, 5.0)
    assert evidence.at == -inf
    evidence.waited(1.1, 6.0)

    assert (evidence.at, evidence.late_at) == (6.0, -inf)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.sampled_from(Landing)), max_size=200))
def test_scores_stay_in_bounds_and_evidence_is_never_of_the_future(steps):
    court, now = Court(), 0.0
    for pause, landing in steps:
        now += pause
        (flight,) = court.send(now)
        flight.landing, flight.ended_at = landing, now + pause
        court.vote(now)
        court.evidence.landed(flight, now)

        assert 0 <= court.evidence._late <= TOP_TOTAL
        assert 0.0 <= court.evidence._errors <= 5.0
        assert court.evidence.at <= now
