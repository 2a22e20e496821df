"""The baselines match the code that they represent."""

import pytest
from table_test import table_test

from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.presets import ARTICLE
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.storm.policies import BASELINES

NAMES = (
    "none", "naive", "naive_x10", "fixed", "exponential", "full_jitter", "decorrelated", "openai_sdk",
    "loop_naive", "loop_exponential", "loop_full_jitter", "budget", "aimd", "article",
)  # fmt: skip


LOOPS = tuple(name for name in NAMES if name.startswith("loop_"))
PLAIN = NAMES[: NAMES.index("openai_sdk") + 1]


def backoff(name):
    return BASELINES[name].policy.retry.backoff


def test_the_list_of_baselines_is_complete():
    assert tuple(BASELINES) == NAMES
    assert all(contender.name == name for name, contender in BASELINES.items())


def test_each_baseline_has_its_number_of_attempts():
    attempts = [BASELINES[name].policy.retry.max_attempts for name in NAMES]

    assert attempts == [1, 6, 11, 6, 6, 6, 6, 3, 10, 10, 10, 6, 6, 6]


def test_openai_sdk_waits_half_a_second_doubled_up_to_eight_minus_jitter():
    rule = backoff("openai_sdk")
    for retry in range(1, 9):
        plain = min(8.0, 0.5 * 2 ** (retry - 1))
        assert rule.delay(retry, 0.0) == pytest.approx(0.75 * plain)
        assert rule.delay(retry, 1.0) == pytest.approx(plain)


def test_openai_sdk_retries_exactly_at_the_named_time():
    assert BASELINES["openai_sdk"].policy.retry.retry_after_jitter == 0.0
    assert not BASELINES["openai_sdk"].ignores_retry_after


def test_only_plain_retry_baselines_ignore_retry_after():
    assert {name for name in NAMES if BASELINES[name].ignores_retry_after} == set(PLAIN) - {
        "openai_sdk"
    }


def test_loop_baselines_have_64_rows_in_flight_and_lose_none():
    for name in LOOPS:
        policy = BASELINES[name].policy
        assert policy.limit == FixedLimit(max_in_flight=64)
        assert policy.queue.max_size >= 1_000_000
        assert policy.breaker is policy.retry_budget is None


def test_the_budget_baseline_pays_for_every_retry():
    assert BASELINES["budget"].policy.retry_budget == BudgetPolicy(
        ratio=0.1, capacity=10.0, no_free_retries=True
    )


def test_the_aimd_baseline_has_a_limit_and_no_breaker_or_budget():
    policy = BASELINES["aimd"].policy
    assert policy.limit == AimdLimit()
    assert policy.breaker is policy.retry_budget is None


def test_the_article_baseline_is_the_preset():
    assert BASELINES["article"].policy == ARTICLE


@table_test("name", PLAIN)
def test_plain_baselines_only_retry(name):
    policy = BASELINES[name].policy

    assert policy.breaker is policy.retry_budget is None
    assert not policy.cooldown
    assert policy.limit.max_in_flight >= 1_000_000


def test_the_naive_baseline_retries_immediately():
    assert [backoff("naive").delay(retry, 0.5) for retry in range(1, 6)] == [0.0] * 5
