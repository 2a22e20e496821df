"""Law 17. Fallbacks are ordered rules by verdict; an answer says where it came from; one deadline and one budget hold
across all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback import DEPRIORITIZED, GRACE
from stormbreak.core.fallback_policy import ELSEWHERE, TRANSIENT, Step, TargetOrder
from stormbreak.core.flow import Ask, Send
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.events import CallEnded, FallbackRefused, FellBack
from stormbreak.types import CANCELLED, Outcome, Target, Verdict

FIRST, SECOND, THIRD = (Target(name, "model") for name in ("first", "second", "third"))
LARGE = Target("first", "large")
ONCE = policy(retry=RetryPolicy(max_attempts=1))
EAGER = policy(
    retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
)
BILLING = Outcome(Verdict.BILLING, status=402)
TOO_LONG = Outcome(Verdict.TOO_LONG, status=400)
FILTERED = Outcome(Verdict.FILTERED, status=400)
REJECTED = Verdict.REJECTED


def to(*targets, on=ELSEWHERE, after=None, choose=TargetOrder.IN_ORDER):
    places = tuple(each if isinstance(each[0], Target) else (each, 1.0) for each in targets)
    return Step(frozenset(on), after, "fallback", places, choose)


CACHE = Step(frozenset(ELSEWHERE), None, "cache")
DEGRADED = Step(frozenset(ELSEWHERE), None, "degraded", text="later")
FOUND = OK._replace(value="found")


def start(stage, *steps, **call):
    return stage.start(target=FIRST, fallbacks=steps, **call)


def where(run):
    """The target to which it sends, or the source that it asks."""
    command = run.command
    if isinstance(command, Ask):
        return command.step.source
    return command.target if isinstance(command, Send) else command


def events_of(stage, kind):
    return [event for event in stage.events if isinstance(event, kind)]


# ---------------------------------------------------------------- rules, by verdict and in order


def test_a_call_falls_back_from_target_to_target_to_cache_to_degraded_answer():
    stage = Stage(ONCE).listen()
    run = start(stage, to(SECOND), CACHE, DEGRADED)
    way = [where(run), *(where(run.step(each)) for each in (THROTTLED, SERVER_ERROR, None))]
    ended = run.step(FOUND).ended

    assert way == [FIRST, SECOND, "cache", "degraded"]
    assert (ended.outcome, ended.source, ended.attempts) == (FOUND, "degraded", 2)
    moves = [(event.to, event.verdict) for event in events_of(stage, FellBack)]
    assert moves == [("second/model", "throttled"), ("degraded", "server_error")]
    assert [event.to for event in events_of(stage, FallbackRefused)] == ["cache"]
    assert len(events_of(stage, CallEnded)) == 1


@table_test("answered", [FIRST, SECOND, THIRD])
def test_an_answer_names_the_target_it_came_from(answered):
    run = start(Stage(ONCE), to(SECOND), to(THIRD))
    while where(run) != answered:
        run.step(SERVER_ERROR)
    ended = run.step(OK).ended

    source = "target" if answered is FIRST else "fallback"
    assert (ended.target, ended.source, ended.stopped) == (answered, source, None)


@table_test("verdict", [v for v in Verdict if v not in (Verdict.OK, *ELSEWHERE)])
def test_a_verdict_that_is_wrong_everywhere_has_no_fallback(verdict):
    run = start(Stage(ONCE), to(SECOND), CACHE, DEGRADED).step(Outcome(verdict))

    assert run.ended.outcome.verdict is verdict


@table_test("verdict", [v for v in ELSEWHERE if v is not REJECTED])
def test_every_other_verdict_falls_back(verdict):
    assert where(start(Stage(ONCE), to(SECOND)).step(Outcome(verdict))) == SECOND


def test_a_rule_applies_to_its_verdicts_only():
    steps = (to(LARGE, on=[Verdict.TOO_LONG]), to(SECOND, on=[Verdict.BILLING]))

    assert where(start(Stage(ONCE), *steps).step(TOO_LONG)) == LARGE
    assert where(start(Stage(ONCE), *steps).step(BILLING)) == SECOND
    assert start(Stage(ONCE), *steps).step(FILTERED).ended.outcome == FILTERED


def test_a_skipped_rule_is_not_used_later():
    steps = (to(LARGE, on=[Verdict.TOO_LONG]), to(SECOND))
    run = start(Stage(ONCE), *steps).step(BILLING)

    assert where(run) == SECOND
    assert run.step(TOO_LONG).ended.outcome == BILLING


def test_a_verdict_of_any_earlier_target_selects_a_rule():
    """The second target rejects the request; the verdict of the first still counts."""
    run = start(Stage(ONCE), to(SECOND), CACHE).step(THROTTLED).step(INVALID)

    assert where(run) == "cache"


def test_the_failure_of_the_first_target_is_reported_if_no_target_answers():
    stage = Stage(ONCE).listen()
    ended = start(stage, to(SECOND), CACHE).step(retry_in(9.0)).step(TIMEOUT).step(None).ended

    assert (ended.outcome, ended.target, ended.attempts) == (retry_in(9.0), FIRST, 2)
    assert ended.retry_at == stage.now + 9.0
    assert events_of(stage, CallEnded)[0].target == FIRST


def test_a_locally_rejected_call_falls_back_at_once():
    stage = Stage(policy(breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1))))
    start(stage, fail_fast=True).step(SERVER_ERROR).close()
    run = start(stage, to(SECOND), fail_fast=True)

    assert where(run) == SECOND
    assert run.step(OK).ended.attempts == 1


@table_test("outcome", [CANCELLED, CANCELLED._replace(maybe_processed=True)])
def test_a_cancelled_call_does_not_fall_back(outcome):
    assert start(Stage(ONCE), to(SECOND), CACHE).step(outcome).ended.outcome == outcome


def test_a_call_cancelled_at_a_fallback_is_reported_as_cancelled():
    ended = start(Stage(ONCE), to(SECOND)).step(THROTTLED).step(CANCELLED).ended

    assert ended.outcome == CANCELLED


def test_there_is_no_fallback_after_the_first_output():
    run = start(Stage(ONCE), to(SECOND), CACHE, delivers=True, streams=True)
    run.step(OK._replace(committed=True)).step(SERVER_ERROR)

    assert run.ended.stopped == "committed"


def test_each_target_has_its_own_attempts_and_is_tried_once():
    stage = Stage(EAGER)
    run = start(stage, to(SECOND), to(SECOND, FIRST, THIRD))
    for target in (FIRST, SECOND, THIRD):
        for _ in range(3):
            assert where(run) == target
            run.step(SERVER_ERROR)
            stage.tick(1.0)

    assert (run.ended.attempts, run.ended.stopped) == (9, "attempts")


def test_max_attempts_covers_all_targets():
    run = (
        start(Stage(ONCE), to(SECOND), to(THIRD), CACHE, max_attempts=2)
        .step(THROTTLED)
        .step(THROTTLED)
    )

    assert where(run) == "cache"


# ---------------------------------------------------------------- no wait if another target can serve


FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1),
    open_duration=5.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


def opened(*targets, **more):
    """A stage with open circuits of `targets`."""
    stage = Stage(policy(breaker=FRAGILE, **more))
    for target in targets:
        stage.start(target=target).step(SERVER_ERROR).close()
    return stage


@table_test("waited", [0.0, 4.9])
@table_test("after", [2.0, 60.0])
def test_an_open_circuit_sends_a_call_to_its_fallback_at_once(after, waited):
    stage = opened(FIRST)
    stage.tick(waited)
    run = start(stage, to(SECOND, after=after), fail_fast=False)

    assert where(run) == SECOND
    assert run.step(OK).ended.waited == 0.0


def test_a_half_open_circuit_without_a_free_probe_sends_a_call_to_its_fallback():
    stage = opened(FIRST)
    stage.tick(5.0)
    probe = start(stage, to(SECOND, after=60.0), fail_fast=False)

    assert where(probe) == FIRST
    assert where(start(stage, to(SECOND, after=60.0), fail_fast=False)) == SECOND


def test_a_failed_attempt_is_not_retried_at_an_open_circuit():
    stage = opened(retry=RetryPolicy(max_attempts=5))
    run = start(stage, to(SECOND, after=60.0), fail_fast=False).step(SERVER_ERROR)

    assert where(run) == SECOND
    assert run.step(OK).ended.waited == 0.0


def test_a_failed_attempt_without_a_rule_is_retried():
    """Its retry is rejected, and a rule applies to rejections."""
    stage = opened(
        retry=RetryPolicy(max_attempts=5, backoff=Backoff(kind="constant", initial_delay=1.0))
    )
    rule = to(SECOND, on=[REJECTED], after=60.0)
    run = start(stage, rule, fail_fast=False).step(SERVER_ERROR)
    assert run.backing_off
    stage.tick(1.0)

    assert where(run) == SECOND


def test_queued_calls_fall_back_when_the_circuit_opens():
    stage = opened(limit=FixedLimit(max_in_flight=1))
    blocker = start(stage, fail_fast=False)
    run = start(stage, to(SECOND, after=60.0), fail_fast=False)
    assert run.queued
    blocker.step(SERVER_ERROR)
    stage.settle()

    assert where(run) == SECOND


@table_test("later", [CACHE, to(SECOND), to(SECOND, on=[Verdict.BILLING], after=2.0)])
def test_a_call_waits_for_the_circuit_if_no_rule_takes_it_to_another_target(later):
    assert start(opened(FIRST), later, fail_fast=False).queued


def test_a_call_waits_for_its_own_target_if_every_circuit_is_open():
    stage = opened(FIRST, SECOND)
    run = start(stage, to(SECOND, after=60.0), fail_fast=False)
    assert run.queued
    stage.tick(5.0)

    assert where(run) == FIRST


def test_an_unbounded_call_never_waits_for_the_circuit_of_a_fallback():
    """Its own target may recover long before, and a batch reschedules the row."""
    stage = opened(FIRST, retry=RetryPolicy(max_attempts=5))
    run = start(stage, to(SECOND, after=60.0), fail_fast=False).step(SERVER_ERROR)

    assert run.ended.stopped == "breaker"
    assert run.ended.retry_at == stage.now + 5.0


def test_a_call_with_patience_waits_for_the_circuit_of_a_fallback():
    stage = opened(FIRST, retry=RetryPolicy(max_attempts=5))
    run = start(stage, to(SECOND, after=60.0), fail_fast=False, patience=20.0).step(SERVER_ERROR)
    stage.tick(1.0)
    assert run.queued
    stage.tick(4.0)

    assert where(run) == SECOND


def test_a_wait_longer_than_max_wait_moves_a_call_to_its_fallback():
    retrying = policy(retry=RetryPolicy(max_attempts=5))

    assert where(start(Stage(retrying), to(SECOND, after=2.0)).step(retry_in(30.0))) == SECOND
    assert start(Stage(retrying), to(SECOND, after=60.0)).step(retry_in(30.0)).backing_off
    assert start(Stage(retrying), to(SECOND)).step(retry_in(30.0)).backing_off


def test_a_queue_longer_than_max_wait_moves_a_call_to_its_fallback():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1)))
    full = [start(stage) for _ in range(stage.engine.policy.limit.max_in_flight)]
    run = start(stage, to(SECOND, after=2.0))
    assert run.queued
    stage.pass_time(2.0)

    assert where(run) == SECOND
    assert all(other.sending for other in full)


def test_a_call_at_its_last_target_waits_up_to_its_patience():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=2)))
    run = start(stage, to(SECOND, after=2.0), patience=50.0).step(retry_in(40.0))

    assert run.step(retry_in(30.0)).backing_off


def test_a_pool_of_one_target_does_not_shorten_a_wait():
    """Found: its calls waited for two seconds at most, whatever their patience, since the pool is a rule with that target."""
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1)))
    full = [start(stage) for _ in range(stage.engine.policy.limit.max_in_flight)]
    run = start(stage, to(FIRST, after=2.0), patience=50.0)
    stage.pass_time(40.0)

    assert run.queued
    assert all(other.sending for other in full)


def test_a_rule_without_rejections_does_not_shorten_a_wait():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=5)))
    run = start(stage, to(LARGE, on=[Verdict.TOO_LONG], after=2.0)).step(retry_in(30.0))

    assert run.backing_off


# ---------------------------------------------------------------- one deadline


def test_one_deadline_bounds_all_attempts():
    stage = Stage(ONCE)
    run = start(stage, to(SECOND), within=10.0)
    assert run.command.timeout == 10.0
    stage.now += 7.0
    run.step(SERVER_ERROR)

    assert run.command.timeout == pytest.approx(3.0)


def test_a_fallback_needs_enough_time_before_the_deadline():
    stage = Stage(ONCE).listen()
    run = start(stage, to(SECOND), CACHE, within=10.0)
    stage.now += 9.6
    run.step(SERVER_ERROR)

    assert where(run) == "cache"
    assert events_of(stage, FallbackRefused)[0].gate == "deadline"


def test_a_local_answer_may_be_a_moment_late():
    stage = Stage(ONCE)
    run = start(stage, to(SECOND), CACHE, within=10.0)
    stage.now += 10.0
    run.step(TIMEOUT)

    assert run.command.until == stage.now + GRACE


def test_a_deadline_from_the_first_attempt_covers_the_fallback():
    stage = Stage(ONCE)
    run = start(stage, to(SECOND), span=10.0)
    stage.now += 7.0

    assert run.step(SERVER_ERROR).command.timeout == pytest.approx(3.0)


# ---------------------------------------------------------------- one budget


BUDGET = policy(
    retry=RetryPolicy(max_attempts=1), retry_budget=BudgetPolicy(ratio=0.5, decay_time=1e9)
)


def test_a_move_to_a_failing_target_is_paid():
    """Each call earns half a move; a move to a target that may be healthy is free."""
    stage = Stage(BUDGET).listen()
    moved = [where(start(stage, to(SECOND)).step(SERVER_ERROR)) for _ in range(DEPRIORITIZED)]
    assert moved == [SECOND] * DEPRIORITIZED
    for run in stage.runs:
        run.step(SERVER_ERROR)
    later = [start(stage, to(SECOND)).step(SERVER_ERROR) for _ in range(40)]
    for run in later:
        if not run.over:
            run.step(SERVER_ERROR)
    refused = [event for event in events_of(stage, FallbackRefused) if event.gate == "budget"]

    assert len(refused) == pytest.approx(20, abs=2)


def test_one_answer_makes_a_move_free_again():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1), retry_budget=BudgetPolicy(ratio=0.0)))
    for _ in range(DEPRIORITIZED):
        start(stage, to(SECOND)).step(SERVER_ERROR).step(SERVER_ERROR)
    stage.start(target=SECOND, fallbacks=(CACHE,)).step(OK)

    assert where(start(stage, to(SECOND)).step(SERVER_ERROR)) == SECOND


@table_test("outcome", [BILLING, Outcome(Verdict.AUTH, status=401)])
def test_a_move_after_a_billing_or_auth_failure_is_free(outcome):
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1), retry_budget=BudgetPolicy(ratio=0.0)))
    for _ in range(DEPRIORITIZED):
        start(stage, to(SECOND)).step(SERVER_ERROR).step(SERVER_ERROR)

    assert where(start(stage, to(SECOND)).step(outcome)) == SECOND
    assert start(stage, to(SECOND)).step(SERVER_ERROR).over


def test_a_local_answer_is_free():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1), retry_budget=BudgetPolicy(ratio=0.0)))
    for _ in range(DEPRIORITIZED):
        start(stage, to(SECOND)).step(SERVER_ERROR).step(SERVER_ERROR)

    assert where(start(stage, to(SECOND), CACHE).step(SERVER_ERROR)) == "cache"


# ---------------------------------------------------------------- pools


def test_the_least_loaded_target_comes_first():
    stage = Stage(ONCE)
    for _ in range(3):
        stage.start(target=SECOND)
    stage.start(target=THIRD)
    run = start(stage, to(SECOND, THIRD, choose=TargetOrder.LEAST_LOADED)).step(SERVER_ERROR)

    assert where(run) == THIRD
    assert where(run.step(SERVER_ERROR)) == SECOND


@table_test("choose", [TargetOrder.LEAST_LOADED, TargetOrder.WEIGHTED])
def test_a_target_with_an_open_circuit_comes_last(choose):
    stage = Stage(
        policy(
            retry=RetryPolicy(max_attempts=1),
            breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)),
        )
    )
    stage.start(target=SECOND).step(SERVER_ERROR)
    run = start(stage, to((SECOND, 99.0), (THIRD, 1.0), choose=choose)).step(BILLING)

    assert where(run) == THIRD


@table_test(("chance", "first"), [(0.0, SECOND), (0.74, SECOND), (0.76, THIRD)])
def test_chance_picks_the_first_target_by_weight(chance, first):
    stage = Stage(ONCE, chance=chance)
    run = start(stage, to((SECOND, 3.0), (THIRD, 1.0), choose=TargetOrder.WEIGHTED)).step(BILLING)
    second = THIRD if first is SECOND else SECOND

    assert where(run) == first
    assert where(run.step(BILLING)) == second


# ---------------------------------------------------------------- any sequence


OUTCOMES = [OK, THROTTLED, SERVER_ERROR, TIMEOUT, BILLING, TOO_LONG, INVALID, retry_in(5.0), None]
STEPS = [to(SECOND, after=2.0), to(THIRD, SECOND, choose=TargetOrder.WEIGHTED), CACHE, DEGRADED]


@given(
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=12),
    steps=st.lists(st.sampled_from(STEPS), max_size=4),
    leave=st.integers(0, 12),
    chance=st.floats(0, 0.99),
)
def test_an_ended_call_holds_nothing(outcomes, steps, leave, chance):
    stage = Stage(chance=chance).listen()
    run = start(stage, *steps, within=60.0)
    for number, outcome in enumerate(outcomes):
        if run.over:
            break
        if number == leave:
            run.close()
        elif run.sending:
            run.step(outcome or SERVER_ERROR)
        elif isinstance(run.command, Ask):
            run.step(outcome and OK if number % 2 else None)
        else:
            stage.pass_time(5.0)
    if not run.over:
        run.close()

    for target in (FIRST, SECOND, THIRD):
        assert stage.engine.target_state(target).slots.in_flight == 0
        assert stage.engine.target_state(target).admission.queued == 0
    assert len(events_of(stage, CallEnded)) == (run.ended is not None)


def test_transient_verdicts_are_those_that_may_be_retried():
    stage = Stage()
    retried = {verdict for verdict, row in stage.state.treatments.items() if row.retry}

    assert retried | {REJECTED} == set(TRANSIENT)
