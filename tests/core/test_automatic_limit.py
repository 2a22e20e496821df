from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slots import Mixed, SlotGate
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.diagnosis import TOP_TOTAL
from stormbreak.core.gate import READY
from stormbreak.errors import ConfigurationError
from stormbreak.types import CANCELLED


def test_without_evidence_the_ceiling_is_the_limit():
    slots = SlotGate(max_in_flight=100)
    slots.take(100)

    assert slots.gate.limit == slots.gate.in_flight == 100
    assert slots.gate.ready_at(None, slots.now) == inf
    assert not slots.gate.binds(slots.now)


def test_a_calm_burst_does_not_make_the_limit_bind():
    slots = SlotGate()
    slots.serve(60)
    burst = slots.take(200)
    for number in range(200):  # they take up to 2 seconds, in no order
        slots.tick(0.01)
        slots.settle([burst[37 * number % 200]])
        assert slots.gate.limit >= 256, number


def test_isolated_errors_do_not_make_the_limit_bind():
    slots = SlotGate()
    for number in range(300):
        slots.tick(0.1)
        slots.settle(slots.take(), (OK, OK, OK, THROTTLED, SERVER_ERROR, OK)[number % 6])

    assert slots.gate.limit == 256


def test_with_evidence_the_limit_is_a_little_more_than_the_proven_concurrency():
    slots = SlotGate()
    slots.serve(60, rate=10, took=2.0)
    slots.stand()

    assert slots.gate.binds(slots.now)
    assert slots.gate.limit == pytest.approx(1.5 * 20 + 2, abs=2)


def test_the_limit_is_closer_to_the_proven_concurrency_while_answers_are_late():
    slots = SlotGate()
    slots.serve(60, rate=10, took=2.0)
    slots.serve(3.0, rate=10, took=2.0)
    late = slots.take(10)
    slots.tick(2.7)
    slots.settle(late)

    assert slots.diagnosis.late_at == slots.now
    assert slots.gate.limit == pytest.approx(1.2 * 20 + 2, abs=2)
    slots.serve(4.0, rate=10, took=2.0)  # in time again
    assert slots.gate.limit >= 1.5 * 20


def test_the_headroom_of_the_limit_is_configurable():
    slots = SlotGate(headroom_factor=2.0, headroom=9.0)
    slots.serve(60, rate=10, took=2.0)
    slots.stand()

    assert slots.gate.limit == pytest.approx(2 * 20 + 9, abs=2)


def test_without_proof_the_limit_is_two_and_one_if_the_target_is_dead():
    slots = SlotGate()
    slots.stand()
    assert slots.gate.limit == 2
    slots.fail()
    assert slots.gate.limit == 1
    assert slots.tick(4.9) == 1

    assert slots.tick(0.1) == 2


def test_a_ceiling_of_one_is_always_one():
    slots = SlotGate(max_in_flight=1)
    assert slots.gate.limit == 1
    slots.fail()
    assert slots.gate.limit == 1


def test_the_limit_holds_then_doubles_every_ten_seconds_and_then_stops_binding():
    slots = SlotGate()
    slots.stand()
    limits = {}
    for second in range(1, 130):
        limits[second] = slots.tick(1.0)

    assert limits[5] == 2
    assert [limits[5 + n] for n in (10, 20, 30, 40, 50, 60, 69)] == [4, 8, 16, 32, 64, 128, 238]
    assert (limits[74], limits[75]) == (238, 256)
    assert not slots.gate.binds(slots.now)


def test_the_growth_starts_from_the_held_limit():
    slots = SlotGate()
    slots.serve(60)
    slots.fail()
    held = slots.gate.limit
    slots.tick(15.0)

    assert slots.gate.limit == pytest.approx(2 * held, abs=2)


def test_one_answer_on_time_after_an_outage_does_not_make_up_for_the_silence():
    slots = SlotGate()
    slots.serve(60)
    slots.fail()
    slots.tick(15.0)
    silent = slots.gate.limit
    assert silent < 100
    slots.settle(slots.take())

    assert slots.gate.limit == silent
    assert slots.tick(10.0) == pytest.approx(2 * silent, abs=2)


@table_test(("waited", "binds"), [(1.0, False), (1.1, True)])
def test_a_standing_queue_is_evidence_unless_the_target_is_healthy(waited, binds):
    slots = SlotGate()
    slots.wait(waited)

    assert slots.gate.binds(slots.now) is binds


