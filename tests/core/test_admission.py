"""The queue: which call leaves, which is next, which finds room."""

from gated_queue import INF, GatedQueue, Indifferent, free
from stage import OK, TARGET, TIMEOUT, Spaced
from table_test import table_test

from stormbreak.core.admission import TargetQueue
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import READY, Permit
from stormbreak.core.queue_order import QueuePolicy, Ticket
from stormbreak.types import TREATMENTS, Call, Priority, Rejection

# ------------------------------------------------------------------ permits


def test_a_call_leaves_at_once_when_every_gate_is_ready():
    queue = GatedQueue()

    assert isinstance(queue.enter(), Permit)
    assert queue.slots.in_flight == 1


def test_gates_are_taken_in_order_and_settled_in_reverse():
    queue = GatedQueue(barriers=2)
    free(queue.enter())

    assert queue.log == [
        ("take", "barrier0"),
        ("take", "barrier1"),
        ("settle", "barrier1", "ok"),
        ("settle", "barrier0", "ok"),
    ]


def test_a_gate_that_ignores_success_settles_failures_only():
    queue = GatedQueue()
    indifferent = Indifferent("indifferent", log := [])
    diagnosis = Diagnosis(TREATMENTS)
    gates = [queue.barrier, indifferent, queue.slots, diagnosis]
    admission = TargetQueue(gates, queue.slots, diagnosis, QueuePolicy(), queue.wake)
    for outcome in (OK, TIMEOUT):
        free(admission.enter(Call(1, TARGET), 0.0, INF), outcome=outcome)

    assert [entry for entry in log if entry[0] == "settle"] == [
        ("settle", "indifferent", "timeout")
    ]
    assert [entry for entry in queue.log if entry[0] == "settle"] == [
        ("settle", "barrier0", "ok"),
        ("settle", "barrier0", "timeout"),
    ]


def test_no_gate_is_taken_while_one_is_closed():
    queue = GatedQueue(barriers=2)
    queue.barriers[1].opens_at = INF
    queue.enter()

    assert queue.log == []
    assert queue.slots.in_flight == 0


def test_a_permit_settles_once():
    queue = GatedQueue(slots=2)
    first, _second = queue.enter(), queue.enter()
    free(first)
    free(first)

    assert queue.slots.in_flight == 1
    assert len([entry for entry in queue.log if entry[0] == "settle"]) == 1


def test_a_settled_permit_admits_the_next_call():
    queue = GatedQueue()
    first, ticket = queue.enter(), queue.enter()
    assert isinstance(ticket, Ticket)
    free(first)

    assert ticket.permit is not None
    assert ticket.decided
    assert queue.woken == [ticket]
    assert (queue.slots.in_flight, queue.admission.queued) == (1, 0)


# ------------------------------------------------------------------ order


def served_of(queue, permit, tickets):
    """The order in which tickets are served, by number."""
    order = []
    while queue.admission.queued:
        free(permit)
        number = next(n for n, t in enumerate(tickets) if t.permit is not None and n not in order)
        order.append(number)
        permit = tickets[number].permit
    return order


def waiting(queue, number=7, **call):
    """`number` calls that may wait for a minute."""
    return [queue.enter(expires_at=60.0, **call) for _ in range(number)]


def make_the_queue_too_long(queue):
    """Let answers take so long that most of the calls would wait for more than a minute."""
    queue.learn(10.0)


def test_the_newest_interactive_call_goes_first_in_an_overlong_queue():
    queue = GatedQueue()
    permit = queue.enter()
    tickets = waiting(queue)
    make_the_queue_too_long(queue)

    assert served_of(queue, permit, tickets) == [6, 5, 4, 0, 1, 2, 3]  # of four or fewer the oldest


def test_the_oldest_call_goes_first_if_all_can_be_served_in_time():
    queue = GatedQueue()
    permit = queue.enter()
    tickets = waiting(queue)
    queue.learn(7.0)

    assert served_of(queue, permit, tickets) == list(range(7))


def test_an_impatient_call_does_not_make_the_queue_overlong():
    queue = GatedQueue()
    permit = queue.enter()
    tickets = waiting(queue)
    queue.learn(7.0)
    assert isinstance(queue.enter(expires_at=0.5), Rejection)

    assert served_of(queue, permit, tickets) == list(range(7))


def test_the_oldest_call_goes_first_in_a_queue_that_began_during_a_pause():
    queue = GatedQueue()
    queue.barrier.opens_at = 1.0
    first, *tickets = waiting(queue, 8)
    queue.barrier.opens_at = READY
    queue.admission.check(first, 1.0)
    make_the_queue_too_long(queue)

    assert served_of(queue, first.permit, tickets) == list(range(7))


