"""The delay before a hedge."""

from math import inf

import pytest
from table_test import table_test

from stormbreak.core.hedge import ENOUGH, KEPT, HedgePolicy, HedgeTimer
from stormbreak.errors import ConfigurationError


def timer_after(policy, seconds, *, streams=False):
    hedging = HedgeTimer(policy)
    for one in seconds:
        hedging.on_return(one, streams=streams)
    return hedging


def test_the_delay_may_be_fixed():
    assert HedgeTimer(HedgePolicy(delay=0.7, percentile=None)).delay(streams=False) == 0.7


def test_the_delay_may_be_zero():
    assert HedgeTimer(HedgePolicy(delay=0.0, percentile=None)).delay(streams=False) == 0.0


def test_no_hedge_is_sent_before_the_percentile_is_known():
    assert timer_after(HedgePolicy(delay=0.1), [1.0] * (ENOUGH - 1)).delay(streams=False) == inf
    assert timer_after(HedgePolicy(delay=0.1), [1.0] * ENOUGH).delay(streams=False) == 1.0


@table_test(("share", "expected"), [(0.5, 51.0), (0.95, 96.0), (0.999, 100.0)])
def test_the_delay_is_a_percentile_of_attempt_times(share, expected):
    seconds = [float(second) for second in range(100, 0, -1)]

    assert timer_after(HedgePolicy(percentile=share), seconds).delay(streams=False) == expected


@table_test(("after", "expected"), [(0.5, 1.0), (3.0, 3.0)])
def test_the_longer_of_delay_and_percentile_counts(after, expected):
    policy = HedgePolicy(delay=after, percentile=0.9)

    assert timer_after(policy, [1.0] * ENOUGH).delay(streams=False) == expected


def test_first_outputs_and_whole_answers_have_separate_percentiles():
    hedging = timer_after(HedgePolicy(), [0.2] * ENOUGH, streams=True)

    assert hedging.delay(streams=True) == 0.2
    assert hedging.delay(streams=False) == inf


def test_old_times_are_forgotten():
    hedging = timer_after(HedgePolicy(), [9.0] * KEPT + [1.0] * KEPT)

    assert hedging.delay(streams=False) == 1.0


def test_the_percentile_follows_new_times():
    hedging = timer_after(HedgePolicy(percentile=0.5), [1.0] * ENOUGH)
    assert hedging.delay(streams=False) == 1.0
    for _ in range(ENOUGH):
        hedging.on_return(5.0, streams=False)

    assert hedging.delay(streams=False) == 5.0


def test_hedge_policy_defaults():
    assert (ENOUGH, KEPT) == (20, 128)
    assert HedgePolicy() == HedgePolicy(delay=None, percentile=0.95, max_hedges=1)


@table_test(
    ("changes", "message"),
    [
        ({"delay": -1.0}, "delay must not be negative, got -1"),
        ({"percentile": 0.0}, "percentile must be between 0 and 1, got 0"),
        ({"percentile": 1.0}, "percentile must be between 0 and 1, got 1"),
        ({"percentile": None}, "delay or percentile must be given"),
        ({"max_hedges": 0}, "max_hedges must be at least 1, got 0"),
    ],
)
def test_an_invalid_value_is_named(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        HedgePolicy(**changes)
