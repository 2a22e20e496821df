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


class BaselineRig:
    """A baseline, and attempts that the test sends and completes."""

    def __init__(self, *, streams=False):
        self.baseline = LatencyBaseline(streams=streams)

    def send(self, count, at=0.0):
        flights = [InFlight(at) for _ in range(count)]
        for flight in flights:
            self.baseline.on_send(flight)
        return flights

    def complete(self, flights, at, outcome=OK, evidence_at=NEVER):
        for flight in flights:
            flight.complete(outcome)
            self.baseline.on_completion(flight, at, evidence_at)

    def blocks(self, count, took, at=0.0, evidence_at=NEVER):
        """`count` full blocks, each attempt of which took `took` seconds."""
        for number in range(count):
            sent_at = at + number
            self.complete(self.send(BLOCK, sent_at), sent_at + took, evidence_at=evidence_at)


def test_a_new_baseline_has_no_usual_time():
    baseline = LatencyBaseline()

    assert (baseline.usual, baseline.mean, baseline.streams) == (None, None, False)


def test_the_mean_is_rounded_once():
    """Python 3.12 sums floats differently from 3.11; a simulation must be the same on both."""
    rig = BaselineRig()
    rig.complete(rig.send(BLOCK), 0.1)
    first = rig.baseline.mean
    rig.complete(rig.send(BLOCK), 0.1)

    assert (first, rig.baseline.mean) == (0.1, 0.1)


def test_a_usual_time_needs_two_blocks():
    rig = BaselineRig()
    rig.blocks(1, took=2.0)
    assert (rig.baseline.usual, rig.baseline.mean) == (None, 2.0)
    rig.blocks(1, took=2.0, at=5.0)

    assert rig.baseline.mean == pytest.approx(2.0)
    assert rig.baseline.usual == pytest.approx(2.6)  # 1.3 times the median


@table_test(("answered", "enough"), [(9, False), (10, True)])
def test_a_usual_time_needs_twenty_answers(answered, enough):
    rig = BaselineRig()
    for at in range(2):
        flights = rig.send(BLOCK, at)
        rig.complete(flights[answered:], at + 0.1, SERVER_ERROR)
        rig.complete(flights[:answered], at + 2.0)

    assert (rig.baseline.usual is not None) is enough


def test_the_usual_time_is_a_third_above_the_median():
    rig = BaselineRig()
    for at in range(2):
        flights = rig.send(BLOCK, at)
        rig.complete(flights[:6], at + 1.0)
        rig.complete(flights[6:], at + 2.0)

    assert rig.baseline.usual == pytest.approx(2.6)  # more than half took two seconds


def test_the_usual_time_of_short_answers_is_a_quarter_of_a_second_longer():
    rig = BaselineRig()
    rig.blocks(3, took=0.1)

    assert rig.baseline.usual == pytest.approx(0.35)


def test_the_usual_time_of_uneven_answers_is_the_upper_quartile():
    rig = BaselineRig()
    for at in range(2):
        flights = rig.send(BLOCK, at)
        for number, flight in enumerate(flights):
            rig.complete([flight], at + 1.0 + number)

    assert rig.baseline.usual == pytest.approx(13.0)
    assert rig.baseline.mean == pytest.approx(8.5)


def test_a_block_counts_when_all_its_attempts_have_ended():
    rig = BaselineRig()
    first = rig.send(2 * BLOCK)
    rig.complete(first[:15] + first[16:31], 0.1)  # the short ones: one of each block hangs
    assert rig.baseline.usual is None
    rig.complete([first[15], first[31]], 60.0)

    assert rig.baseline.usual is not None
    assert rig.baseline.mean == pytest.approx((30 * 0.1 + 2 * 60.0) / 32)


def test_a_hung_attempt_holds_back_only_its_own_block():
    rig = BaselineRig()
    rig.complete(rig.send(BLOCK)[1:], 2.0)
    rig.blocks(2, took=2.0, at=1.0)

    assert rig.baseline.mean == pytest.approx(2.0)


@table_test("outcome", [SERVER_ERROR, CANCELLED, TIMEOUT._replace(own_deadline=True)])
def test_refused_and_cut_attempts_give_no_sample(outcome):
    rig = BaselineRig()
    for at in range(3):
        flights = rig.send(BLOCK, at)
        rig.complete(flights[:8], at + 9.0, outcome)
        rig.complete(flights[8:], at + 2.0)

    assert rig.baseline.mean == pytest.approx(2.0)


def test_a_block_of_mostly_refusals_is_dropped():
    rig = BaselineRig()
    for at in range(9):
        flights = rig.send(BLOCK, at)
        rig.complete(flights[:9], at + 0.1, SERVER_ERROR)
        rig.complete(flights[9:], at + 2.0)

    assert rig.baseline.usual is None


def test_timeouts_are_samples():
    rig = BaselineRig()
    for at in range(2):
        rig.complete(rig.send(BLOCK, at), at + 30.0, TIMEOUT)

    assert rig.baseline.mean == pytest.approx(30.0)


def test_a_block_near_evidence_is_dropped():
    rig = BaselineRig()
    rig.blocks(2, took=2.0)
    rig.blocks(4, took=20.0, at=50.0, evidence_at=48.0)  # within 5 s of its opening

    assert rig.baseline.mean == pytest.approx(2.0)
    rig.blocks(4, took=3.0, at=110.0, evidence_at=48.0)
    assert rig.baseline.mean > 2.0


