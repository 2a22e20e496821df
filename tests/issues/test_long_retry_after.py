"""One response with `Retry-After: 1795574400`, ten years, stopped all calls for ten years, and `reset` did not help. The
time applies to the call that received it; other calls continue after `retry.max_wait`, a few at first.
"""

from stage import OK, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures

YEARS = 10 * 365 * 86_400.0
FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1), open_duration=5.0, open_duration_jitter=0.0
)


def sent(stage):
    return sum(run.sending for run in stage.runs)


@table_test(("chance", "until"), [(0.0, 900.0), (0.5, 1125.0)])
def test_a_huge_retry_after_ends_its_call_and_is_capped_for_others(chance, until):
    stage = Stage(policy(), chance=chance)
    ended = stage.start().step(retry_in(YEARS)).ended

    assert (ended.stopped, ended.retry_at) == ("max_wait", 100.0 + YEARS)
    assert stage.engine.snapshot(stage.now)["targets"]["acme/large"]["cooldown"] == until


def test_the_cooldown_is_capped_at_max_wait():
    stage = Stage(policy(retry=RetryPolicy(max_wait=60.0)))
    stage.start().step(retry_in(61.0))

    assert stage.state.cooldown.ready_at(None, stage.now) == 160.0


def test_a_few_calls_are_sent_first_after_a_capped_cooldown():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=64)))
    stage.start().step(retry_in(YEARS))
    for _ in range(20):
        stage.start()
    stage.pass_time(899.9)
    assert sent(stage) == 0
    stage.pass_time(0.1)
    assert sent(stage) == 4


def test_another_huge_retry_after_starts_another_capped_cooldown():
    stage = Stage(policy())
    stage.start().step(retry_in(YEARS))
    stage.tick(900.0)
    stage.start().step(retry_in(YEARS))

    assert stage.state.cooldown.ready_at(None, stage.now) == stage.now + 900.0


@table_test("breaker", [None, FRAGILE])
def test_reset_ends_the_cooldown_and_the_pacing(breaker):
    stage = Stage(policy(breaker=breaker))
    stage.start().step(retry_in(100.0)).close()
    calls = [stage.start(fail_fast=False) for _ in range(20)]
    assert sent(stage) == 0
    stage.state.reset(stage.now)
    stage.settle()

    assert stage.engine.snapshot(stage.now)["targets"]["acme/large"]["cooldown"] == 0.0
    assert all(run.sending for run in calls)


def test_reset_ends_the_remaining_pacing():
    stage = Stage(policy(breaker=FRAGILE))
    stage.fail_until_open()
    calls = [stage.start(fail_fast=False) for _ in range(20)]
    stage.pass_time(5.0)
    for run in [run for run in calls if run.sending][:2]:
        run.step(OK)
    stage.settle()
    assert sum(run.queued for run in calls) > 0
    stage.state.reset(stage.now)
    stage.settle()

    assert not any(run.queued for run in calls)