@table_test(("since", "binds"), [(0.9, True), (1.0, False)])
def test_a_standing_queue_with_free_slots_is_no_evidence_in_a_cold_start(since, binds):
    slots = SlotGate(max_in_flight=10)
    slots.settle(slots.take(10), retry_in(1.0))
    slots.tick(since, waited=100.0)

    assert slots.gate.binds(slots.now) is binds


def test_a_standing_queue_is_evidence_after_the_cold_start():
    slots = SlotGate()
    slots.serve(60)
    slots.settle(slots.take(), retry_in(1.0))
    slots.tick(1.0, waited=1.1)

    assert slots.gate.binds(slots.now)


def test_a_standing_queue_is_no_evidence_while_the_target_is_healthy():
    slots = SlotGate()
    slots.serve(60)
    slots.wait(100.0)

    assert not slots.gate.binds(slots.now)


@table_test(
    ("refused", "outcome", "binds"),
    [
        (3, THROTTLED, False),  # not a third of the newest outcomes
        (4, THROTTLED, True),
        (100, retry_in(1.0), False),  # the cooldown handles it
        (7, SERVER_ERROR, False),
    ],
)
@table_test("pause", [0.0, 10.0])
def test_many_429s_are_evidence_while_no_slot_is_free(refused, outcome, binds, pause):
    slots = SlotGate()
    flights = slots.take(256)
    slots.now += pause  # without a look
    slots.settle(flights[:refused], outcome)

    assert slots.gate.binds(slots.now) is binds


@table_test(
    ("known", "burst", "timed_out", "binds"),
    [
        (False, 20, 3, False),  # not a third of the newest outcomes
        (False, 20, 4, True),
        (False, 5, 4, False),  # hardly another is in flight
        (False, 6, 4, True),
        (True, 20, 7, False),
    ],
)
def test_many_timeouts_are_evidence_while_nothing_is_known(known, burst, timed_out, binds):
    slots = SlotGate()
    if known:
        slots.serve(60)
        slots.tick(1.0)
    slots.settle(slots.take(burst)[:timed_out], TIMEOUT)

    assert slots.gate.binds(slots.now) is binds


@table_test(("wanted", "binds"), [(255, False), (256, True)])
def test_many_429s_are_no_evidence_while_slots_are_free(wanted, binds):
    slots = SlotGate()
    slots.settle(slots.take(wanted), THROTTLED)

    assert slots.gate.binds(slots.now) is binds


def test_random_429s_beside_served_attempts_are_no_evidence():
    slots = SlotGate()
    refused, *served = slots.take(256)
    slots.settle([refused], THROTTLED)
    slots.tick(0.5)
    slots.settle(served[:20])
    slots.settle(served[20:25], THROTTLED)

    assert slots.diagnosis.refusals.are_random
    assert slots.diagnosis.failed_at == slots.now
    assert not slots.gate.binds(slots.now)


def test_new_evidence_restarts_the_hold_of_the_limit():
    slots = SlotGate()
    slots.stand()
    slots.tick(60.0)
    assert slots.gate.limit > 2
    slots.wait(1.5)

    assert slots.gate.limit == 2
    assert slots.tick(4.9) == 2


def test_the_growth_stops_at_the_ceiling():
    slots = SlotGate(max_in_flight=30)
    slots.serve(60)
    slots.fail()
    limits = [slots.tick(1.0) for _ in range(130)]

    assert max(limits) <= 34  # 1.5 * 20 + 2 were proven
    assert limits[-1] == 30


def test_the_limit_grows_again_with_the_proven_concurrency():
    slots = SlotGate()
    slots.fail()
    limits = []
    for _ in range(60):
        flights = slots.take(max(0, min(300, slots.gate.limit) - slots.gate.in_flight))
        slots.tick(1.0)
        slots.wait(2.0)
        slots.settle(flights)
        limits.append(slots.gate.limit)

    assert slots.gate.binds(slots.now)
    assert limits[-1] > 200


def test_proven_concurrency_raises_the_ceiling():
    slots = SlotGate(max_in_flight=10)
    slots.serve(60, rate=10, took=2.0)
    assert slots.gate.limit > 20
    slots.tick(60.0)

    assert slots.gate.limit == 10


def test_hung_attempts_are_evidence_at_the_usual_age_if_all_hang():
    slots = SlotGate()
    slots.serve(30, took=2.0)
    slots.take(8)
    slots.tick(2.5)
    assert not slots.gate.binds(slots.now)
    slots.tick(0.2)

    assert slots.gate.binds(slots.now)
    assert slots.diagnosis.dead_at == slots.now
    assert slots.diagnosis.late_at == -inf


