from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slots import Mixed, SlotGate
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT, told
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


def test_a_calm_burst_does_not_make_it_bind():
    slots = SlotGate()
    slots.serve(60)
    burst = slots.take(200)
    for number in range(200):  # they take up to 2 seconds, in no order
        slots.tick(0.01)
        slots.settle([burst[37 * number % 200]])
        assert slots.gate.limit >= 256, number


def test_isolated_errors_do_not_make_it_bind():
    slots = SlotGate()
    for number in range(300):
        slots.tick(0.1)
        slots.settle(slots.take(), (OK, OK, OK, THROTTLED, SERVER_ERROR, OK)[number % 6])

    assert slots.gate.limit == 256


def test_with_evidence_it_is_a_little_more_than_what_was_proven():
    slots = SlotGate()
    slots.serve(60, rate=10, took=2.0)
    slots.stand()

    assert slots.gate.binds(slots.now)
    assert slots.gate.limit == pytest.approx(1.5 * 20 + 2, abs=2)


def test_while_answers_are_late_it_is_closer_to_what_was_proven():
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


def test_gain_and_plus():
    slots = SlotGate(headroom_factor=2.0, headroom=9.0)
    slots.serve(60, rate=10, took=2.0)
    slots.stand()

    assert slots.gate.limit == pytest.approx(2 * 20 + 9, abs=2)


def test_nothing_proven_is_a_limit_of_two_and_of_one_where_nothing_is_answered():
    slots = SlotGate()
    slots.stand()
    assert slots.gate.limit == 2
    slots.fail()
    assert slots.gate.limit == 1
    assert slots.tick(4.9) == 1

    assert slots.tick(0.1) == 2


def test_a_ceiling_of_one_is_one():
    slots = SlotGate(max_in_flight=1)
    assert slots.gate.limit == 1
    slots.fail()
    assert slots.gate.limit == 1


def test_it_is_held_then_doubles_every_ten_seconds_and_then_is_gone():
    slots = SlotGate()
    slots.stand()
    limits = {}
    for second in range(1, 130):
        limits[second] = slots.tick(1.0)

    assert limits[5] == 2
    assert [limits[5 + n] for n in (10, 20, 30, 40, 50, 60, 69)] == [4, 8, 16, 32, 64, 128, 238]
    assert (limits[74], limits[75]) == (238, 256)
    assert not slots.gate.binds(slots.now)


def test_the_fade_starts_from_what_was_held_not_from_what_silence_proves():
    slots = SlotGate()
    slots.serve(60)
    slots.fail()
    held = slots.gate.limit
    slots.tick(15.0)

    assert slots.gate.limit == pytest.approx(2 * held, abs=2)


def test_after_a_dead_spell_one_answer_on_time_does_not_make_up_for_the_silence():
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
def test_a_queue_that_stands_is_evidence_while_it_is_not_certain_that_all_is_well(waited, binds):
    slots = SlotGate()
    slots.wait(waited)

    assert slots.gate.binds(slots.now) is binds


@table_test(("since", "binds"), [(0.9, True), (1.0, False)])
def test_in_a_cold_start_a_queue_that_stands_while_slots_are_free_is_none(since, binds):
    slots = SlotGate(max_in_flight=10)
    slots.settle(slots.take(10), told(1.0))
    slots.tick(since, waited=100.0)

    assert slots.gate.binds(slots.now) is binds


def test_later_on_it_is_whatever_it_stands_behind():
    slots = SlotGate()
    slots.serve(60)
    slots.settle(slots.take(), told(1.0))
    slots.tick(1.0, waited=1.1)

    assert slots.gate.binds(slots.now)


def test_a_queue_that_stands_while_all_is_well_is_none():
    slots = SlotGate()
    slots.serve(60)
    slots.wait(100.0)

    assert not slots.gate.binds(slots.now)


@table_test(
    ("refused", "outcome", "binds"),
    [
        (3, THROTTLED, False),  # not a third of the newest outcomes
        (4, THROTTLED, True),
        (100, told(1.0), False),  # the cooldown handles it
        (7, SERVER_ERROR, False),
    ],
)
@table_test("pause", [0.0, 10.0])
def test_429s_that_pile_up_while_no_slot_is_free_are_evidence(refused, outcome, binds, pause):
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
def test_timeouts_that_pile_up_are_evidence_while_nothing_is_known(known, burst, timed_out, binds):
    slots = SlotGate()
    if known:
        slots.serve(60)
        slots.tick(1.0)
    slots.settle(slots.take(burst)[:timed_out], TIMEOUT)

    assert slots.gate.binds(slots.now) is binds


@table_test(("wanted", "binds"), [(255, False), (256, True)])
def test_they_are_none_while_slots_are_free(wanted, binds):
    slots = SlotGate()
    slots.settle(slots.take(wanted), THROTTLED)

    assert slots.gate.binds(slots.now) is binds


def test_429s_beside_attempts_that_are_served_are_none():
    slots = SlotGate()
    refused, *served = slots.take(256)
    slots.settle([refused], THROTTLED)
    slots.tick(0.5)
    slots.settle(served[:20])
    slots.settle(served[20:25], THROTTLED)

    assert slots.diagnosis.refusals.are_random
    assert slots.diagnosis.failed_at == slots.now
    assert not slots.gate.binds(slots.now)


