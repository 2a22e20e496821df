import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.batch.histogram import LEAST, MOST, Histogram

SECONDS = st.floats(min_value=LEAST, max_value=MOST)


def counted(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.lists(SECONDS, min_size=1), st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_right_to_within_5_percent(values, share):
    ordered = sorted(values)
    wanted = next(value for place, value in enumerate(ordered, 1) if place >= share * len(ordered))
    assert counted(values).quantile(share) == pytest.approx(wanted, rel=0.05)


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_two_add_up(some, others):
    together = counted(some)
    together.update(counted(others))
    assert len(together) == len(some) + len(others)
    for share in (0.5, 0.99):
        assert together.quantile(share) == counted([*some, *others]).quantile(share)


@table_test("odd", [0.0, -1.0, float("inf"), float("nan"), 1e300, 1e-300])
def test_odd_seconds_count_too(odd):
    assert len(counted([odd])) == 1


def test_nothing_has_no_quantile():
    assert Histogram().quantile(0.5) is None
