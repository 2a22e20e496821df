"""Leases instead of limits: units with their times, a cap, and the fallback without a store."""

from math import inf

import pytest
from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fleet_lease import (
    LAPSE,
    LOSS,
    MEMORY,
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


def test_a_refunded_unit_is_usable_until_it_lapses(rate):
    rate.add(Ramp(NOW, 0.0, 1, NOW))
    receipt = rate.take(1, NOW + 0.2)
    assert rate.ready_at(1, NOW + 0.2) == NEVER
    rate.refund(1, receipt, NOW + 0.3)
    assert rate.ready_at(1, NOW + 0.3) == READY
    assert rate.ready_at(1, NOW + LAPSE) == NEVER
    assert rate.owed == 0


def test_taken_units_leave_the_times_of_others_unchanged(rate):
    rate.add(Ramp(NOW, 0.1, 4, NOW))
    rate.take(1, NOW)
    assert rate.ready_at(1, NOW) == pytest.approx(NOW + 0.1)
    assert rate.ready_at(2, NOW + 0.1) == pytest.approx(NOW + 0.2)
    rate.take(1, NOW + 0.1)
    assert rate.ready_at(1, NOW + 0.1) == pytest.approx(NOW + 0.2)


def test_an_amount_is_taken_from_several_leases(rate):
    rate.add(Ramp(NOW - 0.1, 0.1, 2, NOW - 0.1))
    rate.add(Ramp(NOW, 0.1, 4, NOW))
    assert rate.take(4, NOW + 0.1) == pytest.approx(NOW + 0.1 + LAPSE)
    assert rate.held(NOW + 0.1) == 2
    assert rate.ready_at(1, NOW + 0.1) == pytest.approx(NOW + 0.2)
    assert rate.held(NOW + 0.25 + LAPSE) == 1


def test_lapsed_units_leave_the_times_of_others_unchanged(rate):
    rate.add(Ramp(NOW, 0.1, 20, NOW))
    late = NOW + LAPSE + 0.55
    assert [rate.held(late), rate.held(late)] == [14, 14]
    assert rate.ready_at(14, late) == pytest.approx(NOW + 1.9)


@table_test(
    ("first", "got", "count", "amount", "lapses_after"),
    [
        (-0.2, -0.2, 3, 3, LAPSE),  # all units
        (-0.2, -0.2, 4, 3, LAPSE),  # the first units
        (-0.2, -0.5, 4, 1, LAPSE - 0.2),
        (-5.0, -0.5, 3, 3, LAPSE - 0.5),  # none lapses before it can be used
        (-5.0, -0.5, 4, 3, LAPSE - 0.5),
    ],
)
def test_the_receipt_says_when_the_last_unit_would_have_lapsed(
    first, got, count, amount, lapses_after
):
    rate = leased().rate("requests", 10.0, 1.0)
    rate.add(Ramp(NOW + first, 0.1, count, NOW + got))
    assert rate.take(amount, NOW) == pytest.approx(NOW + lapses_after)


def test_several_refunded_units_are_usable_at_once(rate):
    rate.add(Ramp(NOW, 0.0, 2, NOW))
    assert rate.ready_at(2, NOW) == READY
    rate.refund(2, rate.take(2, NOW), NOW)
    assert rate.ready_at(2, NOW) == READY


def test_a_lease_of_no_units_holds_no_call(rate):
    rate.add(Ramp(NOW + 5.0, 0.1, 0, NOW))
    rate.add(Ramp(NOW, 0.1, 1, NOW))
    assert rate.ready_at(1, NOW) == READY


def test_the_turn_of_a_waiting_call_follows_the_rate_of_the_fleet(rate):
    rate.add(Ramp(NOW, 0.0, 3, NOW))
    assert rate.turn_at(5, NOW) == pytest.approx(NOW + 0.2)
    assert rate.turn_at(2, NOW) == NOW


def test_used_units_are_counted_and_remembered_for_a_while(rate):
    assert (rate.used, rate.full_at) == (0, -inf)
    rate.add(Ramp(NOW, 0.0, 4, NOW))
    receipt = rate.take(1, NOW)
    rate.take(2, NOW)
    rate.refund(1, receipt, NOW)
    assert (rate.used, rate.full_at) == (2, NOW + MEMORY)


def test_refunds_and_excess_are_reported_to_the_fleet(rate):
    rate.add(Ramp(NOW, 0.0, 100, NOW))
    rate.take(80, NOW)
    rate.settle(30, latest=inf)
    rate.settle(-10, latest=inf)
    assert rate.owed == -20


def test_a_share_replaces_a_late_store_and_its_use_is_reported(lease, rate):
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


def test_a_parent_process_is_waited_for_longer_than_a_store():
    rate = leased(url="parent:///x").rate("requests", 10.0, 1.0)
    rate._lease.ask(NOW)
    assert rate.ready_at(1, NOW) == NOW + PARENT_PATIENCE


def test_a_store_that_never_answered_leaves_no_burst(lease, rate):
    lease.failed(NOW)
    rate.take(1, NOW)
    assert rate.ready_at(1, NOW) == pytest.approx(NOW + 0.2)


@table_test(("share", "depth"), [(0.5, 2.0), (0.01, 0.1)])
def test_a_store_that_never_answered_leaves_one_unit_at_first(share, depth):
    lease = leased(share)
    rate = lease.rate("requests", 10.0, depth)
    lease.failed(NOW)
    assert rate.ready_at(1, NOW) <= NOW
    rate.take(1, NOW)
    assert rate.ready_at(1, NOW) == pytest.approx(NOW + 0.1 / share)


def test_a_refund_to_the_share_is_usable_and_not_owed(lease, rate):
    lease.answered(NOW)
    rate.refund(4, rate.take(4, NOW), NOW)
    assert (rate.ready_at(5, NOW) <= NOW + 1e-9, rate.owed, rate.used) == (True, 0, 0)


def test_a_new_share_does_not_refund_what_was_taken(lease, rate):
    lease.answered(NOW)
    rate.take(5, NOW)
    lease.set_share(1.0)
    assert rate.ready_at(1, NOW) > NOW


def test_the_fallback_half_halves_the_share():
    lease = leased(fallback="half")
    lease.set_share(1 / 4)
    assert lease.share == 1 / 8


# ---------------------------------------------------------------- slots


@pytest.fixture
def slots(lease):
    slots = lease.limiter(FixedLimit(max_in_flight=10))
    slots.set_cap(8, NOW + 10)
    return slots


def test_a_cap_holds_until_its_lease_ends(slots):
    assert slots.cap_at(NOW) == 8
    assert slots.cap_at(NOW + 10) == 0
    assert slots.ready_at(None, NOW + 10) == NEVER


@table_test(("share", "before"), [(0.5, 5), (0.01, 1)])
def test_without_an_answer_of_the_store_the_slots_are_a_share_and_at_least_one(share, before):
    lease = leased(share)
    slots = lease.limiter(FixedLimit(max_in_flight=10))
    assert (slots.cap, slots.limit, slots.ready_at(None, NOW)) == (0, before, NEVER)
    lease.failed(NOW)
    assert slots.cap_at(NOW) == before
    assert slots.ready_at(None, NOW) == READY
    for _ in range(before):
        slots.take(None, NOW)
    assert slots.ready_at(None, NOW) == NEVER
    for _ in range(before):
        slots.settle(None, None, NOW, 0.5)
    assert lease.woken == []


def test_a_call_waits_for_slots_until_the_store_is_late(lease, slots):
    slots.set_cap(0, NOW + 10)
    lease.ask(NOW)
    assert slots.ready_at(None, NOW) == NOW + PATIENCE


def test_the_last_slot_returns_to_the_fleet_unless_it_may_be_used_again_soon(lease, slots):
    lease.answered(inf)
    slots.fresh_until = NOW + 1

    def woken_by(now, taken):
        lease.woken.clear()
        for _ in range(taken):
            slots.take(None, now)
        slots.settle(None, None, now, 0.5)
        return len(lease.woken)

    assert [woken_by(NOW, 1), woken_by(NOW + 2, 1)] == [0, 1]
    lease.is_crowded = True
    assert [woken_by(NOW, 1), woken_by(NOW, 2)] == [1, 0]


def test_a_new_limit_asks_the_fleet_at_once(lease, slots):
    slots.resize(30, 0.5)
    assert (slots.max_limit, slots.cap_at(NOW), lease.woken) == (30, 8, [1])


def test_the_limit_is_at_least_one_without_slots(slots):
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


def test_a_lease_is_shared_while_the_store_answers(lease):
    assert (lease.members, lease.is_crowded, lease.rests, lease.is_sharing) == (0,) + (False,) * 3
    lease.answered(inf)
    assert lease.is_sharing
    lease.failed(NOW)
    assert not lease.is_sharing


def test_a_resting_lease_wakes_for_a_call(lease):
    lease.rest()
    assert (lease.rests, lease.woken) == (True, [1])
    lease.ask(NOW)
    assert (lease.rests, lease.woken) == (False, [1, 1])


def test_a_policy_without_limits_shares_news_only():
    assert leased().only_gossips
    for kind in "requests", "tokens":
        lease = leased()
        lease.rate(kind, 10.0, 1.0)
        assert not lease.only_gossips
    lease = leased()
    lease.limiter(FixedLimit(max_in_flight=10))
    assert not lease.only_gossips


def test_a_spend_period_begins_without_an_allowance():
    lease = SpendLease(FleetPolicy(url="redis://x", on_store_loss="allow"), 1.0, lambda: None)
    assert (lease.started, lease.allowance, lease.is_lenient) == (0.0, 0, True)
    lease.granted, lease.returned, lease.elsewhere, lease.noted = 10, 3, 20, 5
    lease.withholds = True
    assert lease.allowance == 7
    lease.begin(NOW)
    assert (lease.started, lease.allowance, lease.elsewhere, lease.noted) == (NOW, 0, 0, 0)
    assert not lease.withholds


def test_the_same_news_wake_the_lease_once(lease):
    news = object()
    lease.report_news(news)
    lease.report_news(news)
    assert lease.woken == [1]
