from dataclasses import replace

from stage import (
    INVALID,
    OK,
    OTHER,
    SERVER_ERROR,
    TARGET,
    THROTTLED,
    TIMEOUT,
    Stage,
    policy,
    retry_in,
)
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.flow import Wait
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.events import (
    CallEnded,
    CallRejected,
    CircuitChanged,
    CooldownStarted,
    Queued,
    RetryPlanned,
    RetryRefused,
    Returned,
    Sent,
)
from stormbreak.types import CANCELLED, Outcome, Rejection, Repair, Verdict

LONG_TIMEOUT = policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=2.0)))

PAID = policy(
    retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=2.0)),
    retry_budget=BudgetPolicy(ratio=0.4),
)

CONNECT_FAILED = Outcome(Verdict.CONNECT_FAILED)


def kinds(events):
    return [type(event) for event in events]


def test_a_success_ends_the_call():
    run = Stage().start()
    assert run.command[:3] == (TARGET, 1, 600.0)
    ended = run.step(OK).ended

    assert (ended.outcome, ended.attempts, ended.waited, ended.stopped) == (OK, 1, 0.0, None)
    assert ended.history == ()


def test_a_failure_is_followed_by_a_backoff_and_a_retry():
    stage = Stage(LONG_TIMEOUT)
    run = stage.start()
    assert run.step(SERVER_ERROR).command == Wait(stage.now + 2.0)
    stage.tick(2.0)
    assert run.command[:3] == (TARGET, 2, None)
    ended = run.step(OK).ended
    assert (ended.attempts, ended.waited) == (2, 2.0)


def test_a_driver_that_wakes_early_does_not_make_the_retry_early():
    stage = Stage(LONG_TIMEOUT)
    run = stage.start().step(SERVER_ERROR)
    until = run.command.until
    stage.now = until - 1e-6

    assert run.step().command == Wait(until)


def test_a_failed_call_reports_the_reason_and_the_time_to_retry():
    stage = Stage()
    ended = stage.start(patience=5.0).step(retry_in(60.0)).ended

    assert ended.outcome.verdict is Verdict.THROTTLED
    assert (ended.stopped, ended.retry_at) == ("patience", stage.now + 60.0)


def test_a_final_verdict_ends_the_call():
    ended = Stage().start().step(INVALID).ended

    assert (ended.outcome, ended.attempts, ended.stopped) == (INVALID, 1, "verdict")


def test_a_rejected_call_names_the_policy_that_rejected_it():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1), queue=QueuePolicy(max_size=0)))
    stage.start()
    ended = stage.start().ended

    assert ended.outcome.verdict is Verdict.REJECTED
    assert ended.outcome.rejection.policy == "queue"
    assert (ended.attempts, ended.stopped) == (0, "queue")


def test_a_failure_at_the_target_is_reported_before_a_rejection():
    rules = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=5.0, open_duration_jitter=0
    )
    stage = Stage(policy(breaker=rules))
    run = stage.start().step(SERVER_ERROR)
    stage.settle()
    assert run.ended.outcome == SERVER_ERROR
    assert (run.ended.stopped, run.ended.retry_at) == ("breaker", stage.now + 5.0)


def test_waited_counts_queue_and_backoff_but_not_the_attempt():
    stage = Stage(
        policy(
            limit=FixedLimit(max_in_flight=1),
            retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=2.0)),
        )
    )
    first, second = stage.start(), stage.start()
    assert second.queued
    stage.tick(3.0)
    first.step(OK)
    stage.settle()
    assert second.sending
    stage.tick(10.0)
    second.step(SERVER_ERROR)
    stage.tick(2.0)
    second.step(OK)

    assert second.ended.waited == 5.0


def test_targets_do_not_share_their_gates():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)))

    assert [stage.start().sending, stage.start(target=OTHER).sending] == [True, True]


def test_a_cancelled_attempt_ends_the_call():
    ended = Stage().start().step(CANCELLED).ended

    assert (ended.outcome, ended.stopped) == (CANCELLED, "verdict")


@table_test("way", ["close", "drop"])
def test_a_closed_flow_frees_its_slot_and_counts_nothing(way):
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1), breaker=BreakerPolicy()))
    run, waiting = stage.start(), stage.start()
    getattr(run, way)()
    stage.settle()

    assert waiting.sending
    assert stage.state.slots.in_flight == 1
    waiting.close()
    assert stage.state.slots.in_flight == 0


def test_closing_an_ended_flow_does_nothing():
    stage = Stage()
    run = stage.start().step(OK)
    run.close()
    run.drop()

    assert stage.state.slots.in_flight == 0


