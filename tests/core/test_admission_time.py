"""The queue and time: which calls are shed, when, and with which rejection."""

import pytest
from gated_queue import INF, GatedQueue, Growing, Scale, TickRecorder, free
from stage import OK, TIMEOUT, Spaced
from table_test import table_test

from stormbreak.core.queue_order import Ticket
from stormbreak.types import CANCELLED, Priority


def test_a_call_without_time_left_is_shed_on_arrival():
    queue = GatedQueue()
    refused = queue.enter(10.0, expires_at=10.0)

    assert refused.policy == "shed"
    assert queue.slots.in_flight == 0


@table_test(("opens_at", "retry_at"), [(60.0, 60.0), (INF, None)])
def test_an_expired_call_names_the_closed_gate_and_the_time_to_retry(opens_at, retry_at):
    queue = GatedQueue()
    queue.barrier.opens_at = 20.0
    ticket = queue.enter(0.0, expires_at=30.0)
    queue.barrier.opens_at = opens_at
    queue.admission.check(ticket, 30.0)

    assert ticket.rejection == ("barrier0", "could not be served in time", retry_at)


def test_a_call_that_expires_behind_a_full_limit_is_shed():
    queue = GatedQueue(slots=2)
    queue.learn(8.0)
    queue.enter(), queue.enter()
    ticket = queue.enter(0.0, expires_at=30.0)
    queue.admission.check(ticket, 30.0)

    assert ticket.rejection == ("shed", "could not be served in time", 38.0)


def test_an_expired_call_names_an_indefinite_gate_before_a_full_limit():
    queue = GatedQueue()
    queue.enter()
    ticket = queue.enter(0.0, expires_at=30.0)
    queue.barrier.opens_at = INF
    queue.admission.check(ticket, 30.0)

    assert ticket.rejection.policy == "barrier0"


def test_a_gate_closed_for_longer_than_the_call_may_wait_rejects_it():
    queue = GatedQueue()
    queue.barrier.opens_at = 30.0

    assert queue.enter(0.0, expires_at=29.0) == (
        "barrier0",
        "the call may not wait that long",
        30.0,
    )
    assert isinstance(queue.enter(0.0, expires_at=30.0), Ticket)


def test_a_gate_closed_for_longer_than_max_wait_rejects_a_call():
    queue = GatedQueue()
    queue.barrier.opens_at = 901.0
    assert queue.enter(0.0).retry_at == 901.0
    queue.barrier.opens_at = 900.0
    assert isinstance(queue.enter(0.0), Ticket)


def test_each_call_is_checked_against_its_own_wait_at_a_gate():
    """Also when a light call waits before it."""
    queue = GatedQueue(kind=Scale)
    queue.enter()
    light = queue.enter(expires_at=60.0)

    assert queue.enter(tokens=50, expires_at=40.0) == (
        "barrier0",
        "the call may not wait that long",
        50.0,
    )
    heavy = queue.enter(tokens=50, expires_at=60.0)
    heavy.expires_at = 40.0
    queue.admission.sweep(0.0)
    assert [ticket.decided for ticket in (light, heavy)] == [False, True]


def test_the_limit_gets_the_age_of_the_oldest_waiting_call():
    slots = TickRecorder()
    queue = GatedQueue(slots=slots)
    permit = queue.enter(3.0)
    ticket = queue.enter(4.0)
    queue.enter(6.0).settle(CANCELLED, 6.5, 0.5)
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
    queue = GatedQueue()
    queue.enter()
    brief, patient = queue.enter(expires_at=10.0), queue.enter(expires_at=50.0)
    queue.barrier.opens_at = 20.0
    queue.admission.sweep(0.0)

    assert brief.rejection == ("barrier0", "the call may not wait that long", 20.0)
    assert not patient.decided
    assert queue.woken == [brief]
    assert queue.admission.queued == 1


def test_a_call_that_cannot_be_served_in_time_is_shed_on_arrival():
    queue = GatedQueue(slots=2)
    queue.learn(4.0)
    queue.enter(), queue.enter()
    tickets = [queue.enter(expires_at=4.0) for _ in range(2)]  # 2 s and 4 s to wait
    refused = queue.enter(expires_at=4.0)

    assert [isinstance(t, Ticket) for t in tickets] == [True, True]
    assert refused == ("shed", "could not be served in time", 6.0)


