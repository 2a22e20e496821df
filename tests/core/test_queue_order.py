import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stage import TARGET
from table_test import table_test

from stormbreak.core.queue_order import Queue, QueuePolicy, Ticket
from stormbreak.errors import ConfigurationError
from stormbreak.types import Call, Priority

INTERACTIVE, BATCH, BACKGROUND = Priority
WEIGHTS = {"big": 3.0, "small": 0.5}
TENANTS = ["", "big", "small"]


def ticket(number=0, priority=INTERACTIVE, tenant="", at=0.0):
    call = Call(number, TARGET, priority=priority, tenant=tenant)
    return Ticket(lambda *_: None, call, at, float("inf"))


def queue_of(*tickets, **policy):
    queue = Queue(QueuePolicy(**policy))
    for one in tickets:
        queue.push(one)
    return queue


def serve(queue, *, newest_first=False):
    served = queue.peek(newest_first=newest_first)
    queue.serve(served)
    return served


def test_calls_leave_by_priority_then_turn_then_age():
    tickets = [
        ticket(0, BATCH, "a"),
        ticket(1, INTERACTIVE, "a"),
        ticket(2, INTERACTIVE, "a"),
        ticket(3, INTERACTIVE, "b"),
        ticket(4, BACKGROUND, "b"),
    ]
    queue = queue_of(*tickets)

    assert [serve(queue).call.number for _ in range(5)] == [1, 3, 2, 0, 4]


def test_newest_first_serves_the_newest_interactive_call_of_each_tenant():
    queue = queue_of(*(ticket(n, INTERACTIVE, "ab"[n % 2]) for n in range(6)))

    assert [serve(queue, newest_first=True).call.number for _ in range(6)] == [4, 5, 2, 3, 0, 1]


@given(
    min_share=st.floats(0.01, 1 / 3),
    crowd=st.lists(st.sampled_from(Priority), min_size=1, max_size=3, unique=True),
    rounds=st.integers(1, 300),
)
def test_every_waiting_priority_gets_its_minimum_share(min_share, crowd, rounds):
    queue = queue_of(*(ticket(0, priority) for priority in crowd * 2), min_share=min_share)
    counts = Counter()
    for _ in range(rounds):
        served = serve(queue)
        counts[served.call.priority] += 1
        queue.push(ticket(0, served.call.priority))

    for priority in crowd:
        assert counts[priority] >= int(min_share * rounds) - 1
    urgent = min(crowd)
    assert counts[urgent] >= rounds * (1 - (len(crowd) - 1) * min_share) - 1


def test_without_a_minimum_share_priority_is_strict():
    queue = queue_of(ticket(0, BATCH), min_share=0)
    for _ in range(1000):
        queue.push(ticket())
        assert serve(queue).call.priority is INTERACTIVE


def test_a_priority_without_waiting_calls_earns_no_credit():
    queue = queue_of(ticket(), ticket(0, BATCH), min_share=0.25)
    for _ in range(3):
        serve(queue)
        queue.push(ticket())
    gone = list(queue)[-1]
    queue.discard(gone)
    queue.push(ticket(1, BATCH))

    assert serve(queue).call.priority is INTERACTIVE


def test_no_credit_is_earned_while_no_more_urgent_call_waits():
    queue = queue_of(*(ticket(n, BATCH) for n in range(50)), ticket(99, BACKGROUND))
    for _ in range(19):
        serve(queue)
    assert serve(queue).call.number == 99  # its share of one in twenty
    queue.push(ticket(100))

    assert serve(queue).call.number == 100


def test_turns_without_a_more_urgent_call_cost_no_later_turns():
    batch = [ticket(n, BATCH) for n in range(30)]
    background = [ticket(n, BACKGROUND) for n in range(30)]
    queue = queue_of(*batch, *background)
    for _ in range(10):
        assert serve(queue).call.priority is BATCH
    for _ in range(40):
        queue.push(ticket())

    assert BATCH in [serve(queue).call.priority for _ in range(20)]


def test_credit_is_reset_when_no_more_urgent_call_waits():
    less = [ticket(n, priority) for priority in (BATCH, BACKGROUND) for n in range(9)]
    queue = queue_of(ticket(), ticket(), *less, min_share=0.25)
    served = [serve(queue).call.priority for _ in range(3)]
    assert served == [INTERACTIVE, INTERACTIVE, BATCH]
    for _ in range(9):
        queue.push(ticket())

    served = [serve(queue).call.priority for _ in range(4)]
    assert served == [BACKGROUND, INTERACTIVE, INTERACTIVE, BATCH]


