from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, TIMEOUT
from table_test import table_test

from stormbreak.core.gate import InFlight
from stormbreak.core.latency_baseline import BLOCK, KEPT, LatencyBaseline
from stormbreak.types import CANCELLED

NEVER = -inf


class Line:
    """A baseline, and attempts that are sent and landed by hand."""

    def __init__(self, *, streams=False):
        self.baseline = LatencyBaseline(streams=streams)

    def send(self, count, at=0.0):
        flights = [InFlight(at) for _ in range(count)]
        for flight in flights:
            self.baseline.on_send(flight)
        return flights

    def land(self, flights, at, outcome=OK, evidence_at=NEVER):
        for flight in flights:
            flight.complete(outcome)
            self.baseline.on_completion(flight, at, evidence_at)

    def blocks(self, count, took, at=0.0, evidence_at=NEVER):
        """So many full blocks, each attempt of which took so long."""
        for number in range(count):
            sent_at = at + number
            self.land(self.send(BLOCK, sent_at), sent_at + took, evidence_at=evidence_at)


def test_nothing_is_usual_at_first():
    baseline = LatencyBaseline()

    assert (baseline.usual, baseline.mean, baseline.streams) == (None, None, False)


def test_the_mean_is_rounded_once():
    """Python 3.12 adds floats otherwise than 3.11 does; a simulation must be the same on both."""
    line = Line()
    line.land(line.send(BLOCK), 0.1)
    first = line.baseline.mean
    line.land(line.send(BLOCK), 0.1)

    assert (first, line.baseline.mean) == (0.1, 0.1)


def test_two_blocks_are_enough_one_is_not():
    line = Line()
    line.blocks(1, took=2.0)
    assert (line.baseline.usual, line.baseline.mean) == (None, 2.0)
    line.blocks(1, took=2.0, at=5.0)

    assert line.baseline.mean == pytest.approx(2.0)
    assert line.baseline.usual == pytest.approx(2.6)  # 1.3 times the median


@table_test(("answered", "enough"), [(9, False), (10, True)])
def test_twenty_answers_are_enough(answered, enough):
    line = Line()
    for at in range(2):
        flights = line.send(BLOCK, at)
        line.land(flights[answered:], at + 0.1, SERVER_ERROR)
        line.land(flights[:answered], at + 2.0)

    assert (line.baseline.usual is not None) is enough


def test_what_is_usual_is_a_third_above_the_middle_one():
    line = Line()
    for at in range(2):
        flights = line.send(BLOCK, at)
        line.land(flights[:6], at + 1.0)
        line.land(flights[6:], at + 2.0)

    assert line.baseline.usual == pytest.approx(2.6)  # more than half took two seconds


def test_of_short_answers_a_quarter_of_a_second_more_is_usual():
    line = Line()
    line.blocks(3, took=0.1)

    assert line.baseline.usual == pytest.approx(0.35)


def test_of_uneven_answers_the_upper_quartile_is_usual():
    line = Line()
    for at in range(2):
        flights = line.send(BLOCK, at)
        for number, flight in enumerate(flights):
            line.land([flight], at + 1.0 + number)

    assert line.baseline.usual == pytest.approx(13.0)
    assert line.baseline.mean == pytest.approx(8.5)


def test_a_block_counts_when_all_of_it_has_ended_and_in_the_order_of_sending():
    line = Line()
    first = line.send(2 * BLOCK)
    line.land(first[:15] + first[16:31], 0.1)  # the shortest of the burst: one of each block hangs
    assert line.baseline.usual is None
    line.land([first[15], first[31]], 60.0)

    assert line.baseline.usual is not None
    assert line.baseline.mean == pytest.approx((30 * 0.1 + 2 * 60.0) / 32)


def test_one_that_hangs_holds_back_its_own_block_and_nothing_else():
    line = Line()
    line.land(line.send(BLOCK)[1:], 2.0)
    line.blocks(2, took=2.0, at=1.0)

    assert line.baseline.mean == pytest.approx(2.0)


@table_test("outcome", [SERVER_ERROR, CANCELLED, TIMEOUT._replace(own_deadline=True)])
def test_what_was_refused_or_cut_gives_no_sample(outcome):
    line = Line()
    for at in range(3):
        flights = line.send(BLOCK, at)
        line.land(flights[:8], at + 9.0, outcome)
        line.land(flights[8:], at + 2.0)

    assert line.baseline.mean == pytest.approx(2.0)


def test_a_block_of_mostly_refusals_is_dropped():
    line = Line()
    for at in range(9):
        flights = line.send(BLOCK, at)
        line.land(flights[:9], at + 0.1, SERVER_ERROR)
        line.land(flights[9:], at + 2.0)

    assert line.baseline.usual is None


def test_timeouts_are_samples():
    line = Line()
    for at in range(2):
        line.land(line.send(BLOCK, at), at + 30.0, TIMEOUT)

    assert line.baseline.mean == pytest.approx(30.0)