def test_evidence_renews_it():
    slots = SlotGate()
    slots.stand()
    slots.tick(60.0)
    assert slots.gate.limit > 2
    slots.wait(1.5)

    assert slots.gate.limit == 2
    assert slots.tick(4.9) == 2


def test_the_fade_stops_at_the_ceiling():
    slots = SlotGate(max_in_flight=30)
    slots.serve(60)
    slots.fail()
    limits = [slots.tick(1.0) for _ in range(130)]

    assert max(limits) <= 34  # 1.5 * 20 + 2 were proven
    assert limits[-1] == 30


def test_it_grows_again_while_more_is_proven():
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


def test_the_ceiling_is_raised_by_what_was_proven():
    slots = SlotGate(max_in_flight=10)
    slots.serve(60, rate=10, took=2.0)
    assert slots.gate.limit > 20
    slots.tick(60.0)

    assert slots.gate.limit == 10


def test_where_all_calls_hang_it_is_evidence_at_the_usual_age():
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
def test_what_hangs_or_fails_beside_answers_on_time_is_none(outcome):
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


def test_long_answers_beside_short_ones_are_none():
    slots = SlotGate()
    for _ in range(300):
        short, long = slots.take(2)
        slots.tick(1.0)
        slots.settle([short])
        slots.tick(9.0)
        slots.settle([long])

    assert not slots.gate.binds(slots.now)


def test_what_we_cut_ourselves_says_nothing():
    slots = SlotGate()
    slots.serve(30)
    for outcome in (CANCELLED, TIMEOUT._replace(own_deadline=True)):
        slots.settle(slots.take(50), outcome)
        slots.tick(10.0)

    assert not slots.gate.binds(slots.now)


def test_fewer_answers_without_errors_let_the_limit_grow():
    """A target that is five times slower for ever: what was proven once is no guide any more."""
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
def test_a_pause_is_no_sign_that_we_hold_the_target_back(paused):
    slots = SlotGate()
    slots.serve(60)
    slots.paused = paused
    for _ in range(60):
        slots.tick(1.0)
        slots.diagnosis.late_at = slots.diagnosis.evidence_at = slots.now

    assert (slots.tick() == 2) is paused


def test_first_outputs_prove_at_once():
    slots = SlotGate()
    flights = slots.take(30, streams=True)
    slots.tick(0.5)
    slots.first(flights[:20])
    slots.wait(2.0)

    assert slots.gate.limit == 32


def test_first_outputs_in_the_instant_of_a_look_count():
    slots = SlotGate()
    flights = slots.take(30, streams=True)
    slots.tick(0.5)
    slots.wait(2.0)
    assert slots.gate.limit == 2

    slots.first(flights[:20])

    assert slots.gate.limit == 32


def test_answers_in_the_instant_of_a_look_count():
    slots = SlotGate()
    flights = slots.take(30)
    slots.tick(0.5)
    slots.wait(2.0)
    assert slots.gate.limit == 2

    slots.settle(flights[:20])

    assert slots.gate.limit == 17  # twenty in a second, of half a second each


def test_with_first_outputs_known_long_answers_are_not_late():
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


def test_looking_changes_nothing():
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


def test_closed_it_says_when_time_alone_may_open_it():
    slots = SlotGate()
    slots.stand()
    slots.take(2)
    at = slots.gate.ready_at(None, slots.now)

    assert at == pytest.approx(slots.now + 5.0 + 5.85, abs=0.1)  # 2 * 2 ** (5.85 / 10) = 3
    slots.tick(at - slots.now)
    assert slots.gate.ready_at(None, slots.now) == READY


def test_behind_one_that_hangs_at_a_dead_target_another_leaves_after_the_hold():
    slots = SlotGate()
    slots.fail()
    slots.take(1)
    at = slots.gate.ready_at(None, slots.now)

    assert at == slots.now + 5.0
    slots.tick(5.0)
    assert slots.gate.ready_at(None, slots.now) == READY


@table_test(("late", "slots_more"), [(5.0, 1), (4.9, 0)])
def test_an_attempt_that_is_lost_takes_no_slot_unless_answers_were_late_just_now(late, slots_more):
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


def test_behind_a_probe_that_hangs_another_leaves_once_it_is_older_than_usual():
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
def test_at_least_one_never_beyond_reason_and_time_opens_it_when_it_said(steps, ceiling):
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
    slots.tick(1_000.0)  # hung ones may have had a vote: that was the last evidence
    slots.tick(125.1)
    assert slots.gate.limit >= ceiling, flights


@table_test(("name", "value"), [("max_in_flight", 0), ("headroom_factor", 0.9), ("headroom", -1.0)])
def test_impossible_values_are_named(name, value):
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


def test_with_no_stream_for_two_minutes_whole_answers_are_the_judges_again():
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


def test_streams_that_come_in_one_piece_are_in_time_and_prove_by_their_rate():
    slots = Mixed()
    for _ in range(30):
        flights = slots.take(10, streams=True)
        slots.tick(1.0)
        slots.settle(flights)
    assert not slots.gate.binds(slots.now)
    slots.wait(2.0)

    assert slots.gate.limit >= 10


def test_plain_calls_in_service_are_proven_beside_streamed_ones():
    slots = Mixed()
    for _ in range(10):
        slots.round(streamed=10, plain=10)
    slots.stand()

    assert 1.5 * 16 <= slots.gate.limit <= 1.5 * 26