def test_only_calls_ahead_of_a_call_count_for_its_wait():
    queue = GatedQueue(slots=1)
    queue.learn(1.0)
    queue.enter()
    for _ in range(5):
        queue.enter(priority=Priority.BATCH)

    assert isinstance(queue.enter(expires_at=1.0, priority=Priority.INTERACTIVE), Ticket)
    assert queue.enter(expires_at=6.0, priority=Priority.BATCH).policy == "shed"


def test_a_send_rate_counts_for_the_expected_wait():
    queue = GatedQueue(slots=100, spacings=[Spaced(2.0)])
    queue.barrier.opens_at = 1.0
    for _ in range(9):
        queue.enter()

    assert queue.enter(expires_at=4.9).policy == "shed"
    assert isinstance(queue.enter(expires_at=5.1), Ticket)


def test_a_limit_that_may_grow_sheds_only_calls_late_even_at_its_ceiling():
    queue = GatedQueue(slots=Growing(limit=1, most=4))
    queue.learn(1.0)
    for _ in range(4):
        queue.enter()

    assert isinstance(queue.enter(expires_at=1.1), Ticket)
    assert queue.enter(expires_at=1.1).policy == "shed"


def test_no_call_is_shed_before_a_service_time_is_known():
    queue = GatedQueue(slots=1)
    queue.enter()

    assert isinstance(queue.enter(expires_at=0.001), Ticket)


@table_test(("deadline", "shed"), [(12.9, True), (13.0, False)])
def test_a_call_is_shed_at_its_turn_without_time_for_an_answer(deadline, shed):
    queue = GatedQueue()
    first = queue.enter()
    ticket, next_one = queue.enter(expires_at=deadline, deadline_at=deadline), queue.enter()
    queue.learn(4.0)
    first.settle(CANCELLED, 6.0, 0.5)  # 1.75 times 4 s must be left

    assert shed == (ticket.rejection is not None)
    assert shed == (next_one.permit is not None)
    assert ticket.rejection is None or ticket.rejection.policy == "shed"


@table_test("turn", [10.0, 12.0])
def test_an_expired_call_is_shed_at_its_turn(turn):
    queue = GatedQueue()
    first, ticket, next_one = queue.enter(), queue.enter(expires_at=10.0), queue.enter()
    free(first, turn)

    assert ticket.rejection.policy == "shed"
    assert next_one.permit is not None


@table_test(("waited", "shed"), [(0.9, False), (1.0, True)])
def test_a_call_that_hardly_waited_is_sent_with_little_time_left(waited, shed):
    queue = GatedQueue()
    deadline = {"deadline_at": 103.0, "expires_at": 103.0}
    first, ticket = queue.enter(100.0), queue.enter(100.0, **deadline)
    queue.learn(4.0)
    first.settle(CANCELLED, 100.0 + waited, 0.5)

    assert shed == (ticket.rejection is not None)


def test_a_ticket_expires():
    queue = GatedQueue()
    queue.enter()
    ticket = queue.enter(expires_at=10.0)
    queue.admission.check(ticket, 9.9)
    assert not ticket.decided
    queue.admission.check(ticket, 10.0)
    assert ticket.rejection.policy == "shed"


def test_the_service_time_is_a_slow_moving_average():
    queue = GatedQueue()
    queue.learn(4.0)
    assert queue.admission.service == 4.0
    queue.learn(14.0)
    assert queue.admission.service == pytest.approx(5.0)


CUT = TIMEOUT._replace(own_deadline=True)


@table_test(("outcome", "service"), [(OK, 3.0), (CANCELLED, 0.0), (TIMEOUT, 0.0), (CUT, 3.0)])
def test_only_answers_and_deadline_cuts_update_the_service_time(outcome, service):
    queue = GatedQueue()
    queue.enter(2.0).settle(outcome, 5.0, 0.5)

    assert service == queue.admission.service


def test_an_attempt_cut_by_its_deadline_never_lowers_the_service_time():
    queue = GatedQueue()
    queue.learn(4.0)
    queue.enter(0.0).settle(CUT, 3.9, 0.5)
    assert queue.admission.service == 4.0
    queue.enter(0.0).settle(CUT, 14.0, 0.5)

    assert queue.admission.service == pytest.approx(5.0)