def test_a_call_that_leaves_unserved_costs_its_tenant_no_turn():
    tickets = [ticket(n, tenant=tenant) for n, tenant in enumerate("aab")]
    queue = queue_of(*tickets)
    queue.discard(tickets[1])

    assert serve(queue) is tickets[0]


@table_test(
    ("call", "ahead"),
    [
        ({}, 4),
        ({"tenant": "few"}, 1),
        ({"tenant": "none"}, 2),  # one of each other tenant
        ({"priority": BATCH}, 7),
        ({"priority": BACKGROUND}, 8),
    ],
)
def test_ahead_of_counts_the_calls_served_before_a_new_one(call, ahead):
    waiting = [ticket(tenant="many") for _ in range(4)]
    waiting = [*(ticket() for _ in range(4))] if not call else waiting
    if call.get("tenant") == "none":
        waiting.append(ticket(tenant="few"))
    if "priority" in call:
        waiting += [ticket(0, BATCH) for _ in range(3)]
    if call.get("priority") is BACKGROUND:
        waiting.append(ticket(0, BACKGROUND))

    assert queue_of(*waiting).ahead_of(Call(1, TARGET, **call)) == ahead


@table_test(("weight", "ahead"), [(1.0, 3), (2.0, 2), (0.5, 5)])
def test_ahead_of_counts_other_tenants_by_weight(weight, ahead):
    waiting = [ticket(tenant="own"), *(ticket(tenant="other") for _ in range(9))]
    queue = queue_of(*waiting, tenant_weights={"own": weight})

    assert queue.ahead_of(Call(1, TARGET, tenant="own")) == ahead


def test_ahead_of_counts_the_minimum_share_of_a_priority():
    queue = queue_of(*(ticket() for _ in range(100)), min_share=0.1)

    assert queue.ahead_of(Call(1, TARGET, priority=BATCH)) == pytest.approx(9)


def test_without_a_minimum_share_a_call_is_behind_all_more_urgent_ones():
    queue = queue_of(*(ticket() for _ in range(100)), min_share=0)

    assert queue.ahead_of(Call(1, TARGET, priority=BATCH)) == 100


@table_test(("own", "makes_room"), [(0, True), (1, False)])
def test_a_full_queue_evicts_only_from_a_tenant_with_more_calls(own, makes_room):
    """Two of another tenant wait; with the new call its own tenant has one or two."""
    others = [ticket(n, tenant="other") for n in range(2)]
    queue = queue_of(*others, *[ticket(9, tenant="own")] * own)

    displaced = queue.victim_for(Call(9, TARGET, tenant="own"), newest_first=False)
    assert displaced is (others[1] if makes_room else None)


def test_a_full_queue_evicts_from_the_tenant_with_most_calls_by_weight():
    tickets = [ticket(n, BATCH, tenant) for n, tenant in enumerate(["big"] * 4 + ["small"] * 2)]
    queue = queue_of(*tickets, tenant_weights=WEIGHTS)

    assert (
        queue.victim_for(Call(9, TARGET, priority=BATCH, tenant="new"), newest_first=False)
        is tickets[5]
    )
    assert (
        queue.victim_for(Call(9, TARGET, priority=BATCH, tenant="small"), newest_first=False)
        is None
    )
    assert queue.victim_for(Call(9, TARGET, priority=BACKGROUND), newest_first=False) is None


def test_the_new_call_does_not_count_for_the_load_of_its_tenant():
    tickets = [ticket(n, BATCH, tenant) for n, tenant in enumerate(["many"] * 3 + ["light"])]
    queue = queue_of(*tickets, tenant_weights={"light": 0.4})  # 3 / 1 against 1 / 0.4

    assert queue.victim_for(Call(9, TARGET, priority=BATCH), newest_first=False) is tickets[2]


def test_newest_first_evicts_the_oldest_call():
    tickets = [ticket(n, INTERACTIVE, "many") for n in range(3)]
    queue = queue_of(*tickets)

    assert queue.victim_for(Call(9, TARGET), newest_first=True) is tickets[0]
    assert queue.victim_for(Call(9, TARGET), newest_first=False) is tickets[2]


