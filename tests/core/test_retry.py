import pytest
from stage import INVALID, SERVER_ERROR, TIMEOUT, retry_in
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import NoRetry, Retry, RetryAllowance, RetryPolicy, decide
from stormbreak.core.retry_budget import Budget, BudgetPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS, Outcome, Repair, Verdict

SECOND = RetryPolicy(
    max_attempts=3,
    backoff=Backoff(kind="constant", initial_delay=1.0),
    min_time_left=0.5,
    max_wait=60.0,
)


MISFIT = Outcome(Verdict.SCHEMA_MISMATCH, status=200)
TO_REPAIR = MISFIT._replace(repair=Repair(10, None))


def ask(outcome=SERVER_ERROR, policy=SECOND, *, attempt=1, budget=None, chance=0.0, **left):
    return decide(
        policy,
        TREATMENTS[outcome.verdict],
        outcome,
        attempt=attempt,
        left=RetryAllowance(**left),
        budget=budget,
        now=100.0,
        uniform=chance,
    )


TABLE = [
    # the question, the decision
    ({}, Retry(101.0, free=True)),
    ({"outcome": INVALID}, NoRetry("verdict")),
    ({"outcome": SERVER_ERROR._replace(committed=True)}, NoRetry("committed")),
    ({"attempt": 2}, Retry(101.0, free=True)),
    ({"attempt": 3}, NoRetry("attempts")),
    ({"deadline": 1.5}, Retry(101.0, free=True)),
    ({"deadline": 1.49}, NoRetry("deadline")),
    ({"attempts": 1}, Retry(101.0, free=True)),
    ({"attempts": 0}, NoRetry("attempts")),
    ({"patience": 1.01}, Retry(101.0, free=True)),
    ({"patience": 1.0}, NoRetry("patience")),  # no time would be left to pass the gates
    ({"outcome": retry_in(60.0)}, Retry(160.0, free=True)),
    ({"outcome": retry_in(60.0), "chance": 0.5}, Retry(175.0, free=True)),
    ({"outcome": retry_in(61.0)}, NoRetry("max_wait", 161.0)),
    ({"outcome": retry_in(0.01)}, Retry(101.0, free=True)),  # not below the floor of the backoff
    ({"outcome": retry_in(2.0)}, Retry(102.0, free=True)),
    ({"outcome": retry_in(10.0), "deadline": 9.0}, NoRetry("deadline", 110.0)),
    ({"outcome": retry_in(10.0), "patience": 9.0}, NoRetry("patience", 110.0)),
    ({"outcome": retry_in(10.0), "attempt": 3}, NoRetry("attempts", 110.0)),
    ({"outcome": MISFIT}, NoRetry("repairs")),
    ({"outcome": TO_REPAIR}, Retry(100.0, free=True)),  # at once: the target has answered
    ({"outcome": TO_REPAIR, "attempt": 3}, NoRetry("attempts")),
    ({"outcome": TO_REPAIR, "deadline": 0.49}, NoRetry("deadline")),
]


@table_test(("question", "answer"), TABLE)
def test_each_gate_decides_about_a_retry(question, answer):
    assert answer == ask(**question)


@table_test(
    ("backoff", "floor"),
    [
        (Backoff(kind="constant", initial_delay=0.5), 0.5),
        (Backoff(kind="linear", initial_delay=0.3), 0.3),
        (Backoff(kind="exponential", initial_delay=0.4), 0.4),
        (Backoff(kind="equal_jitter", initial_delay=0.4), 0.2),
        (Backoff(kind="decorrelated_jitter", initial_delay=0.4), 0.4),
        (Backoff(kind="proportional_jitter", initial_delay=1.0, min_delay=0.1), 0.1),
        (Backoff(initial_delay=1.0), 0.02),  # no floor: the named time counts
    ],
)
@table_test("attempt", [1, 5])
def test_a_very_short_retry_after_never_undercuts_the_backoff_with_a_budget(
    backoff, floor, attempt
):
    policy = RetryPolicy(max_attempts=9, backoff=backoff)
    assert ask(retry_in(0.02), policy, attempt=attempt) == Retry(100.0 + floor, free=True)
    budget = Budget(BudgetPolicy())
    backs_off = 100.0 + backoff.delay(attempt, 0.0, 0.0)
    assert ask(retry_in(0.02), policy, attempt=attempt, budget=budget).until == max(
        100.02, backs_off
    )
    assert ask(retry_in(0.5), policy, attempt=attempt, budget=budget).until == 100.5


