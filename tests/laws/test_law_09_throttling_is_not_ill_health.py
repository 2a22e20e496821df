"""Law 9. Throttling and billing answers are not ill health: they drive cooldown and rate. The article counts
429s as failures: its preset does too.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.presets import ARTICLE
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS, Outcome, Tally, Verdict

HEALTHY = [
    Verdict.THROTTLED,
    Verdict.BILLING,
    Verdict.AUTH,
    Verdict.NOT_FOUND,
    Verdict.TOO_LONG,
    Verdict.INVALID,
    Verdict.FILTERED,
    Verdict.REDIRECTED,
    Verdict.REJECTED,
    Verdict.CANCELLED,
]
FRAGILE = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=3), open_duration_jitter=0.0)


def answered(stage, outcome):
    run = stage.start()
    assert run.sending
    run.step(outcome).close()


def test_every_verdict_counts_as_success_failure_or_nothing():
    tallies = {verdict: TREATMENTS[verdict].tally for verdict in Verdict}

    assert tallies == {
        verdict: Tally.SUCCESS
        if verdict in (Verdict.OK, Verdict.SCHEMA_MISMATCH)  # the target has answered
        else Tally.NOTHING
        if verdict in HEALTHY
        else Tally.FAILURE
        for verdict in Verdict
    }


@given(st.lists(st.sampled_from(HEALTHY), max_size=50))
def test_other_verdicts_never_open_a_circuit(verdicts):
    stage = Stage(policy(breaker=FRAGILE))
    for verdict in verdicts:
        answered(stage, Outcome(verdict))

    assert stage.state.breaker.state is State.CLOSED


@given(st.lists(st.sampled_from(HEALTHY), min_size=2, max_size=2))
def test_other_verdicts_do_not_count_as_successes(between):
    stage = Stage(policy(breaker=FRAGILE))
    for verdict in [SERVER_ERROR, Outcome(between[0]), SERVER_ERROR, Outcome(between[1])]:
        answered(stage, verdict if isinstance(verdict, Outcome) else Outcome(verdict))
    assert stage.state.breaker.state is State.CLOSED
    answered(stage, SERVER_ERROR)
    assert stage.state.breaker.state is State.OPEN


@table_test("outcome", [THROTTLED, Outcome(Verdict.BILLING)])
def test_a_throttled_probe_decides_nothing(outcome):
    stage = Stage(policy(breaker=FRAGILE))
    stage.fail_until_open()
    stage.pass_time(5.0)
    for _ in range(8):  # less than three times as many as there are probes
        answered(stage, outcome)
    assert stage.state.breaker.state is State.HALF_OPEN
    answered(stage, OK)
    answered(stage, OK)
    assert stage.state.breaker.state is State.CLOSED


def test_throttling_with_a_named_time_starts_a_cooldown():
    stage = Stage(policy(breaker=FRAGILE))
    answered(stage, retry_in(10.0))

    assert stage.start().queued
    assert stage.state.cooldown.until == stage.now + 10.0


def test_the_article_policy_counts_429s_as_failures():
    stage = Stage(ARTICLE)
    for _ in range(5):
        answered(stage, THROTTLED)

    assert stage.state.breaker.state is State.OPEN


def test_a_policy_may_change_which_verdicts_count():
    ignored = Stage(policy(breaker=FRAGILE, ignored=(Verdict.SERVER_ERROR,)))
    for _ in range(9):
        answered(ignored, SERVER_ERROR)
    assert ignored.state.breaker.state is State.CLOSED

    counted = Stage(policy(breaker=FRAGILE, failures=(Verdict.INVALID,)))
    for _ in range(3):
        answered(counted, Outcome(Verdict.INVALID))
    assert counted.state.breaker.state is State.OPEN


def test_a_verdict_cannot_both_count_and_be_ignored():
    with pytest.raises(ConfigurationError, match="ignored must name none of failures, got reset"):
        policy(failures=(Verdict.RESET,), ignored=(Verdict.RESET, Verdict.TIMEOUT))
