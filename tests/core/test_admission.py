import pytest
from stage import OK, TARGET, TIMEOUT, Spaced

from stormbreak.core.admission import Admission
from stormbreak.core.concurrency import Concurrency, FixedLimit
from stormbreak.core.gate import OPEN
from stormbreak.core.permit import Permit
from stormbreak.core.queueing import QueuePolicy
from stormbreak.core.ticket import Ticket
from stormbreak.types import CANCELLED, Call, Priority, Rejection

INF = float("inf")


class Barrier:
    """A gate that opens when the test says so, and writes down what is asked of it."""

    minds_success = True

    def __init__(self, name="barrier", log=None):
        self.name = name
        self.opens_at = OPEN
        self.log = [] if log is None else log

    def ready_at(self, now):
        return self.opens_at if self.opens_at > now else OPEN

    def take(self, now):
        self.log.append(("take", self.name))
        return self.name

    def settle(self, token, outcome, now, uniform):
        self.log.append(("settle", token, outcome.verdict.value))


class Indifferent(Barrier):
    """One to which a success means nothing."""

    minds_success = False


class Door:
    """An admission with one barrier and so many slots."""

    def __init__(self, *, slots=1, size=100, barriers=1, spacings=()):
        self.log = []
        self.barriers = [Barrier(f"barrier{n}", self.log) for n in range(barriers)]
        self.barrier = self.barriers[0]
        self.slots = Concurrency(FixedLimit(in_flight=slots))
        self.woken = []
        self.numbers = iter(range(1, 1000))
        gates = [*self.barriers, self.slots]
        self.admission = Admission(
            gates, self.slots, QueuePolicy(size=size), self.wake, spacings=spacings
        )

    def wake(self, ticket):
        ticket.due = True
        self.woken.append(ticket)

    def enter(self, now=0.0, *, expires_at=INF, **call):
        return self.admission.enter(Call(next(self.numbers), TARGET, **call), now, expires_at)

    def learn(self, seconds):
        self.admission.learn(seconds)


def free(place, now=0.0, outcome=OK):
    place.settle(outcome, now, 0.5)


# ------------------------------------------------------------------ permits


def test_leaves_at_once_when_every_gate_agrees():
    door = Door()

    assert isinstance(door.enter(), Permit)
    assert door.slots.in_flight == 1


def test_gates_are_taken_in_order_and_settled_in_reverse():
    door = Door(barriers=2)
    free(door.enter())

    assert door.log == [
        ("take", "barrier0"),
        ("take", "barrier1"),
        ("settle", "barrier1", "ok"),
        ("settle", "barrier0", "ok"),
    ]


def test_a_gate_that_does_not_mind_success_hears_of_failures_alone():
    door = Door()
    indifferent = Indifferent("indifferent", log := [])
    admission = Admission(
        [door.barrier, indifferent, door.slots], door.slots, QueuePolicy(), door.wake
    )
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
    door = Door(barriers=2)
    door.barriers[1].opens_at = INF
    door.enter()

    assert door.log == []
    assert door.slots.in_flight == 0


def test_a_permit_settles_once():
    door = Door(slots=2)
    first, _second = door.enter(), door.enter()
    free(first)
    free(first)

    assert door.slots.in_flight == 1
    assert len([entry for entry in door.log if entry[0] == "settle"]) == 1


def test_a_settled_permit_lets_the_next_one_leave():
    door = Door()
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


def test_of_a_queue_that_stands_the_newest_interactive_call_goes_first():
    door = Door()
    permit = door.enter()
    tickets = [door.enter() for _ in range(7)]

    assert served_of(door, permit, tickets) == [6, 5, 4, 0, 1, 2, 3]  # of four or fewer the oldest


@pytest.mark.parametrize("priority", [Priority.BATCH, Priority.BACKGROUND])
def test_other_classes_go_oldest_first(priority):
    door = Door()
    permit = door.enter()
    tickets = [door.enter(priority=priority) for _ in range(7)]

    assert served_of(door, permit, tickets) == list(range(7))


