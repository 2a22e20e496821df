from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import (
    ARTICLE,
    BATCH,
    INTERACTIVE,
    OFF,
    body_defaults,
    for_batch,
    is_off,
)
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS, Priority, Tally, Verdict


def test_the_interactive_preset_is_for_people_who_wait():
    spans = INTERACTIVE.deadline, INTERACTIVE.patience, INTERACTIVE.attempt_timeout
    silence = INTERACTIVE.idle_timeout, INTERACTIVE.stall_timeout

    assert (spans, silence) == ((600.0, 20.0, 600.0), (None, 120.0))
    assert (INTERACTIVE.fail_fast, INTERACTIVE.cooldown, INTERACTIVE.adaptive_rate) == (
        False,
        True,
        True,
    )
    assert INTERACTIVE.priority is Priority.INTERACTIVE
    assert not INTERACTIVE.rate_limit.acts


def test_the_batch_preset_is_interactive_without_a_deadline():
    changed = {
        "deadline": None,
        "patience": None,
        "priority": Priority.BATCH,
        "rate_limit": RateLimitPolicy(learn_from_headers=True),
        "queue": replace(INTERACTIVE.queue, max_size=1_000_000),
    }

    assert replace(INTERACTIVE, **changed) == BATCH


def test_the_article_preset_has_exactly_the_numbers_of_the_article():
    assert (ARTICLE.patience, ARTICLE.attempt_timeout, ARTICLE.fail_fast) == (300.0, 30.0, True)
    assert ARTICLE.retry.max_attempts == 1 + 5
    assert ARTICLE.retry.longer_backoff_on == (504,)
    assert ARTICLE.retry.backoff == Backoff(
        kind="proportional_jitter",
        initial_delay=1.0,
        factor=2.0,
        max_delay=60.0,
        jitter=0.3,
        min_delay=0.1,
    )
    assert ARTICLE.breaker == BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=5),
        open_duration=30.0,
        open_duration_jitter=0.0,
        open_duration_factor=1.0,
        probes=3,
        max_concurrent_probes=3,
        success_ratio=0.5,
        reopen_on_any_failure=True,
    )
    assert ARTICLE.failures == (Verdict.THROTTLED,)
    assert ARTICLE.limit == FixedLimit(max_in_flight=10)
    assert (ARTICLE.retry_budget, ARTICLE.adaptive_rate) == (None, False)


def test_only_the_article_preset_has_defaults_for_bodies():
    assert body_defaults(ARTICLE) == {"temperature": 0.7, "max_tokens": 1000}
    assert body_defaults(INTERACTIVE) == {}


def test_the_off_preset_sends_once_and_holds_nothing():
    spans = OFF.deadline, OFF.patience, OFF.attempt_timeout, OFF.stall_timeout

    assert (OFF.retry.max_attempts, spans) == (1, (None, None, None, None))
    assert (OFF.retry_budget, OFF.breaker, OFF.adaptive_rate, OFF.rate_limit.acts) == (
        None,
        None,
        False,
        False,
    )
    assert OFF.limit.max_in_flight >= 1_000_000_000


def test_a_policy_with_timeouts_and_limits_may_still_be_off():
    bounded = {"deadline": 5.0, "attempt_timeout": 5.0, "idle_timeout": 5.0, "stall_timeout": 5.0}

    assert is_off(
        replace(OFF, limit=AutomaticLimit(), rate_limit=RateLimitPolicy(rpm=60), **bounded)
    )
    assert not is_off(replace(OFF, patience=5.0))
    assert not is_off(INTERACTIVE)


def test_a_batch_waits_where_a_caller_fails():
    waiting = for_batch(INTERACTIVE)

    assert (waiting.fail_fast, waiting.patience) == (False, None)
    assert for_batch(ARTICLE).attempt_timeout == 60.0


def test_verdicts_may_be_counted_as_failures():
    treatments = Policy(failures=(Verdict.THROTTLED,)).treatments

    assert treatments[Verdict.THROTTLED].tally is Tally.FAILURE
    assert {**treatments, Verdict.THROTTLED: None} == {**TREATMENTS, Verdict.THROTTLED: None}


@table_test("name", ["deadline", "patience", "attempt_timeout", "idle_timeout", "stall_timeout"])
def test_an_invalid_value_is_named(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be positive, got 0"):
        Policy(**{name: 0})


def test_numbers_out_of_bounds_and_invalid_priorities_are_rejected():
    with pytest.raises(ConfigurationError, match="patience must be at least 1e-06 and at most"):
        Policy(patience=1e300)
    with pytest.raises(ConfigurationError, match="priority must be a Priority, got 0"):
        Policy(priority=0)


def test_the_off_preset_has_no_cooldown():
    assert not any(treatment.cools for treatment in OFF.treatments.values())
    assert any(treatment.cools for treatment in INTERACTIVE.treatments.values())
