"""The spend account of one policy, without calls."""

import decimal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec, module_from_spec
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.gate import NEVER, READY
from stormbreak.core.spend_policy import SpendPolicy, period_end, time_left
from stormbreak.cost.spend_gate import SpendAccount

ONE, TWO, THREE = map(Decimal, (1, 2, 3))


def account(usd=2.0, per=None):
    return SpendAccount(SpendPolicy(max_usd=usd, period=per))


def test_an_account_can_be_spent_exactly_to_its_limit():
    made = account()
    assert made.ready_at(TWO, 0.0) == READY
    made.reserve(ONE, 0.0)
    assert made.ready_at(ONE, 0.0) == READY
    assert made.ready_at(Decimal("1.01"), 0.0) == NEVER


def test_lacks_is_true_only_above_the_remaining_money():
    made = account()
    made.settle(ONE, ONE, made.reserve(ONE, 0.0), 0.0)

    assert not made.lacks(ONE, 0.0)
    assert made.lacks(Decimal("1.01"), 0.0)
    assert made.ready_at(Decimal("1.01"), 0.0) == made.ends_at == inf


def test_money_reserved_by_others_is_not_awaited_until_the_period_ends():
    made = account(per=60.0)
    made.reserve(TWO, 0.0)

    assert made.ready_at(TWO, 59.0) == NEVER
    assert not made.lacks(TWO, 59.0)


def test_a_period_ends_exactly_at_its_end():
    made = account(per=60.0)
    made.settle(TWO, TWO, made.reserve(TWO, 0.0), 0.0)

    assert (made.ready_at(TWO, 59.9), made.ready_at(TWO, 60.0)) == (60.0, READY)
    assert (made.lacks(TWO, 59.9), made.lacks(TWO, 60.0)) == (True, False)
    assert made.ready_at(THREE, 60.0) == NEVER
    assert (made.taken_at(59.9), made.taken_at(60.0)) == (TWO, 0)
    assert made.snapshot(59.9)["spent"] == "2"
    assert made.snapshot(60.0) == {"limit": "2.0", "spent": "0", "reserved": "0", "ends": None}


def test_later_reservations_do_not_extend_a_period():
    made = account(per=60.0)
    first = made.reserve(ONE, 5.0)
    assert made.ends_at == 65.0
    assert made.reserve(ONE, 30.0) == first
    assert made.ends_at == 65.0

    assert made.reserve(ONE, 70.0) == first + 1
    assert made.ends_at == 130.0


def test_a_late_settlement_does_not_count_in_the_next_period():
    made = account(per=60.0)
    period = made.reserve(TWO, 0.0)
    made.settle(TWO, TWO, period, 60.0)

    assert (made.spent, made.taken, made.ends_at) == (0, 0, inf)


def test_reservations_stay_within_the_allowed_amount():
    made = account()
    made.allowed = ONE

    assert made.ready_at(ONE, 0.0) == READY
    assert made.ready_at(Decimal("1.01"), 0.0) == NEVER
    assert not made.lacks(TWO, 0.0)
    made.reserve(ONE, 0.0)
    assert made.room == 0
    made.allowed = THREE
    assert made.room == 1


@table_test(
    ("percents", "expected"),
    [
        ([49, "49.9", 50, 51, "79.9", 80, "99.9", 100, 110], [50, 80, 100]),
        ([95, 100], [80, 100]),
        ([100], [100]),
    ],
)
def test_each_alert_level_is_reported_once(percents, expected):
    made = account(usd=100.0)
    alerts = []
    for percent in percents:
        made.spend(Decimal(percent) - made.spent)
        alerts.append(made.next_alert())

    shares = [each for each in alerts if each is not None]
    assert shares == expected


def test_a_rejection_reports_100_percent_once():
    made = account()

    assert made.next_alert(rejected=True) == 100
    assert made.next_alert(rejected=True) is None


def test_a_rejection_does_not_suppress_the_other_alert_levels():
    made = account()
    made.next_alert(rejected=True)
    alerts = []
    for _ in range(4):
        made.spend(Decimal("0.5"))
        alerts.append(made.next_alert())

    assert alerts == [None, 50, None, None]
    made.change_limit(SpendPolicy(max_usd=3.0))
    assert made.next_alert(rejected=True) == 100


def test_a_branch_reports_only_alert_levels_above_its_spend():
    made = account()
    made.spend(ONE)
    made.next_alert()
    full, half = (made.branch(SpendPolicy(max_usd=usd)) for usd in (1.0, 1.6))
    half.spend(Decimal("0.4"))

    assert (full.next_alert(), full.next_alert(rejected=True)) == (None, None)
    assert half.next_alert() == 80
    assert half.next_alert(rejected=True) == 100
    assert (made.spent, made.next_alert()) == (1, None)


def test_alerts_start_again_in_each_period():
    made = account(per=60.0)
    made.settle(TWO, TWO, made.reserve(TWO, 0.0), 0.0)
    assert made.next_alert() == 100
    made.reserve(ONE, 60.0)

    assert made.next_alert() is None
    assert made.next_alert(rejected=True) == 100