def test_backoff_counts_retries_from_one():
    policy = RetryPolicy(backoff=Backoff(kind="linear", initial_delay=1.0))

    assert [ask(policy=policy, attempt=n).until for n in (1, 2)] == [101.0, 102.0]


def test_some_statuses_wait_one_step_longer():
    policy = RetryPolicy(
        backoff=Backoff(kind="linear", initial_delay=1.0), longer_backoff_on=(504,)
    )
    gateway_timeout = TIMEOUT._replace(status=504)

    assert ask(gateway_timeout, policy).until == 102.0
    assert ask(SERVER_ERROR, policy).until == 101.0


def test_a_retry_is_paid_if_it_is_not_free():
    budget = Budget(BudgetPolicy(ratio=1.0))
    budget.earn(100.0)

    assert ask(TIMEOUT, budget=budget) == Retry(101.0, free=False)
    assert ask(TIMEOUT, budget=budget) == NoRetry("budget")


def test_an_invalid_value_is_named():
    with pytest.raises(ConfigurationError, match="max_attempts must be at least 1, got 0"):
        RetryPolicy(max_attempts=0)
    with pytest.raises(ConfigurationError, match="min_time_left must not be negative, got -1"):
        RetryPolicy(min_time_left=-1)
    with pytest.raises(ConfigurationError, match="max_wait must be positive, got 0"):
        RetryPolicy(max_wait=0)
    with pytest.raises(ConfigurationError, match="retry_after_jitter must not be negative, got -1"):
        RetryPolicy(retry_after_jitter=-1)


def test_extreme_values_are_valid():
    policy = RetryPolicy(max_attempts=1, min_time_left=0, max_wait=0.5, retry_after_jitter=0)

    assert ask(policy=policy) == NoRetry("attempts")


def test_retry_policy_defaults():
    assert (
        RetryPolicy(max_attempts=6, min_time_left=0.5, max_wait=900.0, retry_after_jitter=0.5)
        == RetryPolicy()
    )


def test_max_wait_does_not_apply_without_a_named_time():
    policy = RetryPolicy(backoff=Backoff(kind="constant", initial_delay=1.0), max_wait=0.5)

    assert ask(policy=policy) == Retry(101.0, free=True)


def test_the_first_retry_has_no_previous_delay():
    policy = RetryPolicy(backoff=Backoff(kind="decorrelated_jitter", initial_delay=0.5))

    assert ask(policy=policy, chance=0.5) == Retry(101.0, free=True)


def exhausted():
    """The budget of a process that has no retries left."""
    budget = Budget(BudgetPolicy())
    for _ in range(3):
        budget.record(SERVER_ERROR, 100.0)
    return budget


@table_test(
    ("left", "chance", "until"),
    [
        ({"deadline": 40.5}, 0.0, 101.0),  # the backoff
        ({"deadline": 40.5}, 1.0, 130.0),  # three quarters of the time left minus min_time_left
        ({"deadline": 40.5}, 0.5, 115.5),
        ({"deadline": 900.0, "patience": 20.0}, 1.0, 115.0),
        ({"deadline": 900.0}, 1.0, 160.0),  # max_delay
    ],
)
def test_a_late_retry_leaves_at_a_random_time_of_those_left(left, chance, until):
    decision = ask(budget=exhausted(), chance=chance, late=True, **left)

    assert decision == Retry(pytest.approx(until), free=True, late=True)


@table_test("left", [{"late": True}, {"deadline": 40.0}, {"deadline": 1.6, "late": True}])
def test_a_late_retry_needs_a_deadline_permission_and_time(left):
    assert ask(budget=exhausted(), **left) == NoRetry("budget")
