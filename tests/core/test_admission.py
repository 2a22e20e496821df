"""The queue: who leaves, who is next, who finds room."""

from door import INF, GatedQueue, Indifferent, free
from stage import OK, TARGET, TIMEOUT, Spaced
from table_test import table_test

from stormbreak.core.admission import TargetQueue
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import READY, Permit
from stormbreak.core.queue_order import QueuePolicy, Ticket
from stormbreak.types import TREATMENTS, Call, Priority, Rejection

# ------------------------------------------------------------------ permits


def test_leaves_at_once_when_every_gate_agrees():
    door = GatedQueue()

    assert isinstance(door.enter(), Permit)
    assert door.slots.in_flight == 1


def test_gates_are_taken_in_order_and_settled_in_reverse():
    door = GatedQueue(barriers=2)
    free(door.enter())

    assert door.log == [
        ("take", "barrier0"),
        ("take", "barrier1"),
        ("settle", "barrier1", "ok"),
        ("settle", "barrier0", "ok"),
    ]


def test_a_gate_that_does_not_mind_success_hears_of_failures_alone():
    door = GatedQueue()
    indifferent = Indifferent("indifferent", log := [])
    diagnosis = Diagnosis(TREATMENTS)
    gates = [door.barrier, indifferent, door.slots, diagnosis]
    admission = TargetQueue(gates, door.slots, diagnosis, QueuePolicy(), door.wake)
    for outcome in (OK, TIMEOUT):
        free(admission.enter(Call(1, TARGET), 0.0, INF), outcome=outcome)

    assert [entry for entry in log if entry[0] == "settle"] == [
        ("settle", "indifferent", "timeout")
    ]
    assert [entry for entry in door.log if entry[0] == "settle"] == [
        ("settle", "barrier0", "ok"),
        ("settle", "barrier0", "timeout"),
    ]


def test_one_closed_gate_means_that_none_is_taken():
    door = GatedQueue(barriers=2)
    door.barriers[1].opens_at = INF
    door.enter()

    assert door.log == []
    assert door.slots.in_flight == 0


def test_a_permit_settles_once():
    door = GatedQueue(slots=2)
    first, _second = door.enter(), door.enter()
    free(first)
    free(first)

    assert door.slots.in_flight == 1
    assert len([entry for entry in door.log if entry[0] == "settle"]) == 1


def test_a_settled_permit_lets_the_next_one_leave():
    door = GatedQueue()
    first, ticket = door.enter(), door.enter()
    assert isinstance(ticket, Ticket)
    free(first)

    assert ticket.permit is not None
    assert ticket.decided
    assert door.woken == [ticket]
    assert (door.slots.in_flight, door.admission.queued) == (1, 0)


# ------------------------------------------------------------------ order


def served_of(door, permit, tickets):
    """The order in which tickets are served, by number."""
    order = []
    while door.admission.queued:
        free(permit)
        number = next(n for n, t in enumerate(tickets) if t.permit is not None and n not in order)
        order.append(number)
        permit = tickets[number].permit
    return order


def waiting(door, number=7, **call):
    """So many calls that may wait for a minute."""
    return [door.enter(expires_at=60.0, **call) for _ in range(number)]


def make_the_queue_too_long(door):
    """Let answers take so long that most of those calls would wait for more than a minute."""
    door.learn(10.0)


def test_of_a_queue_that_is_too_long_the_newest_interactive_call_goes_first():
    door = GatedQueue()
    permit = door.enter()
    tickets = waiting(door)
    make_the_queue_too_long(door)

    assert served_of(door, permit, tickets) == [6, 5, 4, 0, 1, 2, 3]  # of four or fewer the oldest


def test_of_a_queue_that_can_be_served_in_time_the_oldest_goes_first():
    door = GatedQueue()
    permit = door.enter()
    tickets = waiting(door)
    door.learn(7.0)

    assert served_of(door, permit, tickets) == list(range(7))


def test_a_call_that_may_not_wait_makes_no_queue_too_long():
    door = GatedQueue()
    permit = door.enter()
    tickets = waiting(door)
    door.learn(7.0)
    assert isinstance(door.enter(expires_at=0.5), Rejection)

    assert served_of(door, permit, tickets) == list(range(7))


def test_of_a_queue_that_began_to_stand_in_a_pause_the_oldest_goes_first():
    door = GatedQueue()
    door.barrier.opens_at = 1.0
    first, *tickets = waiting(door, 8)
    door.barrier.opens_at = READY
    door.admission.check(first, 1.0)
    make_the_queue_too_long(door)

    assert served_of(door, first.permit, tickets) == list(range(7))


