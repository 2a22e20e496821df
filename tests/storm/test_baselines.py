"""The baselines say what the code does that they stand for."""

import pytest

from stormbreak.core.presets import ARTICLE
from stormbreak.storm.baselines import BASELINES

NAMES = (
    "none", "naive", "naive_x10", "fixed", "exponential", "full_jitter", "decorrelated", "openai_sdk", "article",
)  # fmt: skip


def backoff(name):
    return BASELINES[name].policy.retry.backoff


def test_these_are_the_baselines():
    assert tuple(BASELINES) == NAMES
    assert all(contender.name == name for name, contender in BASELINES.items())


def test_attempts():
    attempts = [BASELINES[name].policy.retry.attempts for name in NAMES]

    assert attempts == [1, 6, 11, 6, 6, 6, 6, 3, 6]


def test_the_sdk_waits_half_a_second_doubled_up_to_eight_less_up_to_a_quarter():
    rule = backoff("openai_sdk")
    for retry in range(1, 9):
        plain = min(8.0, 0.5 * 2 ** (retry - 1))
        assert rule.delay(retry, 0.0) == pytest.approx(0.75 * plain)
        assert rule.delay(retry, 1.0) == pytest.approx(plain)


def test_the_sdk_comes_back_exactly_when_it_was_told():
    assert BASELINES["openai_sdk"].policy.retry.spread == 0.0
    assert not BASELINES["openai_sdk"].deaf


def test_only_the_sdk_and_the_article_hear_when_to_come_back():
    assert {name for name in NAMES if not BASELINES[name].deaf} == {"openai_sdk", "article"}


def test_the_article_is_the_preset():
    assert BASELINES["article"].policy == ARTICLE


@pytest.mark.parametrize("name", [name for name in NAMES if name != "article"])
def test_nothing_but_retries(name):
    policy = BASELINES[name].policy

    assert policy.breaker is policy.budget is None
    assert not policy.cooldown
    assert policy.limit.in_flight >= 1_000_000


def test_immediate_means_immediate():
    assert [backoff("naive").delay(retry, 0.5) for retry in range(1, 6)] == [0.0] * 5
