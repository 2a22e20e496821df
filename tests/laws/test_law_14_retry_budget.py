"""Law 14. 0.1 retries per call, decaying within a minute, no starting credit. A retry is free when the server
named the time, unless it is next to none; when this process's own gates hold the traffic and it knows enough; when most recent calls
succeed, nothing is late and this was no bare 429; and in a process with fewer than 10 recent calls, for up to
two 429s, server errors or failed connections in a row. Everything else, timeouts first, is paid.
"""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, Stage, policy, told

from stormbreak.core.backoff import Constant
from stormbreak.core.budget import BRIEF, Budget, BudgetPolicy, Load
from stormbreak.core.circuit import BreakerPolicy
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.events import RetryPlanned
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
def test_a_busy_process_pays_once_most_calls_fail(verdict):
    stage = scene()
    for _ in range(34):
        stage.start().step(OK)
    ended = exhausted(stage, Outcome(verdict))
    isolated = 0 if verdict is Verdict.THROTTLED else 34  # until as many have failed as succeeded

    assert ended.attempts == 1 + isolated + 3  # thirty-five calls earned three and a half


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("calls", [9, 10])
def test_free_where_the_own_gates_hold_the_traffic_and_enough_is_known(gated, calls):
    budget = Budget(BudgetPolicy())
    outcome = Outcome(Verdict.TIMEOUT)
    for _ in range(calls):
        budget.record(outcome, 0.0)
    free = budget.is_free(outcome, TREATMENTS[Verdict.TIMEOUT], 0.0, Load(gated=gated))

    assert free is (gated and calls == 10)


def test_which_gates_hold_the_traffic():
    stage = scene(limit=FixedLimit(in_flight=2), breaker=BreakerPolicy(), learn_rate=True)
    lane = stage.lane
    assert not lane.load(stage.now).gated
    stage.start()
    assert not lane.load(stage.now).gated
    stage.start()
    assert lane.load(stage.now).gated  # the limit is reached
    for run in stage.runs:
        run.step(OK)
    assert not lane.load(stage.now).gated
    for _ in range(7):
        lane.rate.take(stage.now)
        lane.rate.settle(None, THROTTLED, stage.now, 0.5)
        stage.now += 1.0
    assert lane.load(stage.now).gated  # a send rate is in force
    assert not lane.load(stage.now + 120.0).gated
    stage.now += 120.0
    stage.lane.isolate(stage.now)
    assert lane.load(stage.now).gated  # the circuit is not closed


@pytest.mark.parametrize("verdict", TRANSIENT)
@pytest.mark.parametrize("late", [False, True])
def test_an_isolated_error_is_free_unless_answers_are_late_or_it_was_a_429(verdict, late):
    budget = Budget(BudgetPolicy())
    for _ in range(20):
        budget.record(OK, 0.0)
    outcome = Outcome(verdict)
    budget.record(outcome, 0.0)
    free = budget.is_free(outcome, TREATMENTS[verdict], 0.0, Load(late=late))

    assert free is (not late and verdict is not Verdict.THROTTLED)


@pytest.mark.parametrize("late", [False, True])
def test_a_429_that_is_drawn_by_lot_is_an_isolated_error_too(late):
    budget = Budget(BudgetPolicy())
    for _ in range(20):
        budget.record(OK, 0.0)
    budget.record(THROTTLED, 0.0)
    load = Load(late=late, lot=True)

    assert budget.is_free(THROTTLED, TREATMENTS[Verdict.THROTTLED], 0.0, load) is not late


def test_a_success_ends_the_row():
    stage = scene()
    for _ in range(3):
        run = stage.start().step(THROTTLED)
        stage.pass_time(0.01)
        run.step(OK)
        assert run.ended.attempts == 2


@pytest.mark.parametrize("failures", sorted({*permutations(["told", "told", "503"])}))
def test_a_lone_script_comes_through_two_named_times_and_a_503_in_any_order(failures):
    stage = scene()
    run = stage.start()
    for failure in failures:
        run.step(told(1.0) if failure == "told" else SERVER_ERROR)
        stage.pass_time(2.0)

    assert run.step(OK).ended.attempts == 4


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
    stage = scene().listen()
    for _ in range(50):
        stage.start().step(OK)
    run = stage.start()
    for _ in range(100):
        run.step(told(BRIEF))
        stage.pass_time(2 * BRIEF)

    assert run.sending
    retries = [event for event in stage.events if isinstance(event, RetryPlanned)]
    assert [retry.free for retry in retries] == [True] * 100


@given(seconds=st.floats(0.0, 0.99 * BRIEF))
def test_a_time_so_brief_that_it_keeps_nobody_away_is_paid(seconds):
    stage = scene()
    for _ in range(50):
        stage.start().step(OK)
    for _ in range(51):  # most recent calls must fail, or a retry is free for another reason
        stage.start().step(told(seconds, Verdict.OVERLOADED)).close()
        stage.pass_time(1.0)  # the pause is over, and nobody held
    assert stage.engine.budget.balance(stage.now) < 1.0
    assert stage.start().step(told(seconds, Verdict.OVERLOADED)).ended.stopped == "budget"


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