@table_test(("opened_at", "counts"), [(51.0, False), (51.1, True)])
def test_a_block_within_five_seconds_of_evidence_is_dropped(opened_at, counts):
    rig = BaselineRig()
    rig.blocks(2, took=2.0)
    rig.blocks(1, took=3.0, at=opened_at, evidence_at=46.0)

    assert (rig.baseline.mean > 2.0) is counts


def test_evidence_from_long_before_drops_no_block():
    rig = BaselineRig()
    rig.blocks(2, took=2.0, at=1_000.0, evidence_at=500.0)

    assert rig.baseline.usual is not None


def test_the_usual_time_is_never_learned_near_evidence():
    rig = BaselineRig()
    rig.blocks(2, took=2.0)
    rig.blocks(4 * KEPT, took=8.0, at=50.0, evidence_at=1_000.0)

    assert rig.baseline.mean == pytest.approx(2.0)


def test_a_baseline_restarts_from_given_samples_and_rolls_back():
    rig = BaselineRig()
    rig.blocks(2, took=2.0)
    rig.baseline.restart([7.0, 8.0, 9.0])
    assert (rig.baseline.mean, rig.baseline.median) == (8.0, 8.0)
    rig.blocks(2, took=8.0, at=50.0)
    rig.baseline.roll_back()
    assert (rig.baseline.mean, rig.baseline.median) == (2.0, 2.0)
    rig.blocks(2, took=3.0, at=100.0)

    assert rig.baseline.mean == pytest.approx(2.5)


def test_a_process_that_starts_in_a_storm_learns_a_usual_time_after_it():
    rig = BaselineRig()
    rig.blocks(10, took=8.0, at=1_000.0, evidence_at=1_010.0)
    rig.blocks(2, took=8.0, at=1_500.0, evidence_at=1_500.0)
    assert rig.baseline.usual is None
    rig.blocks(2, took=2.0, at=1_600.0, evidence_at=1_500.0)

    assert rig.baseline.mean == pytest.approx(2.0)
    assert rig.baseline.usual is not None


def test_the_usual_time_is_updated_four_times_a_second_at_most():
    rig = BaselineRig()
    rig.blocks(2, took=2.0)  # learned when the second ended, at 3.0
    rig.complete(rig.send(BLOCK, 1.1), 3.2)
    assert rig.baseline.mean == pytest.approx(2.0)
    rig.complete(rig.send(BLOCK, 1.1), 3.25)

    assert rig.baseline.mean > 2.0


def test_old_blocks_are_forgotten():
    rig = BaselineRig()
    rig.blocks(4, took=2.0)
    rig.blocks(16, took=3.0, at=10.0)

    assert rig.baseline.mean == pytest.approx(3.0)


def test_the_usual_time_of_streams_is_that_of_first_outputs():
    rig = BaselineRig(streams=True)
    for at in range(2):
        flights = rig.send(BLOCK, at)
        for flight in flights:
            flight.first_output_at = at + 0.5
        rig.complete(flights, at + 4.0)

    assert rig.baseline.usual == pytest.approx(0.75)
    assert rig.baseline.mean == pytest.approx(4.0)


def test_new_usual_first_outputs_leave_the_mean_of_whole_answers():
    rig = BaselineRig(streams=True)
    for at in (0, 1, 100):
        if at == 100:
            rig.baseline.restart([1.5] * 256)
        flights = rig.send(BLOCK, at)
        for flight in flights:
            flight.first_output_at = at + 0.5
        rig.complete(flights, at + 4.0)

    assert rig.baseline.mean == pytest.approx(4.0)


def test_the_usual_time_of_uneven_first_outputs_is_the_ninth_decile():
    rig = BaselineRig(streams=True)
    for at in range(2):
        flights = rig.send(BLOCK, at)
        for number, flight in enumerate(flights):
            flight.first_output_at = at + 1.0 + number
        rig.complete(flights, at + 40.0)

    assert rig.baseline.usual == pytest.approx(15.0)


@table_test(("streams", "first_output_at"), [(False, 0.5), (True, None)])
def test_the_usual_time_without_first_outputs_is_that_of_whole_answers(streams, first_output_at):
    """Plain calls, or streams that arrive in one piece."""
    rig = BaselineRig(streams=streams)
    for at in range(2):
        flights = rig.send(BLOCK, at)
        for flight in flights:
            flight.first_output_at = None if first_output_at is None else at + first_output_at
        rig.complete(flights, at + 4.0)

    assert rig.baseline.usual == pytest.approx(5.2)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0.0, 100.0)), max_size=200))
def test_memory_is_bounded_in_any_order_of_ends(steps):
    rig, flying, now = BaselineRig(), [], 0.0
    for which, pause in steps:
        now += pause
        flying += rig.send(7, now)
        rig.complete([flying.pop(which % len(flying))], now)

    kept = [sample for block in rig.baseline._kept for sample in block.samples]
    assert len(kept) <= KEPT * BLOCK
    assert len({id(flight.block) for flight in flying} | {id(rig.baseline._filling)}) <= 1 + len(
        flying
    )