def test_the_end_of_the_period_is_known_at_an_alert():
    made = account(per=60.0)
    made.settle(TWO, TWO, made.reserve(TWO, 5.0), 5.0)

    assert (made.next_alert(), made.ends_at) == (100, 65.0)


def test_a_low_decimal_precision_of_the_thread_changes_no_spend():
    made = account(usd=1000.0)
    made.spend(Decimal(100))
    with decimal.localcontext(prec=4):
        for _ in range(1000):
            period = made.reserve(Decimal("0.5001"), 0.0)
            made.settle(Decimal("0.5001"), Decimal("0.0004"), period, 0.0)
        assert made.ready_at(Decimal("899.6"), 0.0) == READY
        assert made.ready_at(Decimal("899.6001"), 0.0) != READY

    assert (made.spent, made.taken) == (Decimal("100.4"), Decimal("100.4"))


def test_a_thread_that_traps_rounding_gets_alerts():
    made = account(usd=3.0)
    made.spend(TWO)
    with decimal.localcontext(prec=4, traps=[decimal.Inexact]):  # it used to fail an answered call
        assert made.next_alert() == 50
        assert made.step > 0


def test_a_default_context_that_traps_rounding_has_no_effect(monkeypatch):
    monkeypatch.setitem(decimal.DefaultContext.traps, decimal.Inexact, True)
    spec = find_spec("stormbreak.cost.price_source")
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.EXACT.divide(TWO, THREE) > 0


@given(at=st.floats(0.0, 7e9))
def test_hour_day_and_month_end_at_the_boundaries_of_the_calendar(at):
    now = datetime.fromtimestamp(int(at), UTC)
    hour = now.replace(minute=0, second=0) + timedelta(hours=1)
    day = now.replace(hour=0, minute=0, second=0) + timedelta(days=1)
    month = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    if day.day == 1:
        month = day
    ends = [period_end(each, at) for each in ("hour", "day", "month")]
    assert ends == [each.timestamp() for each in (hour, day, month)]


FIRST = datetime(2026, 2, 28, 23, 30, tzinfo=UTC).timestamp()  # half an hour before a month ends


class Clocks:
    """A monotonic clock and a wall clock."""

    def __init__(self, period):
        self.now, self.wall, self.reads = 100.0, FIRST, 0
        self.account = SpendAccount(SpendPolicy(max_usd=2.0, period=period), self._wall)

    def _wall(self):
        self.reads += 1
        return self.wall

    def go(self, seconds):
        self.now += seconds
        self.wall += seconds

    def take(self, usd=TWO):
        """Spend if possible; return the time at which it is possible."""
        at = self.account.ready_at(usd, self.now)
        if at <= self.now:
            self.account.settle(usd, usd, self.account.reserve(usd, self.now), self.now)
        return at


@table_test("period", ["hour", "day", "month"])
def test_a_period_of_the_calendar_ends_at_its_boundary(period):
    clocks = Clocks(period)
    assert clocks.account.snapshot(clocks.now)["ends"] == 1800.0
    assert clocks.take() == READY
    assert clocks.account.snapshot(clocks.now)["ends"] == 1800.0
    clocks.go(1799.0)
    assert clocks.take() == pytest.approx(clocks.now + 1.0)
    clocks.go(1.0)
    assert clocks.take() == READY
    assert clocks.account.ends_at == pytest.approx(
        clocks.now + period_end(period, clocks.wall) - clocks.wall
    )


def test_the_wall_clock_is_read_once_per_period():
    clocks = Clocks("hour")
    for _ in range(100):
        clocks.take(Decimal("0.01"))
    assert clocks.reads == 1
    clocks.go(1800.0)
    for _ in range(100):
        clocks.take(Decimal("0.01"))
    assert clocks.reads == 2


@table_test("back", [10.0, 600.0, 3_590.0])
def test_a_wall_clock_that_is_set_back_repeats_no_period(back):
    clocks = Clocks("hour")
    clocks.take()
    clocks.wall -= back
    while clocks.wall < FIRST + 1799.0:
        assert clocks.take() > clocks.now
        clocks.go(1.0)
    clocks.go(1.0)
    assert clocks.take() == READY
    clocks.wall -= 5.0  # just after a period has begun
    clocks.go(6.0)
    assert clocks.take() > clocks.now


def test_a_wall_clock_wrong_by_years_delays_at_most_two_periods():
    clocks = Clocks("hour")
    clocks.take()
    clocks.wall -= 1e8
    clocks.go(1800.0)
    assert clocks.take() == clocks.account.ends_at == clocks.now + time_left("hour", clocks.wall)


def test_a_branch_keeps_the_end_of_a_calendar_period():
    clocks = Clocks("day")
    clocks.take()
    branch = clocks.account.branch(SpendPolicy(max_usd=3.0, period="day"))
    clocks.wall -= 60.0
    clocks.go(1800.0)
    assert branch.ready_at(TWO, clocks.now) == clocks.now + 60.0
    assert branch.ready_at(ONE, clocks.now) == READY
