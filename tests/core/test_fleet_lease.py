"""Leases in place of limits: units with their times, a cap, and what replaces them without a store."""

from math import inf

import pytest

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fleet_lease import (
    LAPSE,
    LOSS,
    PARENT_PATIENCE,
    PATIENCE,
    Ramp,
    SpendLease,
    TargetLease,
)
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.gate import NEVER, READY

NOW = 100.0


def leased(share=0.5, url="redis://x", **changes):
    woken = []
    lease = TargetLease(FleetPolicy(url=url, **changes), share, lambda: woken.append(1))
    lease.woken = woken
    return lease


@pytest.fixture
def lease():
    return leased()


@pytest.fixture
def rate(lease):
    return lease.rate("requests", 10.0, 1.0)


def test_units_are_usable_from_their_time_until_they_lapse(rate):
    rate.add(Ramp(NOW + 0.1, 0.1, 3, NOW))
    assert rate.ready_at(1, NOW) == NOW + 0.1
    assert rate.ready_at(3, NOW) == pytest.approx(NOW + 0.3)
    assert rate.ready_at(4, NOW) == NEVER
    assert rate.ready_at(1, NOW + 0.1) == READY
    assert rate.held(NOW + 0.15 + LAPSE) == 2
    assert rate.ready_at(1, NOW + 0.35 + LAPSE) == NEVER


def test_units_of_the_past_lapse_after_they_were_received(rate):
    rate.add(Ramp(NOW - 5.0, 0.1, 10, NOW))
    assert rate.held(NOW + LAPSE - 0.01) == 10
    assert rate.held(NOW + LAPSE) == 0


def test_a_unit_that_was_taken_for_nothing_can_be_used_until_it_would_have_lapsed(rate):
    rate.add(Ramp(NOW, 0.0, 1, NOW))
    receipt = rate.take(1, NOW + 0.2)
    assert rate.ready_at(1, NOW + 0.2) == NEVER
    rate.refund(1, receipt, NOW + 0.3)
    assert rate.ready_at(1, NOW + 0.3) == READY
    assert rate.ready_at(1, NOW + LAPSE) == NEVER
    assert rate.owed == 0


def test_what_is_given_back_or_used_beyond_is_owed_to_the_fleet(rate):
    rate.add(Ramp(NOW, 0.0, 100, NOW))
    rate.take(80, NOW)
    rate.settle(30, latest=inf)
    rate.settle(-10, latest=inf)
    assert rate.owed == -20


def test_a_late_store_is_replaced_by_a_share_which_is_reported(lease, rate):
    lease.answered(inf)
    lease.ask(NOW)
    lease.ask(NOW + 0.01)
    assert lease.woken == [1]
    assert rate.ready_at(1, NOW) == NOW + PATIENCE
    late = NOW + PATIENCE
    taken = 0
    while rate.ready_at(1, late) <= late + 1e-9:  # rounding
        rate.take(1, late)
        taken += 1
    assert (taken, rate.owed) == (5, 5)  # half of the burst
    assert rate.ready_at(1, late) == pytest.approx(late + 0.2)


def test_a_busy_parent_is_waited_for_longer_since_its_children_end_with_it():
    rate = leased(url="parent:///x").rate("requests", 10.0, 1.0)
    rate._lease.ask(NOW)
    assert rate.ready_at(1, NOW) == NOW + PARENT_PATIENCE


def test_a_store_that_never_answered_leaves_no_burst(lease, rate):
    lease.failed(NOW)
    rate.take(1, NOW)
    assert rate.ready_at(1, NOW) == pytest.approx(NOW + 0.2)


def test_half_a_share_is_half_of_it():
    lease = leased(fallback="half")
    lease.set_share(1 / 4)
    assert lease.share == 1 / 8


# ---------------------------------------------------------------- slots


@pytest.fixture
def slots(lease):
    slots = lease.limiter(FixedLimit(max_in_flight=10))
    slots.set_cap(8, NOW + 10)
    return slots


def test_a_cap_holds_until_its_lease_is_over(slots):
    assert slots.cap_at(NOW) == 8
    assert slots.cap_at(NOW + 10) == 0
    assert slots.ready_at(None, NOW + 10) == NEVER


def test_another_limit_of_the_fleet_is_asked_for_at_once(lease, slots):
    slots.resize(30, 0.5)
    assert (slots.max_limit, slots.cap_at(NOW), lease.woken) == (30, 8, [1])


def test_no_slot_at_all_is_no_limit_of_zero_for_those_who_divide_by_it(slots):
    slots.set_cap(0, NOW + 10)
    assert slots.ready_at(None, NOW) == NEVER
    assert slots.limit == 1


def test_a_late_store_leaves_the_larger_of_cap_and_share_and_a_lost_one_the_share(lease, slots):
    lease.set_share(0.5)
    lease.failed(NOW)
    assert slots.cap_at(NOW) == 8
    assert slots.cap_at(NOW + LOSS) == 5
    slots.set_cap(2, NOW + 10)
    assert slots.cap_at(NOW) == 5
    lease.answered(inf)
    assert slots.cap_at(NOW) == 2


# ---------------------------------------------------------------- lost or late


def test_only_a_failed_report_makes_a_store_lost():
    lease = SpendLease(FleetPolicy(url="redis://x"), 1.0, lambda: None)
    lease.ask(NOW)
    assert not lease.is_lost(NOW + 60)
    lease.failed(NOW + 60)
    assert lease.is_lost(NOW + 60)
    lease.answered(inf)
    assert not lease.is_lost(NOW + 61)


def test_news_wake_once(lease):
    news = object()
    lease.report_news(news)
    lease.report_news(news)
    assert lease.woken == [1]
