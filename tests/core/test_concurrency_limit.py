import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test

from stormbreak.core.concurrency_limit import AimdLimit, AimdLimiter
from stormbreak.core.gate import NEVER, READY
from stormbreak.errors import ConfigurationError
from stormbreak.types import CANCELLED, Outcome, Verdict

OVERLOADED = Outcome(Verdict.OVERLOADED, status=529)


class Plant:
    """A target with `capacity` slots that refuses more, and clients that always have more to send.

    A round takes a second: every client fills its limit, then all are answered.
    """

    def __init__(self, capacity, *limits):
        self.capacity = capacity
        self.clients = [AimdLimiter(limit) for limit in limits]
        self.now = 0.0
        self.served = self.refused = 0

    def round(self, demand=10_000):
        sent = []
        for client in self.clients:
            room = max(0, min(demand, client.limit - client.in_flight))
            sent += [(client, client.take(None, self.now)) for _ in range(room)]
        self.now += 1.0
        random.Random(int(self.now)).shuffle(sent)
        for number, (client, token) in enumerate(sent):
            refused = number >= self.capacity
            self.refused += refused
            self.served += not refused
            client.settle(token, THROTTLED if refused else OK, self.now, 0.5)
        return [client.limit for client in self.clients]

    def rounds(self, count, **demand):
        return [self.round(**demand) for _ in range(count)]


def full(slots):
    return [slots.take(None, 0.0) for _ in range(slots.limit - slots.in_flight)]


def settle(slots, tokens, outcome=OK, now=1.0):
    for token in tokens:
        slots.settle(token, outcome, now, 0.5)


def test_a_slot_is_taken_and_freed():
    slots = AimdLimiter(AimdLimit(initial_in_flight=2))
    one, _two = full(slots)
    assert slots.ready_at(None, 0.0) == NEVER
    slots.settle(one, CANCELLED, 0.0, 0.5)
    assert slots.ready_at(None, 0.0) == READY
    assert (slots.in_flight, slots.limit, slots.max_limit) == (1, 2, 256)


def test_the_limit_doubles_per_round_trip_until_the_first_congestion():
    plant = Plant(1000, AimdLimit(initial_in_flight=10))

    assert [limit for (limit,) in plant.rounds(6)] == [20, 40, 80, 160, 256, 256]


def test_the_limit_climbs_by_its_increase_per_round_trip_after_congestion():
    plant = Plant(15, AimdLimit(initial_in_flight=10, increase=2.0, decrease_factor=0.5))
    plant.rounds(2)  # 20, and then half of it
    plant.capacity = 1000
    limits = [plant.clients[0].limit, *(limit for (limit,) in plant.rounds(20))]

    assert limits[0] < 20
    assert {1, 2} >= {after - before for before, after in pairwise(limits)}
    assert limits[0] + 2 * 20 - 2 <= limits[-1]


def test_an_unused_limit_does_not_climb():
    plant = Plant(1000, AimdLimit(initial_in_flight=10))

    assert [limit for (limit,) in plant.rounds(50, demand=9)] == [10] * 50


@table_test(
    ("outcome", "limit"),
    [
        (THROTTLED, 8),
        (retry_in(2.0), 8),
        (OVERLOADED, 8),
        (TIMEOUT, 8),
        (TIMEOUT._replace(own_deadline=True), 10),
        (SERVER_ERROR, 10),
        (INVALID, 10),
        (CANCELLED, 10),
    ],
)
def test_throttling_overload_and_timeouts_lower_the_limit(outcome, limit):
    slots = AimdLimiter(AimdLimit(initial_in_flight=10))
    settle(slots, full(slots)[:1], outcome)

    assert slots.limit == limit


def test_the_limit_falls_once_per_round_trip():
    slots = AimdLimiter(AimdLimit(initial_in_flight=100))
    settle(slots, full(slots), THROTTLED)
    assert slots.limit == 80
    settle(slots, full(slots), THROTTLED)
    assert slots.limit == 64


def test_results_of_attempts_sent_before_a_fall_change_nothing():
    slots = AimdLimiter(AimdLimit(initial_in_flight=10))
    first, *others = full(slots)
    slots.settle(first, THROTTLED, 1.0, 0.5)
    settle(slots, others, OK)

    assert (slots.limit, slots._exact) == (8, 8.0)


