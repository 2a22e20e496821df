from math import e

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test

from stormbreak.core.retry_budget import SHORT_WAIT, UNKNOWN, Budget, BudgetPolicy, Load
from stormbreak.errors import ConfigurationError
from stormbreak.types import CANCELLED, Outcome, Verdict

HEALTHY = Load(healthy=True)
LUCKY = Load(healthy=True, timeouts_are_luck=True)
GATED = Load(gated=True)
ADAPTIVE = Load(gated=True, adaptive=True)


def earned(calls, **changes):
    budget = Budget(BudgetPolicy(**changes))
    for _ in range(calls):
        budget.earn(0.0)
    return budget


def is_free(budget, outcome, load=UNKNOWN, now=0.0):
    budget.record(outcome, now)
    return budget.is_free(outcome, now, load)


def test_a_budget_starts_empty():
    assert not earned(0).try_pay(0.0)


def test_ten_calls_earn_one_retry():
    budget = earned(10)
    budget.earn(0.0)

    assert budget.try_pay(0.0)
    assert not budget.try_pay(0.0)


def test_exactly_one_pays_a_retry():
    assert earned(1, ratio=1.0).try_pay(0.0)


@table_test("outcome", [SERVER_ERROR, Outcome(Verdict.RESET), THROTTLED, TIMEOUT])
@table_test("outcomes", [1, 9, 10])
def test_a_late_retry_needs_low_traffic_and_a_quick_failure(outcome, outcomes):
    budget = earned(0)
    for _ in range(outcomes):
        budget.record(outcome, 0.0)
    hung = outcome in (THROTTLED, TIMEOUT)

    assert budget.may_retry_late(outcome, 0.0) is (outcomes < 10 and not hung)


@table_test("changes", [{"no_free_retries": True}, {"low_traffic_retries": 0}])
def test_a_policy_without_free_retries_allows_no_late_retry(changes):
    assert not earned(0, **changes).may_retry_late(SERVER_ERROR, 0.0)


def test_a_refused_retry_costs_nothing():
    budget = earned(5)
    before = budget.balance(0.0)

    assert not budget.try_pay(0.0)
    assert before == budget.balance(0.0)


def test_the_balance_is_capped_and_decays():
    budget = earned(1000)

    assert budget.balance(0.0) == 10.0
    assert budget.balance(60.0) == pytest.approx(10.0 / e)
    assert budget.balance(-5.0) == 10.0  # a clock that goes back earns nothing


def test_decay_does_not_depend_on_how_often_calls_earn():
    budget = earned(50)
    for second in range(1, 31):
        budget.balance(second)

    assert budget.balance(30.0) == pytest.approx(5.0 * e**-0.5)
    budget.earn(30.0)
    assert budget.balance(60.0) == pytest.approx((5.0 * e**-0.5 + 0.1) * e**-0.5)
    budget.earn(60.0), budget.earn(60.5)
    left = ((5.0 * e**-0.5 + 0.1) * e**-0.5 + 0.1) * e ** (-0.5 / 60.0) + 0.1
    assert budget.balance(60.5) == pytest.approx(left, abs=1e-6)


def test_paying_restarts_the_decay_from_the_balance():
    budget = earned(100)
    budget.try_pay(60.0)

    assert budget.balance(60.0) == pytest.approx(10.0 / e - 1)
    assert budget.balance(120.0) == pytest.approx((10.0 / e - 1) / e)


FREE = [
    # what happened before, the failure, whether its retry is free
    ([], THROTTLED, True),
    ([], SERVER_ERROR, True),
    ([THROTTLED], SERVER_ERROR, True),
    ([THROTTLED, SERVER_ERROR], SERVER_ERROR, False),
    ([THROTTLED, SERVER_ERROR, OK], SERVER_ERROR, True),
    (
        [SERVER_ERROR, OK, SERVER_ERROR],
        SERVER_ERROR,
        True,
    ),  # a run begins with its first failure
    ([CANCELLED, CANCELLED, CANCELLED], SERVER_ERROR, True),
    ([INVALID] * 5, SERVER_ERROR, True),  # our own errors say nothing about the target
    ([THROTTLED, INVALID, SERVER_ERROR], SERVER_ERROR, False),  # they do not end a run
    ([TIMEOUT], SERVER_ERROR, True),
    ([TIMEOUT, TIMEOUT], SERVER_ERROR, False),
    ([SERVER_ERROR, TIMEOUT], SERVER_ERROR, False),
    ([], TIMEOUT, False),
    ([], Outcome(Verdict.RESET), True),
    ([], Outcome(Verdict.BROKEN), True),
    ([], Outcome(Verdict.CONNECT_FAILED), True),
    ([OK] * 8, TIMEOUT, False),
    ([OK] * 8, THROTTLED, True),
    ([OK] * 9, THROTTLED, False),
    ([TIMEOUT] * 50, retry_in(3.0), True),
    ([retry_in(SHORT_WAIT)] * 5, SERVER_ERROR, True),  # a retry at the named time uses up nothing
    ([retry_in(SHORT_WAIT)] * 5 + [SERVER_ERROR], SERVER_ERROR, True),
    (
        [SERVER_ERROR, retry_in(SHORT_WAIT), SERVER_ERROR],
        SERVER_ERROR,
        False,
    ),  # it does not end a run either
    ([retry_in(0.9 * SHORT_WAIT)] * 2, SERVER_ERROR, False),
]