def test_the_order_does_not_change_while_calls_wait():
    queue = GatedQueue()
    permit = queue.enter()
    tickets = waiting(queue)
    make_the_queue_too_long(queue)
    free(permit)
    queue.admission.service = 0.1

    assert served_of(queue, tickets[6].permit, tickets[:6]) == [5, 4, 0, 1, 2, 3]


@table_test("priority", [Priority.BATCH, Priority.BACKGROUND])
def test_batch_classes_go_oldest_first(priority):
    queue = GatedQueue()
    permit = queue.enter()
    tickets = waiting(queue, priority=priority)
    make_the_queue_too_long(queue)

    assert served_of(queue, permit, tickets) == list(range(7))


def test_the_oldest_call_goes_first_under_a_send_rate():
    queue = GatedQueue(spacings=[Spaced(100.0)])
    permit = queue.enter()
    tickets = waiting(queue)
    make_the_queue_too_long(queue)

    assert served_of(queue, permit, tickets) == list(range(7))


def test_urgent_classes_go_first_and_the_oldest_within_a_class():
    queue = GatedQueue(slots=2)
    permit, _ = queue.enter(), queue.enter()
    tickets = [
        queue.enter(priority=priority)
        for priority in (Priority.BACKGROUND, Priority.BATCH, Priority.INTERACTIVE) * 2
    ]
    served = []
    while queue.admission.queued:
        free(permit)
        ticket = next(t for t in tickets if t.permit is not None and t not in served)
        served.append(ticket)
        permit = ticket.permit

    assert [tickets[n] for n in (2, 5, 1, 4, 0, 3)] == served


def test_a_new_call_does_not_overtake_waiting_calls():
    queue = GatedQueue()
    queue.barrier.opens_at = 5.0
    first = queue.enter(0.0)
    second = queue.enter(5.0)  # the gate has just opened, its timer ticket has not checked yet

    assert first.permit is not None
    assert second.permit is None


# ------------------------------------------------------------------ bounds


def test_a_full_queue_rejects_a_call():
    queue = GatedQueue(size=1)
    _, ticket, refused = queue.enter(), queue.enter(), queue.enter()

    assert isinstance(ticket, Ticket)
    assert isinstance(refused, Rejection)
    assert refused.policy == "queue"
    assert queue.admission.queued == 1


def test_a_full_queue_names_the_time_to_retry():
    queue = GatedQueue(size=1)
    queue.learn(2.0)
    queue.enter(10.0), queue.enter(10.0)

    assert queue.enter(10.0) == ("queue", "1 calls are waiting", 14.0)


def test_a_queue_of_size_zero_rejects_every_call():
    queue = GatedQueue(size=0)
    queue.enter()

    assert queue.enter().policy == "queue"


def test_a_full_queue_evicts_a_less_urgent_call():
    queue = GatedQueue(size=2)
    queue.enter()
    batch = [queue.enter(priority=Priority.BATCH) for _ in range(2)]
    urgent = queue.enter(priority=Priority.INTERACTIVE)

    assert isinstance(urgent, Ticket)
    assert [t.rejection and t.rejection.policy for t in batch] == [None, "queue"]
    assert queue.woken == [batch[1]]
    assert queue.enter(priority=Priority.BATCH).policy == "queue"


def test_a_full_queue_evicts_a_call_of_the_tenant_with_most_waiting():
    queue = GatedQueue(size=3)
    queue.enter()
    flood = [queue.enter(tenant="many") for _ in range(3)]
    few = queue.enter(tenant="few")

    assert isinstance(few, Ticket)
    assert flood[2].rejection == ("queue", "made room for a tenant with fewer calls waiting", None)
    assert queue.enter(tenant="few").policy == "queue"  # now it has one, the other two
    assert queue.admission.queued == 3


def test_a_tenant_waits_only_behind_its_own_share():
    queue = GatedQueue()
    queue.learn(1.0)
    queue.enter()
    batch = {"priority": Priority.BATCH, "expires_at": 4.0}
    for _ in range(4):
        queue.enter(tenant="many", priority=Priority.BATCH)

    assert isinstance(queue.enter(tenant="few", **batch), Ticket)
    assert queue.enter(tenant="many", **batch).policy == "shed"


def test_a_full_queue_does_not_hold_a_call_whose_gate_has_just_opened():
    queue = GatedQueue(slots=5, size=1)
    queue.barrier.opens_at = 5.0
    queue.enter(0.0)

    assert isinstance(queue.enter(5.0), Permit)
