"""Law 1. Gates before a retry, in this order: the verdict allows it, the server does not forbid it, nothing has reached the caller,
attempts are left, delay and a minimum useful time fit before the deadline and within patience, the budget
pays. The budget is charged last, so a refusal costs nothing.
"""

from hypothesis import given
from hypothesis import strategies as st
from stage import SERVER_ERROR, TIMEOUT
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import NoRetry, Retry, RetryAllowance, RetryPolicy, decide
from stormbreak.core.retry_budget import Budget, BudgetPolicy, Load
from stormbreak.types import TREATMENTS, Outcome, Verdict

POLICY = RetryPolicy(
    max_attempts=3, backoff=Backoff(kind="constant", initial_delay=2.0), min_time_left=0.5
)
GATES = ("verdict", "forbidden", "committed", "attempts", "deadline", "patience", "budget")


def account(credit):
    """A budget of `credit` retries in a busy process with an unknown load: no retry is free."""
    budget = Budget(BudgetPolicy(ratio=float(credit), low_traffic_calls=0))
    budget.earn(0.0)
    return budget


def ask(closed, budget):
    """Decide about a retry while the gates in `closed` refuse it."""
    outcome = TIMEOUT._replace(
        verdict=Verdict.INVALID if "verdict" in closed else Verdict.TIMEOUT,
        forbidden="forbidden" in closed,
        committed="committed" in closed,
    )
    return decide(
        POLICY,
        TREATMENTS[outcome.verdict],
        outcome,
        attempt=3 if "attempts" in closed else 2,
        left=RetryAllowance(
            deadline=2.4 if "deadline" in closed else 2.5,
            patience=1.9 if "patience" in closed else 2.1,
        ),
        budget=budget,
        load=Load(),
        now=0.0,
        uniform=0.5,
    )


@given(st.sets(st.sampled_from(GATES)))
def test_the_first_closed_gate_refuses_the_retry(closed):
    budget = account(0 if "budget" in closed else 5)
    first = next((gate for gate in GATES if gate in closed), None)

    assert (Retry(2.0, free=False) if first is None else NoRetry(first)) == ask(closed, budget)


@given(st.sets(st.sampled_from(GATES[:-1]), min_size=1))
def test_a_refused_retry_costs_nothing(closed):
    budget = account(5)
    ask(closed, budget)

    assert budget.balance(0.0) == 5.0


def test_a_paid_retry_costs_one():
    budget = account(5)
    ask(set(), budget)

    assert budget.balance(0.0) == 4.0


@table_test("verdict", list(Verdict))
def test_only_transient_verdicts_are_retried(verdict):
    transient = {
        Verdict.THROTTLED,
        Verdict.OVERLOADED,
        Verdict.SERVER_ERROR,
        Verdict.BROKEN,
        Verdict.RESET,
        Verdict.TIMEOUT,
        Verdict.CONNECT_FAILED,
    }
    decision = decide(
        POLICY,
        TREATMENTS[verdict],
        Outcome(verdict),
        attempt=1,
        left=RetryAllowance(),
        budget=None,
        now=0.0,
        uniform=0.5,
    )

    assert (verdict in transient) == isinstance(decision, Retry)


@given(
    delay=st.floats(0.0, 100.0),
    deadline=st.floats(0.0, 100.0),
    patience=st.floats(0.0, 100.0),
    min_time_left=st.floats(0.0, 10.0),
)
def test_a_retry_is_planned_only_if_time_is_left_to_send_it(
    delay, deadline, patience, min_time_left
):
    decision = decide(
        RetryPolicy(
            backoff=Backoff(kind="constant", initial_delay=delay), min_time_left=min_time_left
        ),
        TREATMENTS[Verdict.SERVER_ERROR],
        SERVER_ERROR,
        attempt=1,
        left=RetryAllowance(deadline, patience),
        budget=None,
        now=0.0,
        uniform=0.5,
    )
    fits = delay + min_time_left <= deadline and delay < patience

    assert fits == isinstance(decision, Retry)
    if fits:
        assert decision.until <= min(deadline - min_time_left, patience) + 1e-9
