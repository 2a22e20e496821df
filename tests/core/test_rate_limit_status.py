from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.gate import READY
from stormbreak.core.rate_limit_gate import ReportedLimit
from stormbreak.types import RateLimitStatus

FLOWS = RateLimitStatus(limit=60.0, remaining=10.0, reset=50.0)
WINDOW = FLOWS._replace(flows=False)


def heard(said, now=100.0):
    told = ReportedLimit(max_wait=900.0)
    told.update(said, told.take(1, now), now, served=True)
    return told


def test_until_something_is_heard_everything_passes():
    assert ReportedLimit(max_wait=900.0).ready_at(10**9, 0.0) == READY


def test_what_remains_may_leave_at_once_and_the_rest_as_it_flows():
    told = heard(FLOWS)
    for _ in range(10):
        assert told.ready_at(1, 100.0) == READY
        told.take(1, 100.0)

    assert told.ready_at(1, 100.0) == pytest.approx(101.0)
    assert told.ready_at(5, 100.0) == pytest.approx(105.0)
    assert told.ready_at(1, 101.0) == READY


def test_a_window_is_awaited_to_its_end():
    told = heard(WINDOW)
    for _ in range(10):
        assert told.ready_at(1, 120.0) == READY
        told.take(1, 120.0)

    assert told.ready_at(1, 120.0) == 150.0
    assert told.ready_at(1, 150.0) == READY


@table_test(
    "said",
    [
        RateLimitStatus(),
        RateLimitStatus(limit=60.0, reset=30.0),
        RateLimitStatus(remaining=0.0),
        RateLimitStatus(limit=60.0, remaining=0.0),
        RateLimitStatus(limit=60.0, remaining=0.0, reset=0.0, flows=False),
        RateLimitStatus(limit=0.0, remaining=0.0, window=60.0),
    ],
)
def test_where_no_remainder_or_no_time_is_named_nothing_is_known(said):
    assert heard(said).ready_at(1, 100.0) == READY


def test_a_limit_with_a_window_needs_no_reset():
    told = heard(RateLimitStatus(limit=60.0, remaining=0.0, window=60.0))
    assert told.ready_at(1, 100.0) == pytest.approx(101.0)
    told = heard(RateLimitStatus(limit=60.0, remaining=0.0, window=60.0, flows=False))
    assert told.ready_at(1, 100.0) == pytest.approx(160.0)


def test_where_a_part_remains_a_window_names_the_time_too():
    part = RateLimitStatus(limit=60.0, remaining=30.0, window=60.0)
    told = heard(part)
    told.take(30, 100.0)
    assert told.ready_at(1, 100.0) == pytest.approx(101.0)
    told = heard(part._replace(flows=False))
    told.take(30, 100.0)
    assert told.ready_at(1, 100.0) == pytest.approx(160.0)


@table_test(
    ("said", "each"),
    [
        (RateLimitStatus(limit=60.0, remaining=30.0, reset=0.5), 1 / 60),  # 30 in half a second
        (
            RateLimitStatus(limit=60.0, remaining=30.0, reset=0.0),
            1.0,
        ),  # no time: a limit is per minute
        (
            RateLimitStatus(limit=60.0, remaining=60.0, reset=1.0),
            1.0,
        ),  # nothing is missing: likewise
        (RateLimitStatus(limit=60.0, remaining=60.0, reset=1.0, window=3600.0), 60.0),
    ],
)
def test_how_fast_it_flows(said, each):
    told = heard(said)
    told.take(said.remaining, 100.0)

    assert told.ready_at(1, 100.0) == pytest.approx(100.0 + each)


def test_what_has_flowed_in_is_counted_once():
    told = heard(FLOWS)  # ten remain, and one comes each second
    told.take(10, 105.0)
    told.take(10, 110.0)

    assert told.ready_at(1, 110.0) == pytest.approx(111.0)


def test_no_more_flows_in_than_the_limit_holds():
    told = heard(FLOWS)
    told.take(60, 200.0)  # it has been whole since 150
    assert told.ready_at(1, 200.0) == pytest.approx(201.0)

    told = heard(FLOWS)
    receipt = told.take(1, 100.0)
    told.settle(-5, receipt, 200.0)  # five were used beyond what was taken
    told.take(55, 200.0)
    assert told.ready_at(1, 200.0) == pytest.approx(201.0)