def test_under_a_send_rate_the_oldest_goes_first():
    door = Door(spacings=[Spaced(100.0)])
    permit = door.enter()
    tickets = [door.enter() for _ in range(7)]

    assert served_of(door, permit, tickets) == list(range(7))


def test_oldest_first_within_a_priority_and_the_urgent_before_the_patient():
    door = Door(slots=2)
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


def test_nobody_overtakes_a_standing_queue():
    door = Door()
    door.barrier.opens_at = 5.0
    first = door.enter(0.0)
    second = door.enter(5.0)  # the gate has just opened, its time-keeper has not looked yet

    assert first.permit is not None
    assert second.permit is None


# ------------------------------------------------------------------ bounds


def test_a_full_queue_rejects():
    door = Door(size=1)
    _, ticket, refused = door.enter(), door.enter(), door.enter()

    assert isinstance(ticket, Ticket)
    assert isinstance(refused, Rejection)
    assert refused.policy == "queue"
    assert door.admission.queued == 1


def test_no_queue_at_all():
    door = Door(size=0)
    door.enter()

    assert door.enter().policy == "queue"


def test_a_full_queue_makes_room_for_a_more_urgent_call():
    door = Door(size=2)
    door.enter()
    batch = [door.enter(priority=Priority.BATCH) for _ in range(2)]
    urgent = door.enter(priority=Priority.INTERACTIVE)

    assert isinstance(urgent, Ticket)
    assert [t.rejection and t.rejection.policy for t in batch] == [None, "queue"]
    assert door.woken == [batch[1]]
    assert door.enter(priority=Priority.BATCH).policy == "queue"


def test_a_full_queue_makes_room_for_a_tenant_with_less_waiting():
    door = Door(size=3)
    door.enter()
    flood = [door.enter(tenant="many") for _ in range(3)]
    few = door.enter(tenant="few")

    assert isinstance(few, Ticket)
    assert flood[2].rejection == ("queue", "made room for a tenant with fewer calls waiting", None)
    assert door.enter(tenant="few").policy == "queue"  # now it has one, the other two
    assert door.admission.queued == 3


def test_what_a_tenant_waits_for_is_its_own_share():
    door = Door()
    door.learn(1.0)
    door.enter()
    batch = {"priority": Priority.BATCH, "expires_at": 4.0}
    for _ in range(4):
        door.enter(tenant="many", priority=Priority.BATCH)

    assert isinstance(door.enter(tenant="few", **batch), Ticket)
    assert door.enter(tenant="many", **batch).policy == "shed"


def test_room_that_time_made_is_not_overlooked():
    door = Door(slots=5, size=1)
    door.barrier.opens_at = 5.0
    door.enter(0.0)

    assert isinstance(door.enter(5.0), Permit)


# ------------------------------------------------------------------ time


def test_who_has_no_time_left_is_shed_on_arrival():
    door = Door()
    refused = door.enter(10.0, expires_at=10.0)

    assert refused.policy == "shed"
    assert door.slots.in_flight == 0


@pytest.mark.parametrize(("opens_at", "retry_at"), [(60.0, 60.0), (INF, None)])
def test_whose_time_is_over_hears_which_gate_took_it_and_when_to_come_back(opens_at, retry_at):
    door = Door()
    door.barrier.opens_at = 20.0
    ticket = door.enter(0.0, expires_at=30.0)
    door.barrier.opens_at = opens_at
    door.admission.check(ticket, 30.0)

    assert ticket.rejection == ("barrier0", "could not be served in time", retry_at)


def test_whose_time_is_over_behind_a_full_limit_is_shed():
    door = Door()
    door.learn(4.0)
    door.enter()
    ticket = door.enter(0.0, expires_at=30.0)
    door.admission.check(ticket, 30.0)

    assert ticket.rejection == ("shed", "could not be served in time", 38.0)


def test_of_a_full_limit_and_a_gate_that_waits_for_an_event_the_gate_is_named():
    door = Door()
    door.enter()
    ticket = door.enter(0.0, expires_at=30.0)
    door.barrier.opens_at = INF
    door.admission.check(ticket, 30.0)

    assert ticket.rejection.policy == "barrier0"


