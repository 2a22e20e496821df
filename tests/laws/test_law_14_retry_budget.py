"""Law 14, its simple part. 0.1 retries per call, decaying within a minute, no starting credit. Free are waits
named by the server, and up to two 429s, server errors or failed connections in a row in a process with fewer
than 10 recent calls. Everything else, timeouts first, is paid.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, Stage, policy, told

from stormbreak.core.backoff import Constant
from stormbreak.core.budget import Budget, BudgetPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.types import TREATMENTS, Outcome, Verdict

LONE = {
    Verdict.THROTTLED,
    Verdict.OVERLOADED,
    Verdict.SERVER_ERROR,
    Verdict.CONNECT_FAILED,
}
TRANSIENT = [verdict for verdict in Verdict if TREATMENTS[verdict].retry]


def scene(**changes):
    retry = RetryPolicy(attempts=1000, backoff=Constant(seconds=0.01))
    return Stage(policy(budget=BudgetPolicy(), retry=retry, **changes))


def exhausted(stage, outcome):
    """Let one call fail until it may not be retried; its attempts."""
    run = stage.start()
    while not run.ended:
        run.step(outcome)
        stage.pass_time(0.01)
    return run.ended


@pytest.mark.parametrize("verdict", TRANSIENT)
def test_a_lone_script_may_retry_twice_what_is_no_timeout(verdict):
    ended = exhausted(scene(), Outcome(verdict))

    assert (ended.attempts, ended.stopped) == (3 if verdict in LONE else 1, "budget")


@pytest.mark.parametrize("verdict", TRANSIENT)
def test_a_busy_process_pays_for_every_one(verdict):
    stage = scene()
    for _ in range(34):
        stage.start().step(OK)
    ended = exhausted(stage, Outcome(verdict))

    assert ended.attempts == 1 + 3  # thirty-five calls earned three and a half


def test_a_success_ends_the_row():
    stage = scene()
    for _ in range(3):
        run = stage.start().step(THROTTLED)
        stage.pass_time(0.01)
        run.step(OK)
        assert run.ended.attempts == 2


def test_a_wrong_request_in_between_takes_no_retry_from_a_lone_script():
    stage = scene()
    for _ in range(4):
        assert exhausted(stage, INVALID).stopped == "verdict"

    assert exhausted(stage, SERVER_ERROR).attempts == 3


def test_a_timeout_belongs_to_the_row_and_is_never_free_itself():
    stage = scene()
    assert exhausted(stage, TIMEOUT).attempts == 1

    assert exhausted(stage, SERVER_ERROR).attempts == 2


def test_a_time_named_by_the_server_is_free_for_ever():
    stage = scene()
    for _ in range(50):
        stage.start().step(OK)
    balance = stage.engine.budget.balance(stage.now)
    run = stage.start()
    for _ in range(100):
        run.step(told(0.0))

    assert run.sending
    assert stage.engine.budget.balance(stage.now) == pytest.approx(balance + 0.1)


def test_there_is_no_starting_credit():
    assert Budget(BudgetPolicy()).balance(0.0) == 0.0
    assert exhausted(scene(), TIMEOUT).attempts == 1


@given(
    calls=st.lists(st.floats(0.0, 2.0), min_size=10, max_size=60),
    verdict=st.sampled_from(TRANSIENT),
)
def test_in_an_outage_retries_stay_below_a_tenth_of_the_calls_and_the_two_of_a_lone_script(
    calls, verdict
):
    stage = scene()
    attempts = 0
    for pause in calls:
        stage.pass_time(pause)
        attempts += exhausted(stage, Outcome(verdict)).attempts

    assert attempts - len(calls) <= 0.1 * len(calls) + 2


def test_what_was_earned_is_gone_within_minutes():
    stage = scene()
    for _ in range(50):
        stage.start().step(OK)
    stage.tick(120.0)

    assert stage.engine.budget.balance(stage.now) < 1.0
