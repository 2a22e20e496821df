"""The model of a store: fair division, rates, slots, money."""

from table_test import table_test

from stormbreak.fleet.messages import (
    HOLD,
    LIFT,
    CooldownReport,
    RateReport,
    Report,
    SlotReport,
    SpendReport,
)
from stormbreak.fleet.store_rules import CHUNK, HORIZON, LEASE, QUIET, Scope, Wanter, beat, divide

NOW = 1_000.0


@table_test(
    ("room", "wanters", "parts"),
    [
        (10, "a:3/1 b:3/1", {"a": 3, "b": 3}),
        (10, "a:20/1 b:3/1", {"a": 7, "b": 3}),
        (10, "a:20/1 b:20/1 c:1/1", {"a": 4, "b": 5, "c": 1}),
        (2, "a:9/1 b:9/1 c:9/1", {"a": 1, "b": 1, "c": 0}),  # the member unserved for longest first
        (5, "a:9/6 b:2/1", {"a": 0, "b": 0}),  # no member overtakes
        (5, "a:2/1 b:9/6", {"a": 1, "b": 0}),
        (0, "a:1/1", {"a": 0}),
    ],
)
def test_divide_serves_longest_waiting_members_first_then_max_min_fair(room, wanters, parts):
    def wanter(place, text):
        name, _, amounts = text.partition(":")
        want, _, need = amounts.partition("/")
        return Wanter(float(place), name, float(want), float(need))

    asking = [wanter(place, text) for place, text in enumerate(wanters.split())]
    assert parts == {name: divide(room, list(asking), name) for name in parts}


# ---------------------------------------------------------------- rates


def wants(want, least=1.0, **more):
    return Report(requests=RateReport(600.0, 1.0, want, least, **more))


def test_a_new_store_gives_no_burst():
    lease = beat(Scope(), "a", wants(100), NOW).requests
    assert lease.lump + lease.units == 10 * HORIZON
    assert lease.lump_in > 0


def test_a_store_gives_a_burst_after_a_second():
    scope = Scope()
    beat(scope, "a", wants(0), NOW)
    lease = beat(scope, "a", wants(100), NOW + 1).requests
    assert lease.lump + lease.units == 10 + 10 * HORIZON
    assert lease.lump_in == 0


def test_two_greedy_members_get_equal_rates():
    scope, got = Scope(), {"a": 0.0, "b": 0.0}
    for step in range(400):
        name = "ab"[step % 2]
        lease = beat(scope, name, wants(100), NOW + step / 8).requests
        got[name] += lease.lump + lease.units
    assert abs(got["a"] - got["b"]) <= 10
    assert 480 <= got["a"] + got["b"] <= 510


def test_units_owed_are_deducted_once():
    scope = Scope()
    beat(scope, "a", wants(0), NOW)
    beat(scope, "a", wants(0, owed=15), NOW + 2)
    again = beat(scope, "a", wants(100, owed=15), NOW + 2).requests
    assert again.lump + again.units == 0
    assert beat(scope, "b", wants(100), NOW + 2).requests.lump == 0


def test_a_new_member_owes_nothing():
    scope = Scope()
    beat(scope, "a", wants(0), NOW)
    lease = beat(scope, "b", wants(100, owed=500), NOW + 2).requests
    assert lease.lump + lease.units == 10 + 10 * HORIZON


def test_a_request_above_the_burst_leaves_with_a_full_bucket_and_is_paid_off():
    scope = Scope()
    beat(scope, "a", wants(0), NOW)
    lease = beat(scope, "a", wants(30, least=30), NOW + 2).requests
    assert (lease.lump, lease.lump_in, lease.units) == (30, 0, 0)
    assert beat(scope, "b", wants(1), NOW + 3.5).requests.lump == 0
    assert beat(scope, "b", wants(1), NOW + 4).requests.lump == 1


# ---------------------------------------------------------------- slots in flight


def slots(in_flight, want, cap, limit=10.0):
    return Report(slots=SlotReport(limit, in_flight, want, cap))


def test_slots_of_a_lowered_cap_are_free_once_its_owner_has_released_them():
    scope = Scope()
    assert beat(scope, "a", slots(0, 10, 0), NOW).cap == 10
    assert beat(scope, "b", slots(0, 10, 0), NOW).cap == 0
    assert beat(scope, "a", slots(10, 10, 10), NOW).cap == 5
    assert beat(scope, "b", slots(0, 10, 0), NOW).cap == 0  # a's answer may be lost
    beat(scope, "a", slots(7, 10, 5), NOW)
    assert beat(scope, "b", slots(0, 10, 0), NOW).cap == 3


def test_slots_of_a_silent_member_are_free_after_its_lease():
    scope = Scope()
    beat(scope, "a", slots(0, 10, 0), NOW)
    assert beat(scope, "b", slots(0, 10, 0), NOW + LEASE - 0.1).cap == 0
    assert beat(scope, "b", slots(0, 10, 0), NOW + LEASE).cap == 10


# ---------------------------------------------------------------- cooldowns


def news(kind, age, left=0.0):
    return Report(cooldown=CooldownReport(kind, age, left))


def test_the_newest_report_of_a_cooldown_decides():
    scope = Scope()
    assert beat(scope, "a", news(HOLD, 1.0, 30.0), NOW).cooldown == 30
    assert beat(scope, "b", news(LIFT, 2.0), NOW).cooldown == 30  # sent before the rejected call
    assert beat(scope, "b", news(LIFT, 0.5), NOW).cooldown == 0
    assert beat(scope, "c", news(HOLD, 0.7, 60.0), NOW).cooldown == 0