def test_a_slow_answer_lowers_the_limit_if_a_threshold_is_set():
    slots = AimdLimiter(AimdLimit(initial_in_flight=10, max_in_flight=10, slow_call_threshold=5.0))
    settle(slots, full(slots)[:1], OK, now=5.0)
    assert slots.limit == 10
    settle(slots, full(slots)[:1], OK, now=5.1)
    assert slots.limit == 8


def test_an_answer_time_counts_from_sending():
    slots = AimdLimiter(AimdLimit(initial_in_flight=10, slow_call_threshold=5.0))
    slots.settle(slots.take(None, 100.0), OK, 104.0, 0.5)

    assert slots.limit >= 10


def test_an_aimd_limit_always_binds_and_learns_from_success():
    slots = AimdLimiter(AimdLimit())

    assert slots.binds(0.0) is True
    assert slots.on_success


def test_a_short_timeout_lowers_the_limit():
    slots = AimdLimiter(AimdLimit(initial_in_flight=10, slow_call_threshold=5.0))
    settle(slots, full(slots)[:1], TIMEOUT, now=1.0)

    assert slots.limit == 8


@given(
    outcomes=st.lists(st.sampled_from([OK, THROTTLED, TIMEOUT, SERVER_ERROR]), max_size=200),
    min_in_flight=st.integers(1, 5),
    more=st.integers(0, 5),
    increase=st.floats(0.1, 50.0),
    decrease_factor=st.floats(0.01, 0.99),
)
def test_the_limit_stays_within_its_bounds(
    outcomes, min_in_flight, more, increase, decrease_factor
):
    limit = AimdLimit(
        min_in_flight=min_in_flight,
        initial_in_flight=min_in_flight,
        max_in_flight=min_in_flight + more,
        increase=increase,
        decrease_factor=decrease_factor,
    )
    slots = AimdLimiter(limit)
    for outcome in outcomes:
        settle(slots, full(slots), outcome)
        assert min_in_flight <= slots.limit <= min_in_flight + more


@table_test("capacity", [5, 30, 100])
def test_the_limit_finds_the_capacity_of_a_target(capacity):
    plant = Plant(capacity, AimdLimit(increase=1.0))
    plant.rounds(20)
    plant.served = plant.refused = 0
    limits = [limit for (limit,) in plant.rounds(300)]

    assert max(limits) <= capacity + 1
    assert min(limits) >= int(0.8 * capacity)
    assert plant.served >= 0.85 * capacity * 300
    assert (
        plant.refused <= 0.5 * 300
    )  # one at each peak, and there are two rounds to a peak at least


def test_the_limit_follows_a_falling_and_rising_capacity():
    plant = Plant(100, AimdLimit())
    plant.rounds(50)
    plant.capacity = 10
    plant.rounds(12)
    assert plant.clients[0].limit <= 14
    plant.capacity = 100
    plant.rounds(23)
    assert plant.clients[0].limit >= 80


def test_two_clients_converge_to_equal_limits():
    plant = Plant(60, AimdLimit(initial_in_flight=50), AimdLimit(initial_in_flight=2))
    plant.clients[1]._epoch = 1  # it climbs by steps from the beginning
    plant.rounds(100)
    used = [sum(limits) for limits in zip(*plant.rounds(300), strict=True)]

    assert max(used) <= 1.2 * min(used)


@table_test(
    ("values", "message"),
    [
        ({"min_in_flight": 0}, "min_in_flight must be at least 1, got 0"),
        (
            {"initial_in_flight": 1, "min_in_flight": 2},
            "initial_in_flight must not be below min_in_flight, got 1",
        ),
        ({"max_in_flight": 10}, "max_in_flight must not be below initial_in_flight, got 10"),
        ({"increase": 0}, "increase must be positive, got 0"),
        ({"decrease_factor": 0}, "decrease_factor must lie between 0 and 1, got 0"),
        ({"decrease_factor": 1}, "decrease_factor must lie between 0 and 1, got 1"),
        ({"slow_call_threshold": 0}, "slow_call_threshold must be positive, got 0"),
    ],
)
def test_an_invalid_value_is_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        AimdLimit(**values)


def test_extreme_values_are_valid_and_defaults_hold():
    AimdLimit(
        min_in_flight=1,
        initial_in_flight=1,
        max_in_flight=1,
        increase=0.1,
        decrease_factor=0.1,
        slow_call_threshold=0.1,
    )

    assert AimdLimit() == AimdLimit(
        initial_in_flight=20,
        increase=4.0,
        decrease_factor=0.8,
        min_in_flight=1,
        max_in_flight=256,
        slow_call_threshold=None,
    )