def test_a_gate_closed_for_longer_than_the_call_may_wait_rejects_with_its_time():
    door = Door()
    door.barrier.opens_at = 30.0

    assert door.enter(0.0, expires_at=29.0) == (
        "barrier0",
        "the call may not wait that long",
        30.0,
    )
    assert isinstance(door.enter(0.0, expires_at=30.0), Ticket)


def test_a_gate_closed_for_longer_than_the_longest_pause_rejects():
    door = Door()
    door.barrier.opens_at = 901.0
    assert door.enter(0.0).retry_at == 901.0
    door.barrier.opens_at = 900.0
    assert isinstance(door.enter(0.0), Ticket)


def test_sweep_rejects_whoever_a_gate_now_keeps_too_long():
    door = Door()
    door.enter()
    brief, patient = door.enter(expires_at=10.0), door.enter(expires_at=50.0)
    door.barrier.opens_at = 20.0
    door.admission.sweep(0.0)

    assert brief.rejection == ("barrier0", "the call may not wait that long", 20.0)
    assert not patient.decided
    assert door.woken == [brief]
    assert door.admission.queued == 1


def test_who_could_not_be_served_in_time_is_shed_on_arrival():
    door = Door(slots=2)
    door.learn(4.0)
    door.enter(), door.enter()
    tickets = [door.enter(expires_at=4.0) for _ in range(2)]  # 2 s and 4 s to wait
    refused = door.enter(expires_at=4.0)

    assert [isinstance(t, Ticket) for t in tickets] == [True, True]
    assert refused == ("shed", "could not be served in time", 6.0)


def test_only_those_ahead_count():
    door = Door(slots=1)
    door.learn(1.0)
    door.enter()
    for _ in range(5):
        door.enter(priority=Priority.BATCH)

    assert isinstance(door.enter(expires_at=1.0, priority=Priority.INTERACTIVE), Ticket)
    assert door.enter(expires_at=6.0, priority=Priority.BATCH).policy == "shed"


def test_a_send_rate_says_how_long_it_will_take():
    door = Door(slots=100, spacings=[Spaced(2.0)])
    door.barrier.opens_at = 1.0
    for _ in range(9):
        door.enter()

    assert door.enter(expires_at=4.9).policy == "shed"
    assert isinstance(door.enter(expires_at=5.1), Ticket)


def test_a_limit_that_may_grow_sheds_only_what_would_be_late_at_its_most():
    door = Door(slots=1)
    door.slots = Growing(limit=1, most=4)
    door.admission = Admission(
        [door.barrier, door.slots], door.slots, QueuePolicy(size=100), door.wake
    )
    door.learn(1.0)
    for _ in range(4):
        door.enter()

    assert isinstance(door.enter(expires_at=1.1), Ticket)
    assert door.enter(expires_at=1.1).policy == "shed"


class Growing(Concurrency):
    """A limit that is small now."""

    most = None

    def __init__(self, *, limit, most):
        super().__init__(FixedLimit(in_flight=limit))
        self.most = most


def test_nobody_is_shed_while_nothing_is_known():
    door = Door(slots=1)
    door.enter()

    assert isinstance(door.enter(expires_at=0.001), Ticket)


def test_at_its_turn_a_call_that_can_no_longer_be_answered_in_time_is_shed():
    door = Door()
    first = door.enter()
    late, fit = door.enter(expires_at=10.0, deadline_at=10.0), door.enter()
    door.learn(4.0)
    first.settle(CANCELLED, 6.0, 0.5)  # 4 s are left, 7 s would be needed

    assert late.rejection.policy == "shed"
    assert fit.permit is not None


@pytest.mark.parametrize(("waited", "shed"), [(0.9, False), (1.0, True)])
def test_who_hardly_waited_gets_its_chance(waited, shed):
    door = Door()
    first, ticket = door.enter(), door.enter(deadline_at=3.0, expires_at=3.0)
    door.learn(4.0)
    first.settle(CANCELLED, waited, 0.5)

    assert shed == (ticket.rejection is not None)