def test_a_call_reports_the_events_of_queue_attempts_and_retries():
    stage = Stage(
        policy(limit=FixedLimit(max_in_flight=1), retry=RetryPolicy(max_attempts=2))
    ).listen()
    blocker, run = stage.start(), stage.start()
    stage.tick(1.0)
    blocker.step(OK)
    stage.settle()
    stage.tick(3.0)
    run.step(THROTTLED)
    stage.pass_time(60.0)
    run.step(SERVER_ERROR)
    mine = [event for event in stage.events if getattr(event, "call", None) == run.call.number]

    assert mine == [
        Queued(100.0, 2, TARGET, "limit"),
        Sent(101.0, 2, TARGET, 1),
        Returned(104.0, 2, TARGET, 1, Verdict.THROTTLED, 429, None, 3.0),
        RetryPlanned(104.0, 2, TARGET, 1, 104.0, True, False, Verdict.THROTTLED),
        Sent(104.0, 2, TARGET, 2),
        Returned(164.0, 2, TARGET, 2, Verdict.SERVER_ERROR, 500, None, 60.0),
        RetryRefused(164.0, 2, TARGET, 2, "attempts", Verdict.SERVER_ERROR),
        CallEnded(164.0, 2, TARGET, Verdict.SERVER_ERROR, 2, 1.0),
    ]
    assert list(run.ended.history) == mine


def test_a_target_reports_cooldowns_circuit_changes_and_rejections():
    rules = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=5.0, open_duration_jitter=0.5
    )
    stage = Stage(Policy(breaker=rules)).listen()
    stage.start().step(retry_in(2.0))
    stage.start(fail_fast=False)
    stage.tick(3.0)
    stage.start(target=OTHER).step(SERVER_ERROR)
    stage.start(target=OTHER)

    assert [event for event in stage.events if not hasattr(event, "call")] == [
        CooldownStarted(100.0, TARGET, 102.0),
        CircuitChanged(103.0, OTHER, "closed", "open", 105.5),
    ]
    rejected = [event for event in stage.events if isinstance(event, CallRejected)]
    assert [(event.target, event.policy, event.retry_at) for event in rejected] == [
        (OTHER, "breaker", 105.5)
    ] * 2


def test_no_events_without_listeners():
    stage = Stage()
    stage.start().step(THROTTLED)
    stage.start().step(OK)

    assert stage.engine.events == []


def test_a_call_remembers_its_last_64_events():
    stage = Stage(
        policy(
            retry=RetryPolicy(max_attempts=100, backoff=Backoff(kind="constant", initial_delay=1.0))
        )
    )
    run = stage.start()
    for _ in range(100):
        run.step(SERVER_ERROR)
        stage.tick(1.0)

    assert len(run.ended.history) == 64
    assert kinds(run.ended.history[-2:]) == [Returned, RetryRefused]


def test_each_call_earns_for_the_budget_once():
    stage = Stage(policy(retry_budget=BudgetPolicy(ratio=0.25, low_traffic_calls=0)))
    for _ in range(4):
        run = stage.start()
    assert stage.engine.budget.balance(stage.now) == 1.0
    run.step(TIMEOUT)
    assert stage.engine.budget.balance(stage.now) == 0.0
    stage.tick(60.0)
    assert run.sending
    assert stage.engine.budget.balance(stage.now) == 0.0


def test_with_low_traffic_a_retry_without_budget_asks_again_after_each_backoff():
    stage = Stage(PAID)
    stage.start()
    run = stage.start(patience=60.0, fail_fast=False).step(TIMEOUT)
    assert run.command == Wait(stage.now + 2.0)
    stage.tick(2.0)
    assert run.command == Wait(stage.now + 2.0)
    stage.start()  # it earns
    stage.tick(2.0)
    assert stage.engine.budget.balance(stage.now) < 0.4, "it has paid"
    stage.tick(2.0)
    assert (run.command.attempt, run.step(OK).ended.waited) == (2, 6.0)


def test_a_retry_without_budget_waits_while_the_target_is_new():
    earns_little = replace(PAID.retry_budget, ratio=0.1, low_traffic_calls=0)
    stage = Stage(replace(PAID, retry_budget=earns_little, limit=AutomaticLimit()))
    other = stage.start()
    run = stage.start(patience=60.0, fail_fast=False).step(TIMEOUT)
    assert run.command == Wait(stage.now + 2.0)
    other.step(OK)  # the first answer: half a minute from now it is not new any more
    stage.start()
    stage.tick(2.0)
    assert run.command == Wait(stage.now + 2.0)
    stage.tick(28.1)
    assert (run.ended.stopped, run.ended.attempts) == ("budget", 1)


@table_test("limit", [FixedLimit(), AimdLimit()])
def test_a_retry_without_budget_does_not_wait_without_an_automatic_limit(limit):
    no_small_process = replace(PAID.retry_budget, ratio=0.1, low_traffic_calls=0)
    stage = Stage(replace(PAID, retry_budget=no_small_process, limit=limit))
    stage.start()
    run = stage.start(patience=60.0, fail_fast=False).step(TIMEOUT)

    assert (run.ended.stopped, run.ended.attempts) == ("budget", 1)