class Queueing(RuleBasedStateMachine):
    """Calls enter, are served and leave in any order, compared with a plain list of waiting calls."""

    def __init__(self):
        super().__init__()
        self.queue = Queue(QueuePolicy(tenant_weights=WEIGHTS))
        self.waiting = []
        self.now = 0.0
        self.passed_over = Counter()  # calls served while a tenant's oldest waits, by priority

    @rule(priority=st.sampled_from(Priority), tenant=st.sampled_from(TENANTS))
    def push(self, priority, tenant):
        self.now += 1
        one = ticket(int(self.now), priority, tenant, at=self.now)
        self.waiting.append(one)
        self.queue.push(one)

    @precondition(lambda self: self.waiting)
    @rule(newest_first=st.booleans())
    def serve(self, newest_first):
        expected = self.queue.peek(newest_first=newest_first)
        assert self.queue.peek(newest_first=newest_first) is expected  # peek changes nothing
        served = serve(self.queue, newest_first=newest_first)
        assert served is expected
        alike = [
            one
            for one in self.waiting
            if (one.call.priority, one.call.tenant) == (served.call.priority, served.call.tenant)
        ]
        newest = newest_first and served.call.priority is INTERACTIVE
        assert served is alike[-1 if newest else 0]
        self.waiting.remove(served)
        self.none_is_starved(served.call)

    def none_is_starved(self, served):
        for priority in Priority:
            for tenant in TENANTS:
                waits = any(
                    (t.call.priority, t.call.tenant) == (priority, tenant) for t in self.waiting
                )
                if not waits or (served.priority, served.tenant) == (priority, tenant):
                    self.passed_over[priority, tenant] = 0
                elif served.priority is priority:
                    self.passed_over[priority, tenant] += 1
                    # "small" is served once for two of "" and six of "big", or one more of each
                    assert self.passed_over[priority, tenant] <= 10

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0, 10**6))
    def discard(self, pick):
        gone = self.waiting.pop(pick % len(self.waiting))
        assert gone in self.queue
        self.queue.discard(gone)
        assert gone not in self.queue
        self.passed_over.clear()

    @invariant()
    def the_same_wait(self):
        assert self.queue.size == len(self.waiting)
        assert sorted(self.waiting, key=lambda one: one.call.priority) == list(self.queue)
        if self.waiting:
            assert min(one.queued_at for one in self.waiting) == self.queue.oldest_at()

    @invariant()
    def no_more_are_ahead_than_wait(self):
        for priority in Priority:
            for tenant in TENANTS:
                own = [
                    t
                    for t in self.waiting
                    if (t.call.priority, t.call.tenant) == (priority, tenant)
                ]
                urgent = [t for t in self.waiting if t.call.priority <= priority]
                ahead = self.queue.ahead_of(Call(0, TARGET, priority=priority, tenant=tenant))
                assert len(own) <= ahead + 1e-9
                assert ahead <= len(urgent) + 1e-9


TestQueueing = Queueing.TestCase


def test_a_queue_policy_copies_its_weights_and_can_be_pickled():
    weights = {"shop": 2.0}
    policy = QueuePolicy(tenant_weights=weights)
    weights["shop"] = -1.0

    assert policy.tenant_weights == {"shop": 2.0}
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(QueuePolicy())


@table_test(
    ("values", "message"),
    [
        ({"max_size": -1}, "max_size must not be negative, got -1"),
        ({"max_pause": 0}, "max_pause must be positive, got 0"),
        ({"min_share": 0.5}, r"min_share must be within \[0, 1/3\], got 0.5"),
        ({"tenant_weights": {"shop": 0}}, "tenant_weights.shop must be positive, got 0"),
        ({"tenant_weights": {"a\n": 1}}, r"names in tenant_weights must be printable, got 'a\\n'"),
    ],
)
def test_an_invalid_value_is_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        QueuePolicy(**values)


def test_extreme_values_are_valid_and_defaults_hold():
    QueuePolicy(max_size=0, max_pause=0.1, min_share=1 / 3, tenant_weights={"shop": 0.1})
    QueuePolicy(min_share=0)

    assert QueuePolicy() == QueuePolicy(
        max_size=10_000, max_pause=900.0, min_share=0.05, tenant_weights={}
    )


def test_a_tenant_whose_load_grew_is_evicted_next():
    queue = queue_of(ticket(0, tenant="a"), ticket(1, tenant="a"), ticket(2, tenant="b"))
    newcomer = Call(9, TARGET, tenant="new")
    assert queue.victim_for(newcomer, newest_first=False).call.tenant == "a"
    more = [ticket(number, tenant="b") for number in (3, 4)]
    for one in more:
        queue.push(one)

    assert queue.victim_for(newcomer, newest_first=False) is more[1]
