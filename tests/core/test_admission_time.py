"""The queue and time: who is shed, when, and what it hears."""

import pytest
from door import INF, GatedQueue, Growing, Scale, Told, free
from stage import OK, TIMEOUT, Spaced
from table_test import table_test

from stormbreak.core.queue_order import Ticket
from stormbreak.types import CANCELLED, Priority


def test_who_has_no_time_left_is_shed_on_arrival():
    door = GatedQueue()
    refused = door.enter(10.0, expires_at=10.0)

    assert refused.policy == "shed"
    assert door.slots.in_flight == 0


@table_test(("opens_at", "retry_at"), [(60.0, 60.0), (INF, None)])
def test_whose_time_is_over_hears_which_gate_took_it_and_when_to_come_back(opens_at, retry_at):
    door = GatedQueue()
    door.barrier.opens_at = 20.0
    ticket = door.enter(0.0, expires_at=30.0)
    door.barrier.opens_at = opens_at
    door.admission.check(ticket, 30.0)

    assert ticket.rejection == ("barrier0", "could not be served in time", retry_at)


def test_whose_time_is_over_behind_a_full_limit_is_shed():
    door = GatedQueue(slots=2)
    door.learn(8.0)
    door.enter(), door.enter()
    ticket = door.enter(0.0, expires_at=30.0)
    door.admission.check(ticket, 30.0)

    assert ticket.rejection == ("shed", "could not be served in time", 38.0)


def test_of_a_full_limit_and_a_gate_that_waits_for_an_event_the_gate_is_named():
    door = GatedQueue()
    door.enter()
    ticket = door.enter(0.0, expires_at=30.0)
    door.barrier.opens_at = INF
    door.admission.check(ticket, 30.0)

    assert ticket.rejection.policy == "barrier0"


def test_a_gate_closed_for_longer_than_the_call_may_wait_rejects_with_its_time():
    door = GatedQueue()
    door.barrier.opens_at = 30.0

    assert door.enter(0.0, expires_at=29.0) == (
        "barrier0",
        "the call may not wait that long",
        30.0,
    )
    assert isinstance(door.enter(0.0, expires_at=30.0), Ticket)


def test_a_gate_closed_for_longer_than_the_longest_pause_rejects():
    door = GatedQueue()
    door.barrier.opens_at = 901.0
    assert door.enter(0.0).retry_at == 901.0
    door.barrier.opens_at = 900.0
    assert isinstance(door.enter(0.0), Ticket)


def test_whether_a_call_may_wait_is_asked_about_that_very_call():
    """Though another, a light one, waits before it."""
    door = GatedQueue(kind=Scale)
    door.enter()
    light = door.enter(expires_at=60.0)

    assert door.enter(tokens=50, expires_at=40.0) == (
        "barrier0",
        "the call may not wait that long",
        50.0,
    )
    heavy = door.enter(tokens=50, expires_at=60.0)
    heavy.expires_at = 40.0
    door.admission.sweep(0.0)
    assert [ticket.decided for ticket in (light, heavy)] == [False, True]


def test_the_limit_gets_the_wait_of_the_oldest_call_or_none():
    slots = Told()
    door = GatedQueue(slots=slots)
    permit = door.enter(3.0)
    ticket = door.enter(4.0)
    door.enter(6.0).settle(CANCELLED, 6.5, 0.5)
    free(permit, 7.0)
    free(ticket, 9.0)

    assert slots.ticks == [
        (3.0, 0.0),  # on entering an empty queue
        (4.0, 0.0),
        (4.0, 0.0),
        (6.0, 2.0),
        (6.0, 2.0),
        (6.5, 2.5),
        (7.0, 3.0),
        (9.0, 0.0),  # on leaving one
    ]


def test_sweep_rejects_calls_that_a_gate_holds_too_long():
    door = GatedQueue()
    door.enter()
    brief, patient = door.enter(expires_at=10.0), door.enter(expires_at=50.0)
    door.barrier.opens_at = 20.0
    door.admission.sweep(0.0)

    assert brief.rejection == ("barrier0", "the call may not wait that long", 20.0)
    assert not patient.decided
    assert door.woken == [brief]
    assert door.admission.queued == 1