def test_a_retry_without_budget_ends_with_the_patience_of_the_call():
    stage = Stage(PAID)
    stage.start()
    run = stage.start(patience=5.0, fail_fast=False).step(TIMEOUT)
    stage.tick(2.0)
    assert run.command == Wait(stage.now + 2.0)
    stage.tick(2.0)
    assert (run.ended.outcome, run.ended.stopped, run.ended.attempts) == (TIMEOUT, "budget", 1)
    assert stage.engine.targets[TARGET].backing_off == 0


def test_a_retry_without_budget_ends_when_no_other_call_is_in_flight():
    stage = Stage(PAID)
    other = stage.start()
    run = stage.start(patience=60.0, fail_fast=False).step(TIMEOUT)
    other.step(INVALID)
    stage.tick(2.0)
    assert (run.ended.stopped, run.ended.waited) == ("budget", 2.0)


@table_test(
    "changed",
    [{"patience": None}, {"fail_fast": True}, {"low_traffic_calls": 0}, {"no_free_retries": True}],
)
def test_a_call_waits_for_the_budget_only_with_patience_low_traffic_and_free_retries(changed):
    rules = {name: changed[name] for name in changed if hasattr(PAID.retry_budget, name)}
    stage = Stage(replace(PAID, retry_budget=replace(PAID.retry_budget, **rules)))
    stage.start().step(OK)
    stage.tick(60.0)  # the target is no longer new
    stage.start()
    options = {"patience": 60.0, "fail_fast": False, **changed}
    run = stage.start(patience=options["patience"], fail_fast=options["fail_fast"])
    assert run.step(TIMEOUT).ended.stopped == "budget"


def test_time_in_the_queue_is_separate_from_backoff():
    stage = Stage(
        policy(
            limit=FixedLimit(max_in_flight=1), retry=RetryPolicy(backoff=Backoff(kind="constant"))
        )
    )
    first, second = stage.start(), stage.start()
    stage.now += 3.0
    first.step(OK)
    stage.settle()
    second.step(SERVER_ERROR)
    stage.tick(1.0)
    second.step(OK)

    assert second.ended.queued == 3.0
    assert second.ended.waited == 4.0


def test_decorrelated_jitter_depends_on_the_previous_delay():
    backoff = Backoff(kind="decorrelated_jitter", initial_delay=0.5, max_delay=100.0)
    stage = Stage(policy(retry=RetryPolicy(backoff=backoff)), chance=0.5)
    run = stage.start()
    for delay in (1.0, 1.75, 2.875):
        run.step(SERVER_ERROR)
        assert run.command.until == stage.now + delay
        stage.tick(delay)


def test_without_retry_after_jitter_the_retry_leaves_at_the_named_time():
    stage = Stage(policy(cooldown=False, retry=RetryPolicy(retry_after_jitter=0.0)), chance=0.9)
    run = stage.start().step(retry_in(7.0))

    assert run.command.until == stage.now + 7.0


@table_test(("max_attempts", "sent"), [(1, 1), (2, 2), (None, 3), (9, 3)])
def test_a_call_may_allow_fewer_attempts_than_its_policy(max_attempts, sent):
    stage = Stage(
        policy(
            retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
        )
    )
    run = stage.start(max_attempts=max_attempts)
    while run.ended is None:
        run.step(CONNECT_FAILED if run.command.attempt == 2 else SERVER_ERROR)
        stage.tick(1.0)
    assert (run.ended.attempts, run.ended.stopped) == (sent, "attempts")
    assert run.ended.unconnected == (sent > 1)


def test_a_span_from_the_first_attempt_does_not_extend_a_deadline():
    stage = Stage(policy())
    assert stage.start(within=3.0, span=8.0).command.timeout == 3.0
    assert stage.start(within=8.0, span=3.0).command.timeout == 3.0


def test_a_schema_repair_reserves_its_own_tokens():
    stage = Stage(policy(rate_limit=RateLimitPolicy(tpm=6_000.0, burst_seconds=10.0)))
    run = stage.start(tokens=10)
    misfit = Outcome(Verdict.SCHEMA_MISMATCH, repair=Repair(tokens=900, bound=None))
    run.step(misfit)
    stage.settle()
    assert run.sending
    assert stage.start(tokens=200).queued


def test_a_refusal_by_the_sender_counts_as_unconnected():
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1)))
    refused = Outcome(Verdict.REJECTED, rejection=Rejection("files", "too many are open"))
    assert stage.start().step(refused).ended.unconnected == 1


@table_test("verdict", [Verdict.SERVER_ERROR, Verdict.INVALID])
def test_a_target_remembers_the_time_of_its_last_retryable_failure(verdict):
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1)))
    stage.start().step(Outcome(verdict))
    assert (stage.state.failed_at == stage.now) is (verdict is Verdict.SERVER_ERROR)