def test_a_ticket_expires():
    door = Door()
    door.enter()
    ticket = door.enter(expires_at=10.0)
    door.admission.check(ticket, 9.9)
    assert not ticket.decided
    door.admission.check(ticket, 10.0)
    assert ticket.rejection.policy == "shed"


def test_the_mean_answer_time_follows_slowly():
    door = Door()
    door.learn(4.0)
    assert door.admission.service == 4.0
    door.learn(14.0)
    assert door.admission.service == pytest.approx(5.0)


CUT = TIMEOUT._replace(own_deadline=True)


@pytest.mark.parametrize(
    ("outcome", "service"), [(OK, 3.0), (CANCELLED, 0.0), (TIMEOUT, 0.0), (CUT, 3.0)]
)
def test_answers_teach_how_long_an_answer_takes(outcome, service):
    door = Door()
    door.enter(2.0).settle(outcome, 5.0, 0.5)

    assert service == door.admission.service


def test_what_a_deadline_cut_took_at_least_so_long_and_teaches_no_less():
    door = Door()
    door.learn(4.0)
    door.enter(0.0).settle(CUT, 3.9, 0.5)
    assert door.admission.service == 4.0
    door.enter(0.0).settle(CUT, 14.0, 0.5)

    assert door.admission.service == pytest.approx(5.0)


# ------------------------------------------------------------------ who looks again


def test_one_ticket_keeps_time_for_all():
    door = Door()
    door.barrier.opens_at = 5.0
    first, second = door.enter(expires_at=60.0), door.enter(expires_at=60.0)

    assert [first.wake_at, second.wake_at] == [5.0, 60.0]


def test_the_keeper_lets_everybody_leave():
    door = Door(slots=2)
    door.barrier.opens_at = 5.0
    first, second = door.enter(), door.enter()
    door.admission.check(first, 5.0)

    assert [t.permit is not None for t in (first, second)] == [True, True]


@pytest.mark.parametrize("way", ["withdrawn", "expired", "swept", "displaced"])
def test_when_the_keeper_leaves_another_keeps_time(way):
    door = Door(slots=2, size=2)
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


def test_the_keeper_is_told_when_a_gate_will_open_earlier():
    door = Door()
    door.barrier.opens_at = 50.0
    ticket = door.enter()
    door.woken.clear()
    door.barrier.opens_at = 20.0
    door.admission.pump(1.0)

    assert ticket.wake_at == 20.0
    assert door.woken == [ticket]


def test_the_keeper_looks_at_the_latest_when_its_own_time_is_over():
    door = Door()
    door.barrier.opens_at = 5.0
    ticket = door.enter(expires_at=8.0)
    door.barrier.opens_at = 50.0
    door.admission.check(ticket, 5.0)

    assert ticket.wake_at == 8.0


def test_a_keeper_that_looks_too_early_keeps_time_again():
    door = Door()
    door.barrier.opens_at = 5.0
    ticket = door.enter()
    door.admission.check(ticket, 4.999)

    assert not ticket.decided
    assert ticket.wake_at == 5.0


def test_a_withdrawn_ticket_frees_its_place():
    door = Door()
    door.enter()
    ticket = door.enter()
    free(ticket, outcome=CANCELLED)
    free(ticket, outcome=CANCELLED)

    assert door.admission.queued == 0


def test_a_ticket_granted_and_given_back_passes_the_grant_on():
    door = Door()
    first, second, third = door.enter(), door.enter(), door.enter()
    free(first)
    free(second, outcome=CANCELLED)

    assert third.permit is not None
    assert door.slots.in_flight == 1


def test_who_holds_the_queue_is_named():
    door = Door()
    assert door.admission.held_by(0.0) == "queue"
    door.enter()
    assert door.admission.held_by(0.0) == "limit"
    door.admission.settle([None, None], 0.0, OK, 0.0, 0.5)
    door.barrier.opens_at = 5.0
    assert door.admission.held_by(0.0) == "barrier0"