def test_a_block_beside_evidence_is_dropped():
    line = Line()
    line.blocks(2, took=2.0)
    line.blocks(4, took=20.0, at=50.0, evidence_at=48.0)  # within 5 s of its opening

    assert line.baseline.mean == pytest.approx(2.0)
    line.blocks(4, took=3.0, at=110.0, evidence_at=48.0)
    assert line.baseline.mean > 2.0


@table_test(("opened_at", "counts"), [(51.0, False), (51.1, True)])
def test_a_block_that_opens_five_seconds_after_evidence_is_beside_it(opened_at, counts):
    line = Line()
    line.blocks(2, took=2.0)
    line.blocks(1, took=3.0, at=opened_at, evidence_at=46.0)

    assert (line.baseline.mean > 2.0) is counts


def test_evidence_from_before_the_first_output_attempt_spoils_no_block():
    line = Line()
    line.blocks(2, took=2.0, at=1_000.0, evidence_at=500.0)

    assert line.baseline.usual is not None


def test_what_is_usual_is_never_learned_beside_evidence_however_long_it_lasts():
    line = Line()
    line.blocks(2, took=2.0)
    line.blocks(4 * KEPT, took=8.0, at=50.0, evidence_at=1_000.0)

    assert line.baseline.mean == pytest.approx(2.0)


def test_it_learns_from_given_samples_and_rolls_back():
    line = Line()
    line.blocks(2, took=2.0)
    line.baseline.restart([7.0, 8.0, 9.0])
    assert (line.baseline.mean, line.baseline.median) == (8.0, 8.0)
    line.blocks(2, took=8.0, at=50.0)
    line.baseline.roll_back()
    assert (line.baseline.mean, line.baseline.median) == (2.0, 2.0)
    line.blocks(2, took=3.0, at=100.0)

    assert line.baseline.mean == pytest.approx(2.5)


def test_who_begins_in_a_storm_takes_it_for_usual_after_two_minutes_not_at_once():
    line = Line()
    line.blocks(10, took=8.0, at=1_000.0, evidence_at=1_010.0)
    assert line.baseline.usual is None
    line.blocks(2, took=8.0, at=1_115.0, evidence_at=1_115.0)

    assert line.baseline.mean == pytest.approx(8.0)
    assert line.baseline.usual is not None


def test_an_opinion_is_formed_four_times_a_second_at_most():
    line = Line()
    line.blocks(2, took=2.0)  # learned when the second ended, at 3.0
    line.land(line.send(BLOCK, 1.1), 3.2)
    assert line.baseline.mean == pytest.approx(2.0)
    line.land(line.send(BLOCK, 1.1), 3.25)

    assert line.baseline.mean > 2.0


def test_old_blocks_are_forgotten():
    line = Line()
    line.blocks(4, took=2.0)
    line.blocks(16, took=3.0, at=10.0)

    assert line.baseline.mean == pytest.approx(3.0)


def test_with_first_outputs_known_they_are_what_is_usual():
    line = Line(streams=True)
    for at in range(2):
        flights = line.send(BLOCK, at)
        for flight in flights:
            flight.first_output_at = at + 0.5
        line.land(flights, at + 4.0)

    assert line.baseline.usual == pytest.approx(0.75)
    assert line.baseline.mean == pytest.approx(4.0)


def test_other_first_outputs_that_become_usual_leave_the_mean_that_of_whole_answers():
    line = Line(streams=True)
    for at in (0, 1, 100):
        if at == 100:
            line.baseline.restart([1.5] * 256)
        flights = line.send(BLOCK, at)
        for flight in flights:
            flight.first_output_at = at + 0.5
        line.land(flights, at + 4.0)

    assert line.baseline.mean == pytest.approx(4.0)


def test_of_uneven_first_outputs_nine_in_ten_are_usual():
    line = Line(streams=True)
    for at in range(2):
        flights = line.send(BLOCK, at)
        for number, flight in enumerate(flights):
            flight.first_output_at = at + 1.0 + number
        line.land(flights, at + 40.0)

    assert line.baseline.usual == pytest.approx(15.0)


@table_test(("streams", "first_output_at"), [(False, 0.5), (True, None)])
def test_without_first_outputs_whole_answers_are_what_is_usual(streams, first_output_at):
    """Nobody asks for them, or the answer came in one piece."""
    line = Line(streams=streams)
    for at in range(2):
        flights = line.send(BLOCK, at)
        for flight in flights:
            flight.first_output_at = None if first_output_at is None else at + first_output_at
        line.land(flights, at + 4.0)

    assert line.baseline.usual == pytest.approx(5.2)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0.0, 100.0)), max_size=200))
def test_in_whichever_order_they_end_little_is_kept(steps):
    line, flying, now = Line(), [], 0.0
    for which, pause in steps:
        now += pause
        flying += line.send(7, now)
        line.land([flying.pop(which % len(flying))], now)

    kept = [sample for block in line.baseline._kept for sample in block.samples]
    assert len(kept) <= KEPT * BLOCK
    assert len({id(flight.block) for flight in flying} | {id(line.baseline._filling)}) <= 1 + len(
        flying
    )
