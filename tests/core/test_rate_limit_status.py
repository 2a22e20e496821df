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


def reported(status, now=100.0):
    limit = ReportedLimit(max_wait=900.0)
    limit.update(status, limit.take(1, now), now, served=True)
    return limit


def test_without_a_report_every_call_passes():
    assert ReportedLimit(max_wait=900.0).ready_at(10**9, 0.0) == READY


def test_the_remainder_leaves_at_once_and_the_rest_at_the_rate():
    limit = reported(FLOWS)
    for _ in range(10):
        assert limit.ready_at(1, 100.0) == READY
        limit.take(1, 100.0)

    assert limit.ready_at(1, 100.0) == pytest.approx(101.0)
    assert limit.ready_at(5, 100.0) == pytest.approx(105.0)
    assert limit.ready_at(1, 101.0) == READY


def test_a_fixed_window_is_awaited_to_its_end():
    limit = reported(WINDOW)
    for _ in range(10):
        assert limit.ready_at(1, 120.0) == READY
        limit.take(1, 120.0)

    assert limit.ready_at(1, 120.0) == 150.0
    assert limit.ready_at(1, 150.0) == READY


@table_test(
    "status",
    [
        RateLimitStatus(),
        RateLimitStatus(limit=60.0, reset=30.0),
        RateLimitStatus(remaining=0.0),
        RateLimitStatus(limit=60.0, remaining=0.0),
        RateLimitStatus(limit=60.0, remaining=0.0, reset=0.0, flows=False),
        RateLimitStatus(limit=0.0, remaining=0.0, window=60.0),
    ],
)
def test_a_report_without_a_remainder_or_a_time_is_ignored(status):
    assert reported(status).ready_at(1, 100.0) == READY


def test_a_limit_with_a_window_needs_no_reset():
    limit = reported(RateLimitStatus(limit=60.0, remaining=0.0, window=60.0))
    assert limit.ready_at(1, 100.0) == pytest.approx(101.0)
    limit = reported(RateLimitStatus(limit=60.0, remaining=0.0, window=60.0, flows=False))
    assert limit.ready_at(1, 100.0) == pytest.approx(160.0)


def test_a_partial_remainder_uses_the_named_window():
    part = RateLimitStatus(limit=60.0, remaining=30.0, window=60.0)
    limit = reported(part)
    limit.take(30, 100.0)
    assert limit.ready_at(1, 100.0) == pytest.approx(101.0)
    limit = reported(part._replace(flows=False))
    limit.take(30, 100.0)
    assert limit.ready_at(1, 100.0) == pytest.approx(160.0)


@table_test(
    ("status", "each"),
    [
        (RateLimitStatus(limit=60.0, remaining=30.0, reset=0.5), 1 / 60),  # 30 in half a second
        (
            RateLimitStatus(limit=60.0, remaining=30.0, reset=0.0),
            1.0,
        ),  # no time: a limit is per minute
        (
            RateLimitStatus(limit=60.0, remaining=60.0, reset=1.0),
            1.0,
        ),  # nothing is used: likewise
        (RateLimitStatus(limit=60.0, remaining=60.0, reset=1.0, window=3600.0), 60.0),
    ],
)
def test_the_rate_follows_from_limit_remainder_and_reset(status, each):
    limit = reported(status)
    limit.take(status.remaining, 100.0)

    assert limit.ready_at(1, 100.0) == pytest.approx(100.0 + each)


def test_refilled_units_are_counted_once():
    limit = reported(FLOWS)  # ten remain, and one comes each second
    limit.take(10, 105.0)
    limit.take(10, 110.0)

    assert limit.ready_at(1, 110.0) == pytest.approx(111.0)


def test_the_refill_stops_at_the_limit():
    limit = reported(FLOWS)
    limit.take(60, 200.0)  # it is full since 150
    assert limit.ready_at(1, 200.0) == pytest.approx(201.0)

    limit = reported(FLOWS)
    receipt = limit.take(1, 100.0)
    limit.settle(-5, receipt, 200.0)  # five more were used than taken
    limit.take(55, 200.0)
    assert limit.ready_at(1, 200.0) == pytest.approx(201.0)


