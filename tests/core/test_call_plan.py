"""Fallbacks: how long a call waits before it moves, where it ends, and when a move costs budget."""

from stage import OK, SERVER_ERROR, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import ELSEWHERE, Step, TargetOrder
from stormbreak.core.flow import Ask, Send
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.events import CallEnded, FellBack
from stormbreak.types import Outcome, Target, Verdict

FIRST, SECOND, THIRD = (Target(name, "model") for name in ("first", "second", "third"))
ONCE = policy(retry=RetryPolicy(max_attempts=1))
EAGER = policy(retry=RetryPolicy(max_attempts=5))
BILLING = Outcome(Verdict.BILLING, status=402)
BILLED = frozenset({Verdict.BILLING})
CACHE = Step(frozenset(ELSEWHERE), None, "cache")


def to(*targets, after=None):
    places = tuple((target, 1.0) for target in targets)
    return Step(frozenset(ELSEWHERE), after, "fallback", places, TargetOrder.IN_ORDER)


def start(stage, *steps, **call):
    return stage.start(target=FIRST, fallbacks=steps, **call)


def where(run):
    return run.command.target if isinstance(run.command, Send) else None


# ------------------------------------------------------------------ patience


def test_a_call_does_not_wait_at_a_target_if_a_fallback_can_serve_it():
    run = start(Stage(EAGER), to(SECOND), to(THIRD, after=2.0)).step(BILLING)
    assert where(run) == SECOND

    assert where(run.step(retry_in(30.0))) == THIRD
    assert run.step(retry_in(30.0)).backing_off  # there is none after it


def test_a_call_does_not_wait_if_another_target_of_the_rule_can_serve_it():
    run = start(Stage(EAGER), to(SECOND, THIRD, after=2.0)).step(BILLING)
    assert where(run) == SECOND

    assert where(run.step(retry_in(30.0))) == THIRD
    assert run.step(retry_in(30.0)).backing_off


def test_the_shortest_wait_of_all_later_rules_counts():
    run = start(Stage(EAGER), to(SECOND, after=60.0), to(THIRD, after=2.0)).step(retry_in(30.0))

    assert where(run) == SECOND


def test_a_rule_does_not_extend_the_patience_of_a_call():
    run = start(Stage(EAGER), to(SECOND, after=60.0), patience=10.0).step(retry_in(30.0))

    assert where(run) == SECOND


def test_the_backoff_starts_again_at_each_target():
    backoff = Backoff(kind="decorrelated_jitter", initial_delay=0.5, max_delay=100.0)
    stage = Stage(policy(retry=RetryPolicy(max_attempts=3, backoff=backoff)), chance=0.5)
    run = start(stage, to(SECOND))
    for delay in (1.0, 1.75, None, 1.0, 1.75):
        run.step(SERVER_ERROR)
        if delay is not None:
            assert run.command.until == stage.now + delay
            stage.tick(delay)


@table_test(("step", "waits"), [(to(SECOND), 0), (CACHE, 0), (Step(BILLED, None, "cache"), 1)])
def test_no_call_waits_for_a_late_retry_if_a_fallback_can_serve_it(step, waits):
    """A bug: with low traffic, calls waited up to 15 s although a cached answer was there."""
    stage = Stage(policy(retry=EAGER.retry, retry_budget=BudgetPolicy()), chance=0.5)
    run = start(stage, step, patience=20.0, fail_fast=False)
    for _ in range(2):
        stage.tick(run.step(SERVER_ERROR).command.until - stage.now)

    assert run.step(SERVER_ERROR).backing_off == waits


# ------------------------------------------------------------------ ends


def test_an_answer_ends_the_call_without_the_other_targets_of_the_rule():
    ended = start(Stage(ONCE), to(SECOND, THIRD)).step(SERVER_ERROR).step(OK).ended

    assert (ended.outcome, ended.target, ended.attempts) == (OK, SECOND, 2)


def test_a_local_answer_has_the_time_when_it_was_found():
    stage = Stage(ONCE).listen()
    run = start(stage, CACHE).step(SERVER_ERROR)
    stage.tick(0.2)
    run.step(OK)
    times = [event.at for event in stage.events if isinstance(event, FellBack | CallEnded)]

    assert times == [stage.now, stage.now]


def test_a_local_answer_may_be_a_quarter_of_a_second_late():
    stage = Stage(ONCE)
    run = start(stage, CACHE, within=10.0)
    stage.now += 10.0
    run.step(SERVER_ERROR)

    assert isinstance(run.command, Ask)
    assert run.command.until == stage.now + 0.25


@table_test(("left", "sent"), [(0.5, True), (0.25, False)])
def test_a_fallback_needs_half_a_second_before_the_deadline(left, sent):
    stage = Stage(ONCE)
    run = start(stage, to(SECOND), within=10.0)
    stage.now += 10.0 - left
    run.step(SERVER_ERROR)

    assert sent == (where(run) == SECOND)


# ------------------------------------------------------------------ budget


@table_test(("failures", "moved"), [(2, True), (3, False)])
@table_test("before", [0, 3])
def test_a_move_is_free_until_three_calls_in_a_row_failed_at_the_target(failures, moved, before):
    """Failures before an answer do not count."""
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1), retry_budget=BudgetPolicy(ratio=0.0)))
    for _ in range(before):
        start(stage, to(SECOND)).step(SERVER_ERROR).step(SERVER_ERROR)
    stage.start(target=SECOND, fallbacks=(CACHE,)).step(OK)
    for _ in range(failures):
        start(stage, to(SECOND)).step(SERVER_ERROR).step(SERVER_ERROR)

    assert moved == (where(start(stage, to(SECOND)).step(SERVER_ERROR)) == SECOND)


def test_a_move_to_an_unknown_target_is_free():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1), retry_budget=BudgetPolicy(ratio=0.0)))
    for _ in range(3):
        assert where(start(stage, to(SECOND)).step(SERVER_ERROR)) == SECOND
        stage.runs[-1].step(SERVER_ERROR)

    assert start(stage, to(SECOND)).step(SERVER_ERROR).over
