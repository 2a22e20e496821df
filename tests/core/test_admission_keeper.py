"""Who looks again when only time can open a gate, and who is let go by whoever leaves."""

from door import GatedQueue, Turnstile, free
from stage import TARGET
from table_test import table_test

from stormbreak.types import CANCELLED, Call, Priority


def test_one_ticket_keeps_time_for_all():
    door = GatedQueue()
    door.barrier.opens_at = 5.0
    first, second = door.enter(expires_at=60.0), door.enter(expires_at=60.0)

    assert [first.wake_at, second.wake_at] == [5.0, 60.0]


def test_the_keeper_lets_everybody_leave():
    door = GatedQueue(slots=2)
    door.barrier.opens_at = 5.0
    first, second = door.enter(), door.enter()
    door.admission.check(first, 5.0)

    assert [t.permit is not None for t in (first, second)] == [True, True]


@table_test("way", ["withdrawn", "expired", "swept", "displaced"])
def test_when_the_keeper_leaves_another_keeps_time(way):
    door = GatedQueue(slots=2, size=2)
    door.barrier.opens_at = 5.0
    last = Priority.BATCH if way == "displaced" else Priority.INTERACTIVE
    keeper = door.enter(expires_at=8.0, priority=last)
    other = door.enter(expires_at=60.0)
    assert keeper.wake_at == 5.0
    if way == "withdrawn":
        free(keeper, 1.0)
    elif way == "expired":
        door.barrier.opens_at = 20.0
        door.admission.check(keeper, 8.0)
    elif way == "swept":
        door.barrier.opens_at = 20.0
        door.admission.sweep(1.0)
        door.admission.pump(1.0)
    else:
        door.enter(1.0)
        assert keeper.rejection.policy == "queue"

    assert door.barrier.opens_at == other.wake_at
    assert other.due


def test_when_the_keeper_is_served_another_keeps_time():
    """It need not have looked itself: whoever comes finds the gate open."""
    door = GatedQueue(slots=9, kind=Turnstile)
    door.enter(0.0)
    keeper, other = door.enter(0.5, expires_at=60.0), door.enter(0.5, expires_at=60.0)
    assert [keeper.wake_at, other.wake_at] == [1.0, 60.0]
    door.enter(1.0)

    assert keeper.permit is not None
    assert other.wake_at == 2.0


def test_the_keeper_is_not_woken_for_what_it_knows():
    door = GatedQueue()
    door.barrier.opens_at = 50.0
    door.enter()
    door.woken.clear()
    door.admission.pump(1.0)

    assert door.woken == []


def test_the_timer_ticket_is_woken_when_a_gate_opens_earlier():
    door = GatedQueue()
    door.barrier.opens_at = 50.0
    ticket = door.enter()
    door.woken.clear()
    door.barrier.opens_at = 20.0
    door.admission.pump(1.0)

    assert ticket.wake_at == 20.0
    assert door.woken == [ticket]


def test_the_keeper_looks_at_the_latest_when_its_own_time_is_over():
    door = GatedQueue()
    door.barrier.opens_at = 5.0
    ticket = door.enter(expires_at=8.0)
    door.barrier.opens_at = 50.0
    door.admission.check(ticket, 5.0)

    assert ticket.wake_at == 8.0


def test_a_keeper_that_looks_too_early_keeps_time_again():
    door = GatedQueue()
    door.barrier.opens_at = 5.0
    ticket = door.enter()
    door.admission.check(ticket, 4.999)

    assert not ticket.decided
    assert ticket.wake_at == 5.0


def test_a_withdrawn_ticket_frees_its_place():
    door = GatedQueue()
    door.enter()
    ticket = door.enter()
    free(ticket, outcome=CANCELLED)
    free(ticket, outcome=CANCELLED)

    assert door.admission.queued == 0


def test_a_ticket_granted_and_given_back_passes_the_grant_on():
    door = GatedQueue()
    first, second, third = door.enter(), door.enter(), door.enter()
    free(first)
    free(second, outcome=CANCELLED)

    assert third.permit is not None
    assert door.slots.in_flight == 1


def test_who_holds_the_queue_is_named():
    door = GatedQueue()
    assert door.admission.held_by(Call(0, TARGET), 0.0) == "queue"
    permit = door.enter()
    assert door.admission.held_by(Call(0, TARGET), 0.0) == "limit"
    free(permit)
    door.barrier.opens_at = 5.0
    assert door.admission.held_by(Call(0, TARGET), 0.0) == "barrier0"