@table_test(("before", "failure", "free"), FREE)
def test_with_low_traffic_two_failures_in_a_row_are_retried_free(before, failure, free):
    budget = earned(0)
    for outcome in before:
        budget.record(outcome, 0.0)

    assert free == is_free(budget, failure)


BUSY = [OK] * 9
LOADS = [
    # what happened before, the failure, what the gates know, whether its retry is free
    (BUSY, SERVER_ERROR, UNKNOWN, False),
    (BUSY, SERVER_ERROR, HEALTHY, True),
    (BUSY, THROTTLED, HEALTHY, False),  # nothing would slow us down at a real limit
    (BUSY, THROTTLED, Load(healthy=True, slowed_by_429s=True), True),
    (BUSY, THROTTLED, Load(slowed_by_429s=True), False),
    (BUSY, SERVER_ERROR, GATED, True),
    (BUSY, TIMEOUT, UNKNOWN, False),
    (BUSY, TIMEOUT, HEALTHY, False),
    (BUSY, TIMEOUT, LUCKY, True),
    (BUSY, TIMEOUT, Load(timeouts_are_luck=True), False),
    (BUSY, TIMEOUT, GATED, False),  # a circuit: all would leave at once when it closes
    (BUSY, TIMEOUT, ADAPTIVE, True),
    ([SERVER_ERROR] * 9, SERVER_ERROR, HEALTHY, True),  # however many fail
    ([TIMEOUT] * 9, TIMEOUT, LUCKY, True),
    ([], TIMEOUT, HEALTHY, False),
    ([], TIMEOUT, LUCKY, True),  # in a process with low traffic
    ([], TIMEOUT, ADAPTIVE, False),  # its gates do not know the load
    ([TIMEOUT] * 2, TIMEOUT, LUCKY, False),
    ([SERVER_ERROR] * 2, SERVER_ERROR, HEALTHY, False),
    ([SERVER_ERROR] * 2, SERVER_ERROR, GATED, False),
    ([OK] * 7 + [SERVER_ERROR] * 2, SERVER_ERROR, HEALTHY, True),
    (BUSY, retry_in(SHORT_WAIT), UNKNOWN, True),
    ([TIMEOUT] * 2, retry_in(SHORT_WAIT), UNKNOWN, True),
    (BUSY, TIMEOUT, Load(new=True, limited=True), True),  # the first burst is the load
    (BUSY, THROTTLED, Load(new=True, limited=True), True),
    (BUSY, TIMEOUT, Load(new=True), False),
    (BUSY, TIMEOUT, Load(limited=True), False),
    ([], TIMEOUT, Load(new=True, limited=True), False),
]


@table_test(("before", "failure", "load", "free"), LOADS)
def test_the_known_load_decides_which_retry_is_free(before, failure, load, free):
    budget = earned(0)
    for outcome in before:
        budget.record(outcome, 0.0)

    assert free == is_free(budget, failure, load)


def test_traffic_of_half_a_minute_ago_does_not_count():
    budget = earned(0)
    for _ in range(50):
        budget.record(OK, 0.0)

    assert not is_free(budget, THROTTLED, now=1.0)
    assert budget.is_free(THROTTLED, 40.0)


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.booleans()), max_size=100))
def test_the_balance_stays_within_bounds_and_never_exceeds_what_was_earned(steps):
    budget, now, calls, paid = earned(0), 0.0, 0, 0
    for pause, pays in steps:
        now += pause
        if pays:
            paid += budget.try_pay(now)
        else:
            calls += 1
            budget.earn(now)

        assert 0.0 <= budget.balance(now) <= 10.0
        assert paid <= 0.1 * calls + 1e-9


@table_test(
    "name",
    [
        "ratio",
        "capacity",
        "decay_time",
        "low_traffic_calls",
        "low_traffic_window",
        "low_traffic_retries",
    ],
)
def test_an_invalid_value_is_named(name):
    with pytest.raises(ConfigurationError, match=f"{name} must .*, got -1"):
        BudgetPolicy(**{name: -1})


@table_test("name", ["decay_time", "low_traffic_window"])
def test_a_time_of_zero_is_invalid(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be positive, got 0"):
        BudgetPolicy(**{name: 0})


def test_the_smallest_values_are_valid():
    least = {
        "ratio": 0,
        "capacity": 0,
        "decay_time": 0.5,
        "low_traffic_calls": 0,
        "low_traffic_window": 0.5,
        "low_traffic_retries": 0,
    }
    for name, value in least.items():
        assert value == getattr(BudgetPolicy(**{name: value}), name)


@table_test("outcome", [SERVER_ERROR, retry_in(1.0)])
def test_without_free_retries_every_retry_is_paid(outcome):
    def after_answers(policy):
        budget = Budget(policy)
        for _ in range(50):
            budget.record(OK, 0.0)
        return is_free(budget, outcome, LUCKY)

    assert after_answers(BudgetPolicy())
    assert not after_answers(BudgetPolicy(no_free_retries=True))


def test_traffic_counts_for_exactly_half_a_minute():
    budget = earned(0)
    for _ in range(10):
        budget.record(OK, 0.0)

    assert not budget.is_free(THROTTLED, 29.9)
    assert budget.is_free(THROTTLED, 30.0)


def test_unknown_load_claims_nothing():
    assert Load(gated=False, healthy=False, timeouts_are_luck=False) == UNKNOWN
