"""Law 14. 0.1 retries per call, decaying within a minute, no starting credit. A retry is free when the server
named the time, unless it is next to none; where answers come and most are on time (after a timeout only if an attempt that left later
was answered on time; after a 429 only if 429s slow us down, or most beside it are served); when this process's own gates hold the traffic (after a timeout only gates that follow what is served); while the target is new and not dead, when a learned limit is in force (ADR 82); and in a
process with fewer than 10 recent calls. There timeouts are paid whatever the gates say, and after three failures in a row everything is;
but a call may make one late retry, at a random time, unless it timed out (ADR 77), and returns at a random time if it is told to twice (ADR 79).
Everything else, timeouts first, is paid.
"""

from itertools import permutations, product

from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import SHORT_WAIT, Budget, BudgetPolicy, Load
from stormbreak.events import RetryPlanned
from stormbreak.types import TREATMENTS, Outcome, Verdict

TRANSIENT = [verdict for verdict in Verdict if TREATMENTS[verdict].retry]
LOADS = [
    Load(*each, new=new, limited=limited)
    for *each, new, limited in product([False, True], repeat=7)
]


def scene(**changes):
    retry = RetryPolicy(max_attempts=1000, backoff=Backoff(kind="constant", initial_delay=0.01))
    return Stage(policy(retry_budget=BudgetPolicy(), retry=retry, **changes))


def exhausted(stage, outcome):
    """Let one call fail until it may not be retried; return its result."""
    run = stage.start()
    while not run.ended:
        run.step(outcome)
        stage.pass_time(0.01)
    return run.ended


@table_test("verdict", TRANSIENT)
def test_a_lone_script_may_retry_twice_except_after_a_timeout(verdict):
    ended = exhausted(scene(), Outcome(verdict))

    assert (ended.attempts, ended.stopped) == (1 if verdict is Verdict.TIMEOUT else 3, "budget")


@table_test("verdict", TRANSIENT)
def test_a_lone_call_with_a_deadline_makes_one_late_retry_except_after_a_timeout(verdict):
    stage = scene()
    run = stage.start(within=60.0, fail_fast=False)
    while not run.ended:
        stage.now = run.command.until if run.backing_off else stage.now
        run.step(None if run.backing_off else Outcome(verdict))
    attempts = {Verdict.TIMEOUT: 1, Verdict.THROTTLED: 3}.get(verdict, 4)

    assert (run.ended.attempts, run.ended.stopped) == (attempts, "budget")


@table_test("verdict", [each for each in TRANSIENT if each is not Verdict.THROTTLED])
def test_a_busy_process_pays_for_retries_at_a_dead_target(verdict):
    stage = scene()
    for _ in range(34):
        stage.start().step(OK)
    stage.tick(0.01)
    ended = exhausted(stage, Outcome(verdict))
    by_chance = 0 if verdict is Verdict.TIMEOUT else 7  # at most, in a row

    assert ended.attempts == 1 + by_chance + 3  # thirty-five calls earned three and a half


def test_retries_after_bare_429s_are_held_by_the_learned_send_rate():
    """They are free if answers were on time; all together they do not exceed what was served."""
    stage = scene(adaptive_rate=True)
    for _ in range(100):
        stage.start().step(OK)
        stage.pass_time(0.1)
    calls, sent = [stage.start() for _ in range(20)], []
    for _ in range(600):
        ready = [run for run in calls if run.sending]
        sent.append(len(ready))
        for run in ready:
            run.step(THROTTLED)
        stage.pass_time(0.1)

    assert sum(sent[100:]) <= 10 * 50
    assert all(run.ended is None for run in calls)