def test_the_order_stays_while_the_queue_stands():
    door = GatedQueue()
    permit = door.enter()
    tickets = waiting(door)
    make_the_queue_too_long(door)
    free(permit)
    door.admission.service = 0.1

    assert served_of(door, tickets[6].permit, tickets[:6]) == [5, 4, 0, 1, 2, 3]


@table_test("priority", [Priority.BATCH, Priority.BACKGROUND])
def test_other_classes_go_oldest_first(priority):
    door = GatedQueue()
    permit = door.enter()
    tickets = waiting(door, priority=priority)
    make_the_queue_too_long(door)

    assert served_of(door, permit, tickets) == list(range(7))


def test_under_a_send_rate_the_oldest_goes_first():
    door = GatedQueue(spacings=[Spaced(100.0)])
    permit = door.enter()
    tickets = waiting(door)
    make_the_queue_too_long(door)

    assert served_of(door, permit, tickets) == list(range(7))


def test_oldest_first_within_a_priority_and_the_urgent_before_the_patient():
    door = GatedQueue(slots=2)
    permit, _ = door.enter(), door.enter()
    tickets = [
        door.enter(priority=priority)
        for priority in (Priority.BACKGROUND, Priority.BATCH, Priority.INTERACTIVE) * 2
    ]
    served = []
    while door.admission.queued:
        free(permit)
        ticket = next(t for t in tickets if t.permit is not None and t not in served)
        served.append(ticket)
        permit = ticket.permit

    assert [tickets[n] for n in (2, 5, 1, 4, 0, 3)] == served


def test_no_call_overtakes_a_standing_queue():
    door = GatedQueue()
    door.barrier.opens_at = 5.0
    first = door.enter(0.0)
    second = door.enter(5.0)  # the gate has just opened, its time-keeper has not looked yet

    assert first.permit is not None
    assert second.permit is None


# ------------------------------------------------------------------ bounds


def test_a_full_queue_rejects():
    door = GatedQueue(size=1)
    _, ticket, refused = door.enter(), door.enter(), door.enter()

    assert isinstance(ticket, Ticket)
    assert isinstance(refused, Rejection)
    assert refused.policy == "queue"
    assert door.admission.queued == 1


def test_a_full_queue_says_when_to_come_back():
    door = GatedQueue(size=1)
    door.learn(2.0)
    door.enter(10.0), door.enter(10.0)

    assert door.enter(10.0) == ("queue", "1 calls are waiting", 14.0)


def test_no_queue_at_all():
    door = GatedQueue(size=0)
    door.enter()

    assert door.enter().policy == "queue"


def test_a_full_queue_makes_room_for_a_more_urgent_call():
    door = GatedQueue(size=2)
    door.enter()
    batch = [door.enter(priority=Priority.BATCH) for _ in range(2)]
    urgent = door.enter(priority=Priority.INTERACTIVE)

    assert isinstance(urgent, Ticket)
    assert [t.rejection and t.rejection.policy for t in batch] == [None, "queue"]
    assert door.woken == [batch[1]]
    assert door.enter(priority=Priority.BATCH).policy == "queue"


def test_a_full_queue_makes_room_for_a_tenant_with_less_waiting():
    door = GatedQueue(size=3)
    door.enter()
    flood = [door.enter(tenant="many") for _ in range(3)]
    few = door.enter(tenant="few")

    assert isinstance(few, Ticket)
    assert flood[2].rejection == ("queue", "made room for a tenant with fewer calls waiting", None)
    assert door.enter(tenant="few").policy == "queue"  # now it has one, the other two
    assert door.admission.queued == 3


def test_what_a_tenant_waits_for_is_its_own_share():
    door = GatedQueue()
    door.learn(1.0)
    door.enter()
    batch = {"priority": Priority.BATCH, "expires_at": 4.0}
    for _ in range(4):
        door.enter(tenant="many", priority=Priority.BATCH)

    assert isinstance(door.enter(tenant="few", **batch), Ticket)
    assert door.enter(tenant="many", **batch).policy == "shed"


def test_room_that_time_made_is_not_overlooked():
    door = GatedQueue(slots=5, size=1)
    door.barrier.opens_at = 5.0
    door.enter(0.0)

    assert isinstance(door.enter(5.0), Permit)
