"""The ticket that keeps the timer of a queue, and tickets that leave the queue."""

from gated_queue import GatedQueue, Turnstile, free
from stage import TARGET
from table_test import table_test

from stormbreak.types import CANCELLED, Call, Priority


def test_one_ticket_keeps_the_timer_of_the_queue():
    queue = GatedQueue()
    queue.barrier.opens_at = 5.0
    first, second = queue.enter(expires_at=60.0), queue.enter(expires_at=60.0)

    assert [first.wake_at, second.wake_at] == [5.0, 60.0]


def test_the_timer_ticket_admits_all_calls_that_may_leave():
    queue = GatedQueue(slots=2)
    queue.barrier.opens_at = 5.0
    first, second = queue.enter(), queue.enter()
    queue.admission.check(first, 5.0)

    assert [t.permit is not None for t in (first, second)] == [True, True]


@table_test("way", ["withdrawn", "expired", "swept", "displaced"])
def test_another_ticket_takes_over_the_timer_when_the_timer_ticket_leaves(way):
    queue = GatedQueue(slots=2, size=2)
    queue.barrier.opens_at = 5.0
    last = Priority.BATCH if way == "displaced" else Priority.INTERACTIVE
    timer = queue.enter(expires_at=8.0, priority=last)
    other = queue.enter(expires_at=60.0)
    assert timer.wake_at == 5.0
    if way == "withdrawn":
        free(timer, 1.0)
    elif way == "expired":
        queue.barrier.opens_at = 20.0
        queue.admission.check(timer, 8.0)
    elif way == "swept":
        queue.barrier.opens_at = 20.0
        queue.admission.sweep(1.0)
        queue.admission.pump(1.0)
    else:
        queue.enter(1.0)
        assert timer.rejection.policy == "queue"

    assert queue.barrier.opens_at == other.wake_at
    assert other.due


def test_another_ticket_takes_over_the_timer_when_the_timer_ticket_is_served():
    """Also when a new call finds the gate open and admits it."""
    queue = GatedQueue(slots=9, kind=Turnstile)
    queue.enter(0.0)
    timer, other = queue.enter(0.5, expires_at=60.0), queue.enter(0.5, expires_at=60.0)
    assert [timer.wake_at, other.wake_at] == [1.0, 60.0]
    queue.enter(1.0)

    assert timer.permit is not None
    assert other.wake_at == 2.0


def test_the_timer_ticket_is_not_woken_for_a_time_it_knows():
    queue = GatedQueue()
    queue.barrier.opens_at = 50.0
    queue.enter()
    queue.woken.clear()
    queue.admission.pump(1.0)

    assert queue.woken == []


def test_the_timer_ticket_is_woken_when_a_gate_opens_earlier():
    queue = GatedQueue()
    queue.barrier.opens_at = 50.0
    ticket = queue.enter()
    queue.woken.clear()
    queue.barrier.opens_at = 20.0
    queue.admission.pump(1.0)

    assert ticket.wake_at == 20.0
    assert queue.woken == [ticket]


def test_the_timer_ticket_wakes_no_later_than_its_own_expiry():
    queue = GatedQueue()
    queue.barrier.opens_at = 5.0
    ticket = queue.enter(expires_at=8.0)
    queue.barrier.opens_at = 50.0
    queue.admission.check(ticket, 5.0)

    assert ticket.wake_at == 8.0


def test_a_timer_ticket_that_wakes_early_keeps_the_timer():
    queue = GatedQueue()
    queue.barrier.opens_at = 5.0
    ticket = queue.enter()
    queue.admission.check(ticket, 4.999)

    assert not ticket.decided
    assert ticket.wake_at == 5.0


def test_a_withdrawn_ticket_frees_its_place():
    queue = GatedQueue()
    queue.enter()
    ticket = queue.enter()
    free(ticket, outcome=CANCELLED)
    free(ticket, outcome=CANCELLED)

    assert queue.admission.queued == 0


def test_a_granted_ticket_that_is_given_back_passes_the_grant_on():
    queue = GatedQueue()
    first, second, third = queue.enter(), queue.enter(), queue.enter()
    free(first)
    free(second, outcome=CANCELLED)

    assert third.permit is not None
    assert queue.slots.in_flight == 1


def test_the_queue_names_the_gate_that_holds_a_call():
    queue = GatedQueue()
    assert queue.admission.held_by(Call(0, TARGET), 0.0) == "queue"
    permit = queue.enter()
    assert queue.admission.held_by(Call(0, TARGET), 0.0) == "limit"
    free(permit)
    queue.barrier.opens_at = 5.0
    assert queue.admission.held_by(Call(0, TARGET), 0.0) == "barrier0"