@table_test("outcome", [None, TIMEOUT, SERVER_ERROR])
def test_hung_or_failed_attempts_beside_answers_on_time_are_no_evidence(outcome):
    slots = SlotGate()
    slots.serve(30, took=2.0)
    for _ in range(100):
        answered, hanging = slots.take(2)
        slots.tick(1.5)
        slots.settle([answered])
        if outcome is not None:
            slots.tick(6.5)
            slots.settle([hanging], outcome)

    assert not slots.gate.binds(slots.now)


def test_long_answers_beside_short_ones_are_no_evidence():
    slots = SlotGate()
    for _ in range(300):
        short, long = slots.take(2)
        slots.tick(1.0)
        slots.settle([short])
        slots.tick(9.0)
        slots.settle([long])

    assert not slots.gate.binds(slots.now)


def test_attempts_that_we_cut_are_no_evidence():
    slots = SlotGate()
    slots.serve(30)
    for outcome in (CANCELLED, TIMEOUT._replace(own_deadline=True)):
        slots.settle(slots.take(50), outcome)
        slots.tick(10.0)

    assert not slots.gate.binds(slots.now)


def test_the_limit_grows_if_a_target_becomes_slower_without_errors():
    """A target that stays five times slower: its old throughput no longer counts."""
    slots = SlotGate()
    slots.serve(60, rate=20, took=1.0)
    limits = []
    for _ in range(60):
        flights = slots.take(max(0, min(100, slots.gate.limit) - slots.gate.in_flight))
        slots.tick(5.0)
        slots.wait(2.0)
        slots.settle(flights)
        limits.append(slots.gate.limit)

    assert limits[-1] >= 100


@table_test("paused", [True, False])
def test_the_floor_does_not_grow_during_a_pause(paused):
    slots = SlotGate()
    slots.serve(60)
    slots.paused = paused
    for _ in range(60):
        slots.tick(1.0)
        slots.diagnosis.late_at = slots.diagnosis.evidence_at = slots.now

    assert (slots.tick() == 2) is paused


def test_first_outputs_prove_concurrency_at_once():
    slots = SlotGate()
    flights = slots.take(30, streams=True)
    slots.tick(0.5)
    slots.first(flights[:20])
    slots.wait(2.0)

    assert slots.gate.limit == 32


def test_first_outputs_at_the_time_of_a_check_count():
    slots = SlotGate()
    flights = slots.take(30, streams=True)
    slots.tick(0.5)
    slots.wait(2.0)
    assert slots.gate.limit == 2

    slots.first(flights[:20])

    assert slots.gate.limit == 32


def test_answers_at_the_time_of_a_check_count():
    slots = SlotGate()
    flights = slots.take(30)
    slots.tick(0.5)
    slots.wait(2.0)
    assert slots.gate.limit == 2

    slots.settle(flights[:20])

    assert slots.gate.limit == 17  # twenty in a second, of half a second each


def test_long_streams_are_not_late_if_their_first_output_was_on_time():
    slots = SlotGate()
    for _ in range(10):
        flights = slots.take(8, streams=True)
        slots.tick(0.3)
        slots.first(flights)
        slots.tick(1.0)
        slots.settle(flights)
    flights = slots.take(50, streams=True)
    slots.tick(0.3)
    slots.first(flights)
    slots.tick(100.0)
    assert not slots.gate.binds(slots.now)
    flights = slots.take(5, streams=True)
    slots.tick(1.0)
    slots.first(flights)
    assert not slots.gate.binds(slots.now)
    slots.settle(flights)

    assert slots.gate.binds(slots.now)


def test_reading_the_limit_does_not_change_it():
    slots = SlotGate()
    slots.serve(20)
    slots.fail()
    slots.take(max(0, slots.gate.limit - slots.gate.in_flight))
    other = SlotGate()
    other.serve(20)
    other.fail()
    other.take(max(0, other.gate.limit - other.gate.in_flight))
    for ahead in (0.0, 3.0, 50.0, 1_000.0):
        slots.gate.ready_at(None, slots.now + ahead)
        slots.gate.binds(slots.now + ahead)

    assert [slots.tick(1.0) for _ in range(130)] == [other.tick(1.0) for _ in range(130)]


def test_a_closed_limit_names_the_time_when_it_opens():
    slots = SlotGate()
    slots.stand()
    slots.take(2)
    at = slots.gate.ready_at(None, slots.now)

    assert at == pytest.approx(slots.now + 5.0 + 5.85, abs=0.1)  # 2 * 2 ** (5.85 / 10) = 3
    slots.tick(at - slots.now)
    assert slots.gate.ready_at(None, slots.now) == READY