@table_test("verdict", TRANSIENT)
@table_test("load", LOADS)
@table_test(("successes", "failures"), [(8, 1), (7, 2), (9, 1), (0, 10)])
def test_verdict_load_and_traffic_decide_whether_a_retry_is_free(
    verdict, load, successes, failures
):
    budget, outcome = Budget(BudgetPolicy()), Outcome(verdict)
    for each in [OK] * successes + [outcome] * failures:
        budget.record(each, 0.0)
    lone = successes + failures < 10
    if verdict is Verdict.TIMEOUT:
        lucky = load.healthy and load.timeouts_are_luck
        free = lucky or (not lone and (load.adaptive or (load.new and load.limited)))
    else:
        slowed = load.slowed_by_429s or verdict is not Verdict.THROTTLED
        first = load.new and load.limited
        free = (load.healthy and slowed) or load.gated or lone or first

    assert budget.is_free(outcome, 0.0, load) is free


@table_test(("adaptive_rate", "attempts"), [(False, 1 + 3), (True, 1000)])
def test_bare_429s_of_a_busy_process_are_paid_if_no_rate_is_learned(adaptive_rate, attempts):
    stage = scene(adaptive_rate=adaptive_rate)
    for _ in range(34):
        stage.start().step(OK)
    stage.tick(0.01)

    assert exhausted(stage, THROTTLED).attempts == attempts


@table_test("verdict", TRANSIENT)
@table_test("load", LOADS)
@table_test("failures", [3, 9])
def test_a_lone_process_has_no_free_retry_after_three_failures_in_a_row(verdict, load, failures):
    budget, outcome = Budget(BudgetPolicy()), Outcome(verdict)
    for _ in range(failures):
        budget.record(outcome, 0.0)

    assert not budget.is_free(outcome, 0.0, load)


@table_test("overtaken", [False, True])
def test_a_timeout_is_free_if_a_later_attempt_was_answered_on_time(overtaken):
    stage = scene().listen()
    for _ in range(40):
        stage.start().step(OK)
        stage.pass_time(0.1)
    hung = stage.start()
    stage.pass_time(0.1)
    if overtaken:
        stage.start().step(OK)
    stage.pass_time(0.1)
    hung.step(TIMEOUT)

    (retry,) = [event for event in stage.events if isinstance(event, RetryPlanned)]
    assert retry.free is overtaken


def test_a_full_limit_a_send_rate_and_an_open_circuit_hold_the_traffic():
    stage = scene(limit=FixedLimit(max_in_flight=2), breaker=BreakerPolicy(), adaptive_rate=True)
    target_state = stage.state
    assert not target_state.load(stage.now).gated
    stage.start()
    assert not target_state.load(stage.now).gated
    stage.start()
    assert target_state.load(stage.now).gated  # the limit is reached ...
    assert not target_state.load(stage.now).adaptive  # ... but it is a fixed one
    for run in stage.runs:
        run.step(OK)
    assert not target_state.load(stage.now).gated
    for _ in range(7):
        target_state.rate.take(None, stage.now)
        target_state.rate.settle(None, THROTTLED, stage.now, 0.5)
        stage.now += 1.0
    assert target_state.load(stage.now).gated  # a send rate is in force, ...
    assert target_state.load(stage.now).adaptive  # ... and follows what is served
    assert not target_state.load(stage.now + 120.0).gated
    stage.now += 120.0
    stage.state.isolate(stage.now)
    assert target_state.load(stage.now).gated  # the circuit is not closed
    assert not target_state.load(stage.now).adaptive


def test_a_full_automatic_limit_is_adaptive_once_it_has_learned():
    stage = scene(limit=AutomaticLimit(max_in_flight=20))
    target_state = stage.state
    crowd = [stage.start() for _ in range(20)]
    assert target_state.load(stage.now).gated
    assert not target_state.load(stage.now).adaptive  # at its ceiling it has learned nothing
    for run in crowd:
        run.step(SERVER_ERROR).close()
    stage.start()

    assert target_state.load(stage.now).adaptive


def test_a_success_ends_a_run_of_failures():
    stage = scene()
    for _ in range(3):
        run = stage.start().step(THROTTLED)
        stage.pass_time(0.01)
        run.step(OK)
        assert run.ended.attempts == 2


@table_test("failures", sorted({*permutations(["429", "429", "503"])}))
def test_a_lone_script_gets_through_two_named_times_and_a_503_in_any_order(failures):
    stage = scene()
    run = stage.start()
    for failure in failures:
        run.step(retry_in(1.0) if failure == "429" else SERVER_ERROR)
        stage.pass_time(2.0)

    assert run.step(OK).ended.attempts == 4