def test_who_could_not_be_served_in_time_is_shed_on_arrival():
    door = GatedQueue(slots=2)
    door.learn(4.0)
    door.enter(), door.enter()
    tickets = [door.enter(expires_at=4.0) for _ in range(2)]  # 2 s and 4 s to wait
    refused = door.enter(expires_at=4.0)

    assert [isinstance(t, Ticket) for t in tickets] == [True, True]
    assert refused == ("shed", "could not be served in time", 6.0)


def test_only_those_ahead_count():
    door = GatedQueue(slots=1)
    door.learn(1.0)
    door.enter()
    for _ in range(5):
        door.enter(priority=Priority.BATCH)

    assert isinstance(door.enter(expires_at=1.0, priority=Priority.INTERACTIVE), Ticket)
    assert door.enter(expires_at=6.0, priority=Priority.BATCH).policy == "shed"


def test_a_send_rate_says_how_long_it_will_take():
    door = GatedQueue(slots=100, spacings=[Spaced(2.0)])
    door.barrier.opens_at = 1.0
    for _ in range(9):
        door.enter()

    assert door.enter(expires_at=4.9).policy == "shed"
    assert isinstance(door.enter(expires_at=5.1), Ticket)


def test_a_limit_that_may_grow_sheds_only_what_would_be_late_at_its_most():
    door = GatedQueue(slots=Growing(limit=1, most=4))
    door.learn(1.0)
    for _ in range(4):
        door.enter()

    assert isinstance(door.enter(expires_at=1.1), Ticket)
    assert door.enter(expires_at=1.1).policy == "shed"


def test_no_call_is_shed_before_a_service_time_is_known():
    door = GatedQueue(slots=1)
    door.enter()

    assert isinstance(door.enter(expires_at=0.001), Ticket)


@table_test(("deadline", "shed"), [(12.9, True), (13.0, False)])
def test_at_its_turn_a_call_is_sent_only_if_an_answer_takes_no_longer_than_is_left(deadline, shed):
    door = GatedQueue()
    first = door.enter()
    ticket, next_one = door.enter(expires_at=deadline, deadline_at=deadline), door.enter()
    door.learn(4.0)
    first.settle(CANCELLED, 6.0, 0.5)  # 1.75 times 4 s must be left

    assert shed == (ticket.rejection is not None)
    assert shed == (next_one.permit is not None)
    assert ticket.rejection is None or ticket.rejection.policy == "shed"


@table_test("turn", [10.0, 12.0])
def test_an_expired_call_is_shed_at_its_turn(turn):
    door = GatedQueue()
    first, ticket, next_one = door.enter(), door.enter(expires_at=10.0), door.enter()
    free(first, turn)

    assert ticket.rejection.policy == "shed"
    assert next_one.permit is not None


@table_test(("waited", "shed"), [(0.9, False), (1.0, True)])
def test_who_hardly_waited_gets_its_chance(waited, shed):
    door = GatedQueue()
    deadline = {"deadline_at": 103.0, "expires_at": 103.0}
    first, ticket = door.enter(100.0), door.enter(100.0, **deadline)
    door.learn(4.0)
    first.settle(CANCELLED, 100.0 + waited, 0.5)

    assert shed == (ticket.rejection is not None)


def test_a_ticket_expires():
    door = GatedQueue()
    door.enter()
    ticket = door.enter(expires_at=10.0)
    door.admission.check(ticket, 9.9)
    assert not ticket.decided
    door.admission.check(ticket, 10.0)
    assert ticket.rejection.policy == "shed"


def test_the_mean_answer_time_follows_slowly():
    door = GatedQueue()
    door.learn(4.0)
    assert door.admission.service == 4.0
    door.learn(14.0)
    assert door.admission.service == pytest.approx(5.0)


CUT = TIMEOUT._replace(own_deadline=True)


@table_test(("outcome", "service"), [(OK, 3.0), (CANCELLED, 0.0), (TIMEOUT, 0.0), (CUT, 3.0)])
def test_answers_teach_how_long_an_answer_takes(outcome, service):
    door = GatedQueue()
    door.enter(2.0).settle(outcome, 5.0, 0.5)

    assert service == door.admission.service


def test_what_a_deadline_cut_took_at_least_so_long_and_teaches_no_less():
    door = GatedQueue()
    door.learn(4.0)
    door.enter(0.0).settle(CUT, 3.9, 0.5)
    assert door.admission.service == 4.0
    door.enter(0.0).settle(CUT, 14.0, 0.5)

    assert door.admission.service == pytest.approx(5.0)