def test_another_probe_leaves_after_the_hold_if_one_hangs_at_a_dead_target():
    slots = SlotGate()
    slots.fail()
    slots.take(1)
    at = slots.gate.ready_at(None, slots.now)

    assert at == slots.now + 5.0
    slots.tick(5.0)
    assert slots.gate.ready_at(None, slots.now) == READY


@table_test(("late", "slots_more"), [(5.0, 1), (4.9, 0)])
def test_a_lost_attempt_takes_no_slot_unless_answers_were_late_just_now(late, slots_more):
    slots = SlotGate()
    slots.serve(60)
    slots.stand()
    (hung,) = slots.take()
    slots.serve(5)
    slots.now += 0.1
    slots.diagnosis.late_at = slots.now - late
    slots.tick()
    limit, lost = slots.gate.limit, slots.diagnosis.lost
    slots.settle([hung], CANCELLED)

    assert (lost, slots.diagnosis.lost) == (1, 0)
    assert limit - slots.gate.limit == slots_more


def test_another_probe_leaves_once_a_hung_one_is_older_than_usual():
    slots = SlotGate()
    slots.serve(60)
    slots.fail()
    slots.take(int(slots.gate.limit))
    held = slots.gate.ready_at(None, slots.now)
    slots.diagnosis.probed = True

    assert slots.gate.ready_at(None, slots.now) == slots.diagnosis.overdue_at() < held


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 30.0),
        st.sampled_from([OK, OK, SERVER_ERROR, THROTTLED, TIMEOUT, CANCELLED]),
        st.booleans(),
        st.integers(0, 5),
    ),
    max_size=80,
)


@given(steps=STEPS, ceiling=st.integers(1, 300))
def test_the_limit_stays_within_its_bounds_and_opens_at_the_time_it_names(steps, ceiling):
    slots, flying = SlotGate(max_in_flight=ceiling), []
    for pause, outcome, puts_out, count in steps:
        slots.tick(pause)
        slots.wait(pause)
        for _ in range(count):
            if slots.gate.ready_at(None, slots.now) == READY:
                flying += slots.take(streams=puts_out)
        if flying and puts_out:
            slots.first(flying[:1])
        if flying:
            slots.settle([flying.pop(0)], outcome)

        gate = slots.gate
        assert 1 <= gate.limit <= max(ceiling, 1.5 * 400 + 2)
        assert gate.in_flight == len(flying)
        ready_at = gate.ready_at(None, slots.now)
        assert (ready_at == READY) == (gate.in_flight < gate.limit)
        assert ready_at == READY or ready_at > slots.now
    flights = len(flying)
    slots.settle(flying, CANCELLED)
    slots.tick(1_000.0)  # hung attempts may have counted: that was the last evidence
    slots.tick(125.1)
    assert slots.gate.limit >= ceiling, flights


@table_test(("name", "value"), [("max_in_flight", 0), ("headroom_factor", 0.9), ("headroom", -1.0)])
def test_an_invalid_value_is_named(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} must .*, got {value}"):
        AutomaticLimit(**{name: value})


def test_plain_calls_beside_streamed_ones_are_not_late():
    slots = Mixed()
    for _ in range(20):
        slots.round(streamed=8, plain=8)

    assert not slots.gate.binds(slots.now)


def test_the_first_streamed_calls_beside_plain_ones_are_not_late():
    slots = Mixed()
    for _ in range(10):
        slots.round(plain=8)
    for _ in range(20):
        slots.round(streamed=8, plain=8)

    assert not slots.gate.binds(slots.now)


def test_whole_answers_are_judged_again_after_two_minutes_without_a_stream():
    slots = Mixed()
    for _ in range(10):
        slots.round(streamed=8)
    for _ in range(40):
        slots.round(plain=8)
    assert not slots.gate.binds(slots.now)
    late = slots.take(TOP_TOTAL)
    slots.tick(10.0)
    slots.settle(late)

    assert slots.diagnosis.late_at == slots.now


def test_streams_that_arrive_in_one_piece_are_on_time_and_prove_their_rate():
    slots = Mixed()
    for _ in range(30):
        flights = slots.take(10, streams=True)
        slots.tick(1.0)
        slots.settle(flights)
    assert not slots.gate.binds(slots.now)
    slots.wait(2.0)

    assert slots.gate.limit >= 10


def test_plain_calls_in_service_count_as_proven_beside_streamed_ones():
    slots = Mixed()
    for _ in range(10):
        slots.round(streamed=10, plain=10)
    slots.stand()

    assert 1.5 * 16 <= slots.gate.limit <= 1.5 * 26