@table_test("traffic", [0, 50])
def test_a_second_named_time_makes_a_lone_call_retry_at_a_random_time(traffic):
    """Limits count what they refuse: thousands of small processes that return at the named time keep one exceeded."""
    stage = scene()
    stage.chance = 0.5
    for _ in range(traffic):
        stage.start().step(OK)
    run = stage.start(within=61.0, fail_fast=False)
    waits = []
    for _ in range(3):
        run.step(retry_in(1.0))
        waits.append(run.command.until - stage.now)
        stage.now = run.command.until
        run.step(None)

    assert waits[0] <= 1.5
    if traffic:
        assert max(waits) <= 1.5
    else:
        assert waits[1] > 20.0  # half of three quarters of the time left
        assert waits[2] > 10.0
    assert run.step(OK).ended.attempts == 4


@table_test(
    ("first", "again", "call"),
    [
        (SERVER_ERROR, retry_in(1.0), {}),  # the first named time
        (retry_in(1.0), retry_in(0.05), {}),  # very short
        (retry_in(1.0), retry_in(1.0), {"fail_fast": True}),
    ],
)
def test_otherwise_a_call_retries_at_the_named_time(first, again, call):
    stage = scene()
    stage.chance = 0.5
    run = stage.start(within=61.0, **{"fail_fast": False, **call})
    run.step(first)
    stage.now = run.command.until
    run.step(None).step(again)

    assert run.command.until - stage.now <= 1.5


def test_an_invalid_request_takes_no_retry_from_a_lone_script():
    stage = scene()
    for _ in range(4):
        assert exhausted(stage, INVALID).stopped == "verdict"

    assert exhausted(stage, SERVER_ERROR).attempts == 3


def test_a_timeout_counts_for_the_run_and_is_never_free():
    stage = scene()
    assert exhausted(stage, TIMEOUT).attempts == 1

    assert exhausted(stage, SERVER_ERROR).attempts == 2


def test_a_retry_at_a_named_time_is_always_free():
    stage = scene().listen()
    for _ in range(50):
        stage.start().step(OK)
    run = stage.start()
    for _ in range(100):
        run.step(retry_in(SHORT_WAIT))
        stage.pass_time(2 * SHORT_WAIT)

    assert run.sending
    retries = [event for event in stage.events if isinstance(event, RetryPlanned)]
    assert [retry.free for retry in retries] == [True] * 100


@given(seconds=st.floats(0.0, 0.99 * SHORT_WAIT))
def test_a_retry_after_a_very_short_named_time_is_paid(seconds):
    stage = scene()
    for _ in range(50):
        stage.start().step(OK)
    for _ in range(51):  # without any answer: else a retry is free for another reason
        stage.start().step(retry_in(seconds, Verdict.OVERLOADED)).close()
        stage.pass_time(1.0)  # the pause is over, and no call is held
    assert stage.engine.budget.balance(stage.now) < 1.0
    assert stage.start().step(retry_in(seconds, Verdict.OVERLOADED)).ended.stopped == "budget"


def test_a_budget_has_no_starting_credit():
    assert Budget(BudgetPolicy()).balance(0.0) == 0.0
    assert exhausted(scene(), TIMEOUT).attempts == 1


@given(
    calls=st.lists(st.floats(0.0, 2.0), min_size=10, max_size=60),
    verdict=st.sampled_from(TRANSIENT),
)
def test_in_an_outage_retries_stay_below_a_tenth_of_the_calls_plus_two(calls, verdict):
    stage = scene()
    attempts = 0
    for pause in calls:
        stage.pass_time(pause)
        attempts += exhausted(stage, Outcome(verdict)).attempts

    assert attempts - len(calls) <= 0.1 * len(calls) + 2


def test_the_balance_is_gone_within_minutes():
    stage = scene()
    for _ in range(50):
        stage.start().step(OK)
    stage.tick(120.0)

    assert stage.engine.budget.balance(stage.now) < 1.0
