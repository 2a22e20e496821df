"""The automatic limit in an episode: how long evidence counts, and what the target has proven meanwhile."""

from math import inf

import pytest
from slots import SlotGate
from stage import OK, SERVER_ERROR
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit, AutomaticLimiter
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import READY
from stormbreak.types import TREATMENTS


def serving(count, *, at=4.0):
    """`count` attempts past their first output."""
    slots = SlotGate()
    flights = slots.take(count, streams=True)
    slots.tick(at)
    slots.first(flights)
    return slots, flights


def signs(slots, *, late=inf, errors=inf, refused=0.0):
    """Seconds since answers were late, failures piled up, and a 429 came; a call waits now."""
    diagnosis = slots.diagnosis
    diagnosis.late_at, diagnosis.failed_at = slots.now - late, slots.now - errors
    slots.stand(age=refused)
    return slots.gate.limit


def test_the_ceiling_is_the_limit_before_the_first_check():
    diagnosis = Diagnosis(TREATMENTS)
    gate = AutomaticLimiter(AutomaticLimit(max_in_flight=9), diagnosis, paused=lambda _: False)

    assert (gate.limit, gate.ready_at(None, 0.0)) == (9, READY)


def test_a_headroom_factor_of_one_is_valid():
    assert AutomaticLimit(headroom_factor=1.0, headroom=0.0).headroom_factor == 1.0


@table_test(("age", "limit"), [(0.0, 26), (0.9, 26), (1.0, 32), (1.5, 32)])
def test_the_limit_has_less_headroom_for_a_second_after_late_answers(age, limit):
    slots, _ = serving(20)

    assert limit == signs(slots, late=age)


@table_test(("late", "limit"), [(0.5, 8), (inf, 32)])
def test_late_answers_drop_what_was_proven_before(late, limit):
    slots, flights = serving(20, at=1.0)
    slots.tick(0.1)
    slots.settle(flights[5:])  # five still put out
    slots.tick(3.0)

    assert limit == signs(slots, late=late)


@table_test(
    ("errors", "refused", "floor"),
    [(9.9, 10.0, False), (inf, 9.9, False), (10.0, 10.0, True), (inf, 10.0, True)],
)
def test_failures_and_429s_remove_the_floor_for_ten_seconds(errors, refused, floor):
    slots = SlotGate()
    slots.serve(60, rate=10, took=2.0)
    slots.tick(15.0)  # nothing is proven any more

    assert floor == (signs(slots, errors=errors, refused=refused) > 2)


def test_an_episode_lasts_125_seconds():
    slots = SlotGate()
    slots.fail()

    assert (slots.gate.binds(124.9), slots.gate.binds(125.0)) == (True, False)


@table_test("in_flight", [20, 25])
def test_in_an_episode_a_full_limit_at_its_ceiling_waits_for_an_answer(in_flight):
    slots = SlotGate(max_in_flight=20)
    slots.fail()
    slots.take(in_flight)
    assert slots.gate.binds(slots.now)

    assert slots.gate.ready_at(None, slots.now) == inf


def test_the_limit_opens_at_the_time_it_names_without_new_proof():
    slots = SlotGate()
    slots.serve(60)
    slots.fail()
    slots.tick(10.0)
    slots.take(slots.gate.limit)
    at = slots.gate.ready_at(None, slots.now)
    slots.tick(at - slots.now - 0.1)
    assert slots.gate.ready_at(None, slots.now) > slots.now
    slots.tick(0.101)

    assert slots.gate.ready_at(None, slots.now) == READY


def test_a_check_is_scheduled_no_sooner_than_50_ms_ahead():
    slots = SlotGate()
    slots.fail()
    slots.take(2)
    at = (
        slots.gate.ready_at(None, slots.now) + 1.0
    )  # it should have opened, but nothing has checked

    assert slots.gate.ready_at(None, at) == at + 0.05


def test_a_call_at_a_full_limit_updates_the_limit_at_once():
    """What was proven at this very instant raises the ceiling."""
    slots = SlotGate(max_in_flight=10)
    slots.first(slots.take(10, streams=True))

    assert slots.gate.limit == 17