def test_reports_of_attempts_that_took_nothing_count():
    limit = ReportedLimit(max_wait=900.0)
    one, other = limit.take(0, 100.0), limit.take(0, 100.0)
    limit.update(FLOWS._replace(remaining=0.0), one, 101.0, served=True)
    assert limit.ready_at(1, 101.0) > 101.0
    limit.update(FLOWS, other, 101.5, served=True)
    assert limit.ready_at(1, 101.5) == READY


def test_attempts_sent_later_are_subtracted_from_a_report():
    limit = ReportedLimit(max_wait=900.0)
    receipt = limit.take(1, 100.0)
    for _ in range(10):
        limit.take(1, 100.0)
    limit.update(FLOWS, receipt, 101.0, served=True)

    assert limit.ready_at(1, 101.0) == pytest.approx(102.0)


def test_a_report_of_an_earlier_attempt_is_ignored():
    limit = ReportedLimit(max_wait=900.0)
    early, late = limit.take(1, 100.0), limit.take(1, 100.0)
    limit.update(FLOWS._replace(remaining=0.0), late, 101.0, served=True)
    limit.update(FLOWS._replace(remaining=60.0), early, 102.0, served=True)

    assert limit.ready_at(1, 101.0) > 101.0


def test_units_that_a_report_has_counted_are_not_refunded():
    limit = ReportedLimit(max_wait=900.0)
    early = limit.take(40, 100.0)
    latest = limit.take(1, 100.0)
    limit.update(FLOWS._replace(remaining=0.0), latest, 101.0, served=True)
    limit.settle(30, early, 101.0)
    limit.settle(1, latest, 101.0)
    assert limit.ready_at(1, 101.0) > 101.0
    late = limit.take(1, 102.0)
    limit.settle(1, late, 102.0)

    assert limit.ready_at(1, 102.0) == READY
    assert limit.ready_at(2, 102.0) > 102.0


def test_an_amount_above_the_limit_waits_for_a_full_limit():
    assert reported(FLOWS).ready_at(1000, 100.0) == pytest.approx(150.0)


def test_a_report_holds_for_max_wait_at_most():
    limit = reported(RateLimitStatus(limit=10.0, remaining=0.0, reset=1e9))
    assert limit.ready_at(1, 100.0) == 1000.0
    assert limit.ready_at(1, 1000.0) == READY


counts = st.none() | st.floats(0.0, 1e6)
news = st.builds(
    RateLimitStatus, counts, counts, counts, st.none() | st.floats(0.0, 86_400.0), st.booleans()
)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(1, 2000), news), max_size=30))
def test_ready_at_changes_nothing_and_is_exact(steps):
    limit, now = ReportedLimit(max_wait=900.0), 0.0
    for pause, amount, status in steps:
        now += pause
        ready_at = limit.ready_at(amount, now)
        assert limit.ready_at(amount, now) == ready_at < inf
        if ready_at != READY:
            assert now < ready_at <= now + 900.0
            now = ready_at
            assert limit.ready_at(amount, now) == READY
        receipt = limit.take(amount, now)
        limit.settle(amount // 2, receipt, now)
        limit.update(status, receipt, now, served=True)


EMPTY = RateLimitStatus(limit=60.0, remaining=0.0, reset=50.0, flows=False)


def ready_after_two(one, other, *, served, later=0.5):
    """Two attempts in flight at once are answered one after the other."""
    limit = ReportedLimit(max_wait=900.0)
    receipts = limit.take(1, 100.0), limit.take(1, 100.0)
    limit.update(one, receipts[0], 101.0, served=served)
    limit.update(other, receipts[1], 101.0 + later, served=served)
    return limit.ready_at(1, 101.0 + later)


def test_an_empty_remainder_is_ignored_if_the_server_serves_on():
    assert ready_after_two(EMPTY, EMPTY._replace(reset=49.5), served=True) == READY
    assert ready_after_two(EMPTY, EMPTY, served=True, later=48.5) == READY
    assert (
        ready_after_two(EMPTY._replace(limit=None), EMPTY._replace(limit=None), served=True)
        == READY
    )


def test_refusals_and_refilling_limits_may_report_empty_repeatedly():
    assert ready_after_two(EMPTY, EMPTY, served=False) > 102.0
    assert (
        ready_after_two(EMPTY._replace(flows=True), EMPTY._replace(flows=True), served=True) > 101.5
    )
    assert (
        ready_after_two(EMPTY, EMPTY, served=True, later=49.0) > 151.0
    )  # the next window; resets are rounded