def test_news_of_attempts_that_took_nothing_are_heard():
    told = ReportedLimit(max_wait=900.0)
    one, other = told.take(0, 100.0), told.take(0, 100.0)
    told.update(FLOWS._replace(remaining=0.0), one, 101.0, served=True)
    assert told.ready_at(1, 101.0) > 101.0
    told.update(FLOWS, other, 101.5, served=True)
    assert told.ready_at(1, 101.5) == READY


def test_attempts_that_left_later_are_subtracted():
    told = ReportedLimit(max_wait=900.0)
    receipt = told.take(1, 100.0)
    for _ in range(10):
        told.take(1, 100.0)
    told.update(FLOWS, receipt, 101.0, served=True)

    assert told.ready_at(1, 101.0) == pytest.approx(102.0)


def test_old_news_are_no_news():
    told = ReportedLimit(max_wait=900.0)
    early, late = told.take(1, 100.0), told.take(1, 100.0)
    told.update(FLOWS._replace(remaining=0.0), late, 101.0, served=True)
    told.update(FLOWS._replace(remaining=60.0), early, 102.0, served=True)

    assert told.ready_at(1, 101.0) > 101.0


def test_what_the_server_had_counted_is_not_given_back():
    told = ReportedLimit(max_wait=900.0)
    early = told.take(40, 100.0)
    heard_last = told.take(1, 100.0)
    told.update(FLOWS._replace(remaining=0.0), heard_last, 101.0, served=True)
    told.settle(30, early, 101.0)
    told.settle(1, heard_last, 101.0)
    assert told.ready_at(1, 101.0) > 101.0
    late = told.take(1, 102.0)
    told.settle(1, late, 102.0)

    assert told.ready_at(1, 102.0) == READY
    assert told.ready_at(2, 102.0) > 102.0


def test_more_than_the_limit_leaves_when_all_of_it_is_there():
    assert heard(FLOWS).ready_at(1000, 100.0) == pytest.approx(150.0)


def test_nothing_holds_for_longer_than_longest():
    told = heard(RateLimitStatus(limit=10.0, remaining=0.0, reset=1e9))
    assert told.ready_at(1, 100.0) == 1000.0
    assert told.ready_at(1, 1000.0) == READY


counts = st.none() | st.floats(0.0, 1e6)
news = st.builds(
    RateLimitStatus, counts, counts, counts, st.none() | st.floats(0.0, 86_400.0), st.booleans()
)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(1, 2000), news), max_size=30))
def test_looking_changes_nothing_and_it_opens_when_it_said(steps):
    told, now = ReportedLimit(max_wait=900.0), 0.0
    for pause, amount, said in steps:
        now += pause
        ready_at = told.ready_at(amount, now)
        assert told.ready_at(amount, now) == ready_at < inf
        if ready_at != READY:
            assert now < ready_at <= now + 900.0
            now = ready_at
            assert told.ready_at(amount, now) == READY
        receipt = told.take(amount, now)
        told.settle(amount // 2, receipt, now)
        told.update(said, receipt, now, served=True)


EMPTY = RateLimitStatus(limit=60.0, remaining=0.0, reset=50.0, flows=False)


def two_say(one, other, *, served, later=0.5):
    """Two attempts in flight at once are answered, one after the other."""
    told = ReportedLimit(max_wait=900.0)
    receipts = told.take(1, 100.0), told.take(1, 100.0)
    told.update(one, receipts[0], 101.0, served=served)
    told.update(other, receipts[1], 101.0 + later, served=served)
    return told.ready_at(1, 101.0 + later)


def test_who_serves_on_when_nothing_remains_is_not_believed():
    assert two_say(EMPTY, EMPTY._replace(reset=49.5), served=True) == READY
    assert two_say(EMPTY, EMPTY, served=True, later=48.5) == READY
    assert two_say(EMPTY._replace(limit=None), EMPTY._replace(limit=None), served=True) == READY


def test_but_refusals_and_what_flows_may_say_so_again_and_again():
    assert two_say(EMPTY, EMPTY, served=False) > 102.0
    assert two_say(EMPTY._replace(flows=True), EMPTY._replace(flows=True), served=True) > 101.5
    assert (
        two_say(EMPTY, EMPTY, served=True, later=49.0) > 151.0
    )  # the next window; resets are rounded
