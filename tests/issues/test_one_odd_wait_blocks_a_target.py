"""One answer said `Retry-After: 1795574400`, read as ten years: nobody was sent for ten years, at one answer's
word, and `reset` did not help. The named time binds the call that was told; others come back after
`retry.max_wait`, a few at first.
"""

from stage import OK, Stage, policy, told
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
def test_the_told_call_ends_with_its_own_time_and_others_come_back_within_the_cap(chance, until):
    stage = Stage(policy(), chance=chance)
    ended = stage.start().step(told(YEARS)).ended

    assert (ended.stopped, ended.retry_at) == ("max_wait", 100.0 + YEARS)
    assert stage.engine.snapshot(stage.now)["targets"]["acme/large"]["cooldown"] == until


def test_the_cap_is_the_policys_longest_wait():
    stage = Stage(policy(retry=RetryPolicy(max_wait=60.0)))
    stage.start().step(told(61.0))

    assert stage.state.cooldown.ready_at(None, stage.now) == 160.0


def test_they_come_back_in_a_small_group():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=64)))
    stage.start().step(told(YEARS))
    for _ in range(20):
        stage.start()
    stage.pass_time(899.9)
    assert sent(stage) == 0
    stage.pass_time(0.1)
    assert sent(stage) == 4


def test_told_again_they_stay_away_again():
    stage = Stage(policy())
    stage.start().step(told(YEARS))
    stage.tick(900.0)
    stage.start().step(told(YEARS))

    assert stage.state.cooldown.ready_at(None, stage.now) == stage.now + 900.0


@table_test("breaker", [None, FRAGILE])
def test_reset_lifts_the_cooldown_and_the_pace(breaker):
    stage = Stage(policy(breaker=breaker))
    stage.start().step(told(100.0)).close()
    crowd = [stage.start(fail_fast=False) for _ in range(20)]
    assert sent(stage) == 0
    stage.state.reset(stage.now)
    stage.settle()

    assert stage.engine.snapshot(stage.now)["targets"]["acme/large"]["cooldown"] == 0.0
    assert all(run.sending for run in crowd)


def test_reset_lifts_what_is_left_of_a_pace():
    stage = Stage(policy(breaker=FRAGILE))
    stage.fail_until_open()
    crowd = [stage.start(fail_fast=False) for _ in range(20)]
    stage.pass_time(5.0)
    for run in [run for run in crowd if run.sending][:2]:
        run.step(OK)
    stage.settle()
    assert sum(run.queued for run in crowd) > 0
    stage.state.reset(stage.now)
    stage.settle()

    assert not any(run.queued for run in crowd)