def test_the_limit_grows_from_the_held_value_after_the_hold():
    slots = SlotGate()
    slots.serve(60)
    slots.fail()
    held = slots.gate.limit
    slots.tick(5.25)  # by now nothing is proven

    assert held <= slots.gate.limit <= 1.05 * held


def test_concurrency_proven_by_the_rate_uses_the_mean_time_not_the_shortest():
    slots = SlotGate()
    slots.paused = True  # so that there is no floor
    short, long = [], []
    for _ in range(60):
        slots.settle(short)
        if len(long) == 4:
            slots.settle(long.pop(0))
        short = slots.take(10)
        long.append(slots.take(10))
        slots.tick(1.0)
    limit = signs(slots) - slots.diagnosis.lost  # 20 to 24 answers a second, of 1 s and of 4 s

    assert 1.5 * 50 + 2 <= limit <= 1.5 * 60 + 2


@table_test("rate", [1, 10])
def test_the_floor_doubles_while_fewer_answers_come_than_usual(rate):
    slots = SlotGate()
    slots.serve(60, rate=rate, took=2.0)
    for _ in range(320):
        slots.tick(0.25)
        slots.wait(2.0)

    assert slots.gate.limit == 256


def test_failures_remove_the_floor():
    slots = SlotGate()
    slots.serve(60)
    for number in range(240):
        slots.settle(slots.take(), SERVER_ERROR if number % 3 else OK)
        slots.tick(0.2)
        slots.stand()
        slots.tick(0.05)

    assert slots.gate.limit <= 1.5 * (2.0 * 4 / 3) + 2  # of what is still proven


def answer(slots, took):
    probe = slots.take()
    slots.tick(took)
    slots.settle(probe)


def dead_after(served):
    """A limit whose target served 20 at once, and has then failed for ten seconds."""
    served.serve(60, rate=10, took=2.0)
    for _ in range(5):
        served.fail()
        served.tick(2.0)
    assert served.gate.limit <= 2
    return served


def test_the_first_answer_on_time_after_an_outage_restores_the_proven_concurrency():
    slots = dead_after(SlotGate())
    (probe,) = slots.take()
    slots.tick(1.0)
    assert slots.gate.limit <= 2  # an attempt under way shows nothing
    slots.tick(1.0)
    slots.settle([probe])

    assert slots.gate.limit == pytest.approx(20, abs=1)
    assert slots.tick(9.9) >= 19
    assert slots.tick(0.1) < 10  # it has not been proven again


def test_a_late_answer_after_an_outage_restores_nothing():
    slots = dead_after(SlotGate())
    answer(slots, took=9.0)

    assert slots.gate.limit <= 4


def test_an_answer_restores_nothing_if_answers_were_late_before_the_outage():
    """An overload may look like an outage: answers on time beside late ones do not show that it is over."""
    slots = dead_after(SlotGate())
    for _ in range(12):
        flights = slots.take(2)
        slots.tick(3.0)
        slots.settle(flights)
    assert slots.diagnosis.late_at > -inf
    slots.fail()
    slots.tick(2.0)
    slots.settle(slots.take())
    assert slots.gate.limit < 19
    for _ in range(6):
        slots.tick(1.0)
        slots.settle(slots.take())

    assert slots.gate.limit < 19  # later answers restore nothing either


def test_the_growth_does_not_multiply_the_restored_limit():
    slots = dead_after(SlotGate())
    slots.tick(18.0)  # the limit doubles every ten seconds
    answer(slots, took=2.0)

    assert slots.gate.limit == pytest.approx(20, abs=1)


def test_a_second_outage_soon_after_restores_only_what_was_proven_since():
    slots = dead_after(SlotGate())
    slots.tick(0.5)
    slots.settle(slots.take())
    slots.tick(0.1)
    slots.fail()
    slots.tick(5.1)
    assert slots.gate.limit <= 2
    answer(slots, took=2.0)

    assert slots.gate.limit <= 4


def test_late_answers_end_the_restored_limit():
    slots = dead_after(SlotGate())
    answer(slots, took=2.0)
    assert slots.gate.limit >= 19
    slots.diagnosis.late_at = slots.diagnosis.evidence_at = slots.now
    slots.tick(0.1)
    assert slots.gate.limit < 10
    slots.tick(2.0)

    assert slots.gate.limit < 10