# ---------------------------------------------------------------- money


def spends(needed=0.0, *, started=1.0, granted=0.0, returned=0.0, spent=0.0, period=0.0, **more):
    limit = 10_000.0
    return Report(
        spend=SpendReport(limit, period, started, -1.0, granted, returned, spent, needed, **more)
    )


def test_a_grant_is_the_amount_needed_or_a_part_of_the_rest():
    scope = Scope()
    assert beat(scope, "a", spends(1), NOW).spend.granted == 10_000 / CHUNK
    assert beat(scope, "b", spends(9_000), NOW).spend.granted == 9_000
    assert beat(scope, "c", spends(801), NOW).spend.granted == 0
    assert beat(scope, "c", spends(800), NOW).spend.granted == 800


def test_a_duplicate_report_changes_nothing():
    scope = Scope()
    first = beat(scope, "a", spends(500), NOW)
    assert first == beat(scope, "a", spends(500), NOW)


def test_a_lost_member_keeps_what_it_was_granted():
    scope = Scope()
    beat(scope, "a", spends(9_000), NOW)
    answer = beat(scope, "b", spends(1_001), NOW + 10 * LEASE)
    assert (answer.members, answer.spend.granted, answer.spend.elsewhere) == (1, 0, 9_000)


def test_an_empty_store_grants_no_money_until_members_had_time_to_report():
    scope = Scope()
    report = spends(9_500, granted=9_000, spent=9_000)._replace(epoch=5.0)
    assert beat(scope, "a", report, NOW).spend.granted == 9_000
    report = report._replace(epoch=scope.epoch)
    assert beat(scope, "b", spends(100), NOW + QUIET - 0.1).spend.granted == 0
    assert beat(scope, "b", spends(100), NOW + QUIET).spend.granted == 100


def test_a_late_report_after_a_loss_of_data_delays_no_grant():
    scope = Scope()
    beat(scope, "a", spends(0), NOW)
    late = spends(100)._replace(epoch=5.0)
    assert beat(scope, "b", late, NOW + QUIET).spend.granted >= 100


def test_a_new_period_begins_with_no_spending():
    scope = Scope()
    beat(scope, "a", spends(9_999, period=60.0), NOW)
    assert beat(scope, "b", spends(5_000, period=60.0), NOW + 59).spend.granted == 0
    late = spends(1, period=60.0, started=NOW, granted=9_999, spent=9_999)
    answer = beat(scope, "a", late, NOW + 60).spend
    assert (answer.started, answer.granted, answer.ends_in) == (NOW + 60, 200, 60)


def test_a_member_that_leaves_is_removed_but_its_spending_counts():
    scope = Scope()
    beat(scope, "a", spends(), NOW)
    beat(scope, "b", spends(500), NOW)
    beat(scope, "a", spends()._replace(leaves=1.0), NOW)
    beat(scope, "b", spends(granted=500, returned=300, spent=200)._replace(leaves=1.0), NOW)
    answer = beat(scope, "c", spends(), NOW)
    assert (list(scope.members), answer.members, answer.spend.left) == (["b", "c"], 1, 9_800)


# ---------------------------------------------------------------- the clock of the store


def test_a_store_clock_set_back_extends_no_lease_cooldown_or_period():
    scope, back = Scope(), 600.0
    held = Report(slots=SlotReport(4.0, 4.0, 4.0, 4.0), cooldown=CooldownReport(HOLD, 0.0, 5.0))
    beat(scope, "lost", held, NOW)
    beat(scope, "a", spends(9_000, period=60.0), NOW)
    asks = Report(requests=RateReport(600.0, 1.0, 5.0, 1.0), slots=SlotReport(4.0, 0.0, 1.0, 0.0))
    answer = beat(scope, "b", asks, NOW - back)
    assert (answer.cap, answer.cooldown) == (0, 5)
    answer = beat(scope, "b", asks, NOW - back + LEASE)
    assert (answer.cap, answer.cooldown, answer.members) == (1, 0, 1)
    assert answer.requests.lump + answer.requests.units == 5
    assert beat(scope, "b", spends(9_000, period=60.0), NOW - back + 60).spend.granted == 9_000


HOUR_11 = 1_790_002_800.0  # the start of an hour


def test_a_calendar_hour_ends_at_the_same_time_for_all_members():
    scope, now = Scope(), 50.0
    answer = beat(scope, "a", spends(9_000, period=-1.0), now, wall=HOUR_11 - 60.0).spend
    assert (answer.granted, answer.ends_in) == (9_000, 60.0)
    assert (
        beat(scope, "b", spends(5_000, period=-1.0), now + 70, wall=HOUR_11 - 0.5).spend.granted
        == 0
    )
    answer = beat(scope, "b", spends(5_000, period=-1.0), now + 71, wall=HOUR_11 + 0.5).spend
    assert (answer.granted, answer.ends_in) == (5_000, 3_599.5)


def test_a_past_hour_grants_no_money_when_the_clock_is_set_back():
    scope = Scope()
    beat(scope, "a", spends(9_000, period=-1.0), HOUR_11 - 60.0)
    beat(scope, "b", spends(period=-1.0), HOUR_11 + 1.0)
    assert beat(scope, "b", spends(9_000, period=-1.0), HOUR_11 - 5.0).spend.granted == 0
    assert beat(scope, "b", spends(9_000, period=-1.0), HOUR_11 + 0.1).spend.granted == 9_000
