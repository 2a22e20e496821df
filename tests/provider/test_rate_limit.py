"""Limits of requests and tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.errors import ConfigurationError
from stormbreak.provider.rate_limit import LimitState, RequestLimit
from stormbreak.provider.scenario import Limit, LimitKind


def window(**kwargs):
    return RequestLimit(Limit(kind=LimitKind.WINDOW, **kwargs))


def bucket(**kwargs):
    return RequestLimit(Limit(kind=LimitKind.BUCKET, **kwargs))


def test_a_window_is_full_until_its_end_and_then_empty_at_once():
    limit = window(requests=2, period=60)
    assert [limit.take(now) for now in (50, 51)] == [None, None]
    assert limit.take(52) == 8
    assert [limit.take(now) for now in (60, 119)] == [None, None]
    assert limit.take(119.5) == 0.5


def test_a_bucket_grants_its_burst_and_then_its_rate():
    limit = bucket(requests=60, period=60, burst=3)
    assert [limit.take(0) for _ in range(4)] == [None, None, None, 1]
    assert limit.take(0.25) == 0.75
    assert limit.take(1) is None
    assert limit.take(1) == 1


def test_rejects_drain_a_bucket_but_never_below_zero():
    limit = bucket(requests=60, period=60, burst=1, reject_cost=0.2)
    assert limit.take(0) is None
    assert limit.take(0.5) == pytest.approx(0.7)  # 0.5 had flowed in, the reject took 0.2
    assert limit.take(0.5) == pytest.approx(0.9)
    assert limit.take(0.5) == pytest.approx(1.0)
    assert limit.take(1.4) is not None
    assert limit.take(2.5) is None


@given(st.lists(st.floats(0, 5), max_size=200))
def test_a_limit_never_grants_more_than_configured(gaps):
    per_window, tokens = window(requests=5, period=10), bucket(requests=5, period=10, burst=2)
    now, windows, granted = 0.0, {}, 0
    for gap in gaps:
        now += gap
        if per_window.take(now) is None:
            windows[now // 10] = windows.get(now // 10, 0) + 1
        granted += tokens.take(now) is None
    assert max(windows.values(), default=0) <= 5
    assert granted <= 2 + now / 2 + 1e-6


def test_a_call_that_waits_for_the_named_time_is_served():
    for limit in (window(requests=3, period=7), bucket(requests=3, period=7, burst=1)):
        now = 0.0
        for _ in range(50):
            wait = limit.take(now)
            now += wait or 0
            assert wait is None or limit.take(now) is None


def test_a_bucket_limits_tokens_and_requests():
    limit = bucket(requests=600, tokens=6000, period=60)
    assert limit.take(0, 5000) is None
    assert limit.take(0, 2000) == 10
    assert limit.take(0, 1000) is None  # the rejected request used no tokens
    assert limit.limit_states(0) == [
        LimitState(False, 600, 598, 0.2),
        LimitState(True, 6000, 0, 60),
    ]
    assert limit.take(10, 1000) is None


def test_a_window_may_limit_tokens_alone():
    limit = window(tokens=100, period=10)
    assert limit.take(3, 80) is None
    assert limit.take(3, 30) == 7
    assert limit.limit_states(4) == [LimitState(True, 100, 20, 6)]


def test_a_limit_without_requests_and_tokens_is_rejected():
    with pytest.raises(ConfigurationError, match="requests or tokens must be given, got neither"):
        Limit(kind=LimitKind.WINDOW)
