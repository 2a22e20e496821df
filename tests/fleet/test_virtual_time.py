"""Twenty processes share a quota, slots and money, in virtual time."""

import random
from bisect import bisect_left
from dataclasses import replace
from functools import partial
from statistics import fmean

from metering import answer, price_of, usage
from small_storm import small_storm
from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.fleet.shared_limits import client_spend
from stormbreak.fleet.virtual import VirtualStore
from stormbreak.gateway.keys import LimitHolder
from stormbreak.provider.scenario_file import parse
from stormbreak.storm.simulation import simulate
from stormbreak.types import Call, Target, Verdict

TARGET = Target("provider", "model")
RATE = 10.0  # per second
MINUTE = 60.0
BOUND = RATE * (MINUTE + 1.0) + RATE  # in any minute: the lapse of unused units, and a burst
SHARED = Policy(
    rate_limit=RateLimitPolicy(rpm=RATE * 60),
    patience=10.0,
    fleet=FleetPolicy(url="redis://in-virtual-time"),
    adaptive_rate=False,
    breaker=None,
)


class Fleet:
    """Processes that call one target; an answer takes `service` seconds, more or less."""

    def __init__(self, processes, policy=SHARED, *, service=1.0, tenant="", tenants=()):
        self.timeline = Timeline()
        self.store = VirtualStore(self.timeline)
        self.random = random.Random(3)
        self.sent, self.waits, self.in_flight, self.most_in_flight = [], [], 0, 0
        self._service, self._policy, self._tenant = service, policy, tenant
        self.drivers = [
            VirtualDriver(
                Engine(policy, SpendAccounts(price_of), self.store.fleet(), dict(tenants)),
                self.timeline,
                chance=random.Random(number).random,
            )
            for number in range(processes)
        ]

    def play(self, seconds, load, busy, *, rest=MINUTE):
        """The first `busy` processes make `load` times as many calls as the quota allows."""
        pick, at = random.Random(5), self.timeline.now
        while at < seconds:
            at += self.random.expovariate(RATE * load)
            self.timeline.at(at, partial(self._call, self.drivers[pick.randrange(busy)]))
        self.timeline.run(seconds + rest)
        return self

    def call(self, process):
        """Make a call in a process."""
        self._call(self.drivers[process])

    def _call(self, driver):
        engine = driver.engine
        patience = self._policy.patience
        call = Call(
            engine.number(), TARGET, patience=patience, bound=usage(200, 100), tenant=self._tenant
        )
        driver.start(call, self._send, self._end)

    def _send(self, _, reply):
        self.sent.append(self.timeline.now)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

        def end():
            self.in_flight -= 1
            reply(answer(100, 20))

        self.timeline.at(self.timeline.now + self._service * self.random.uniform(0.5, 1.5), end)

    def _end(self, ended):
        if ended.outcome.verdict is Verdict.OK:
            self.waits.append(ended.queued)

    def rest(self):
        """Close the clients of all processes; they may be used again."""
        for driver in self.drivers:
            driver.stepper.rest()

    def used(self, start, end):
        """The part of the quota that was used between two times."""
        return sum(start <= at < end for at in self.sent) / (RATE * (end - start))

    def worst_minute(self):
        """The most calls that left in any minute."""
        sent = self.sent
        return max(bisect_left(sent, at + MINUTE) - place for place, at in enumerate(sent))


@table_test(("busy", "load"), [(2, 1.2), (20, 1.2)])
def test_a_quota_is_used_by_those_that_need_it_and_never_exceeded(busy, load):
    fleet = Fleet(20).play(75.0, load, busy)
    assert fleet.used(10, 75) >= 0.95
    assert fleet.worst_minute() <= BOUND


def test_under_moderate_load_no_call_waits_long():
    fleet = Fleet(20).play(120.0, 0.7, 20)
    waits = sorted(fleet.waits)
    assert waits[len(waits) // 2] <= 0.01
    assert waits[len(waits) * 95 // 100] <= 0.15


def test_two_busy_processes_of_twenty_wait_for_the_quota_and_not_for_the_store():
    """The same calls at the same times as in one process with the whole quota: 9,553 of them in 20 minutes."""
    shared = Fleet(20).play(1_200.0, 0.8, 2)
    alone = Fleet(1, replace(SHARED, fleet=FleetPolicy())).play(1_200.0, 0.8, 1)
    assert len(shared.waits) == len(alone.waits) > 9_500
    assert sorted(shared.waits)[len(shared.waits) * 99 // 100] <= 0.15
    assert fmean(shared.waits) <= fmean(alone.waits) + 0.002


RATE_LIMIT = {"rate_limit": SHARED.rate_limit}
SLOTS = {"limit": FixedLimit(max_in_flight=100)}
MONEY = {"spend": SpendPolicy(max_usd=50.0, period=86_400.0)}


@table_test(
    ("limits", "service"),
    [
        (RATE_LIMIT, 1.0),
        (SLOTS, 0.05),
        (MONEY, 0.05),
        (RATE_LIMIT | MONEY, 1.0),
        (RATE_LIMIT | SLOTS | MONEY, 0.05),
    ],
)
def test_a_calm_fleet_asks_seldom(limits, service):
    """A call every 8 s in each process."""
    policy = replace(replace(SHARED, rate_limit=RateLimitPolicy()), **limits)
    fleet = Fleet(20, policy, service=service)
    fleet.play(100.0, 0.25, 20, rest=0.0)
    assert len(fleet.waits) > 200
    assert fleet.store.round_trips / 100.0 <= 10


def test_a_call_that_waited_for_a_pause_leaves_when_it_is_over():
    """Found: its lease was over by then, nobody asked for another, and it waited until another call came."""
    fleet = Fleet(1)
    fleet.call(0)
    fleet.timeline.run(30.0)
    fleet.drivers[0].engine.pause(TARGET, 8.0, 30.0)
    fleet.call(0)
    fleet.timeline.run(60.0)
    assert len(fleet.sent) == 2
    assert 38.0 <= fleet.sent[1] <= 38.1


@table_test(
    "policy",
    [
        SHARED,
        replace(SHARED, rate_limit=RateLimitPolicy(), limit=FixedLimit(max_in_flight=10)),
        replace(SHARED, rate_limit=RateLimitPolicy()),  # cooldowns alone
    ],
)
def test_closed_clients_report_no_more_until_they_are_used_again(policy):
    fleet = Fleet(5, policy)
    (store, timeline) = fleet.store, fleet.timeline
    fleet.play(10.0, 0.5, 5)
    (scope,) = store.scopes.values()
    fleet.rest()
    timeline.run(timeline.now + 1.0)
    assert not scope.members
    beats, sent = store.beats, len(fleet.sent)
    timeline.run(timeline.now + 100.0)
    assert store.beats == beats
    fleet.call(0)
    timeline.run(timeline.now + 0.1)
    assert len(fleet.sent) == sent + 1
    assert len(scope.members) == 1


def test_a_closed_client_gives_its_slots_to_others_when_its_calls_have_ended():
    policy = replace(SHARED, rate_limit=RateLimitPolicy(), limit=FixedLimit(max_in_flight=2))
    fleet = Fleet(2, policy, service=4.0)
    fleet.call(0)
    fleet.call(0)
    fleet.timeline.run(1.0)
    fleet.rest()
    fleet.call(1)
    fleet.timeline.run(1.5)
    assert len(fleet.sent) == 2
    fleet.timeline.run(7.0)
    assert len(fleet.sent) == 3
    (scope,) = fleet.store.scopes.values()
    assert list(scope.members) == ["m00001"]


def test_a_store_that_is_gone_when_clients_are_closed_is_not_looked_for():
    fleet = Fleet(5).play(10.0, 0.5, 5)
    fleet.store.down = True
    fleet.rest()
    fleet.timeline.run(fleet.timeline.now + 2.0)
    beats = fleet.store.beats
    fleet.timeline.run(fleet.timeline.now + 100.0)
    assert fleet.store.beats == beats
    fleet.store.down = False
    fleet.call(0)
    fleet.timeline.run(fleet.timeline.now + 0.1)
    assert len(fleet.store.scopes["default/target provider/model"].members) >= 1


def test_without_the_store_each_process_uses_its_share():
    fleet = Fleet(20)
    fleet.timeline.at(30.0, lambda: setattr(fleet.store, "down", True))
    fleet.play(100.0, 1.2, 20)
    assert 0.9 <= fleet.used(40, 100) <= 1.1
    assert fleet.worst_minute() <= BOUND * 1.1


def test_a_store_that_was_lost_is_asked_again_though_nothing_is_new():
    """Found: after a report that had failed, a member waited for something new, and rejected calls meanwhile."""
    policy = replace(SHARED, rate_limit=RateLimitPolicy(), **MONEY)
    fleet = Fleet(1, policy)
    fleet.call(0)
    fleet.timeline.run(2.1)
    fleet.store.down = True
    fleet.call(0)
    fleet.timeline.run(3.5)
    fleet.store.down = False
    fleet.timeline.run(4.6)
    fleet.call(0)
    fleet.timeline.run(4.9)
    assert len(fleet.sent) == 2


def test_with_half_shares_half_is_used_without_the_store():
    policy = replace(SHARED, fleet=replace(SHARED.fleet, fallback="half"))
    fleet = Fleet(20, policy)
    fleet.timeline.at(20.0, lambda: setattr(fleet.store, "down", True))
    assert 0.4 <= fleet.play(70.0, 1.0, 20).used(42, 70) <= 0.6


def test_a_store_that_comes_back_is_told_what_was_used_meanwhile():
    fleet = Fleet(20)
    fleet.timeline.at(30.0, lambda: setattr(fleet.store, "down", True))
    fleet.timeline.at(50.0, lambda: setattr(fleet.store, "down", False))
    fleet.play(80.0, 1.2, 20)
    assert fleet.used(55, 80) >= 0.93
    assert fleet.worst_minute() <= BOUND * 1.1


@table_test(("processes", "limit"), [(20, 40), (20, 10), (2, 3)])
def test_a_limit_in_flight_is_shared_and_never_exceeded(processes, limit):
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=limit), rate_limit=RateLimitPolicy())
    fleet = Fleet(processes, policy, service=2.0).play(30.0, 0.065 * limit, processes)
    assert fleet.most_in_flight == limit
    assert len(fleet.waits) >= 0.9 * limit / 2.0 * 30.0


@table_test("limit", [4, 15])
def test_a_limit_that_changes_while_it_is_leased_is_kept_once_all_have_read_it(limit):
    """Calls that wait already do so under the old one, for as long as they may."""
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=10), rate_limit=RateLimitPolicy())
    fleet = Fleet(20, policy, service=2.0)
    changed = replace(policy, limit=FixedLimit(max_in_flight=limit))
    for place, driver in enumerate(fleet.drivers):
        read = partial(
            driver.stepper.between_steps, lambda engine, now: engine.govern(changed, {}, now)
        )
        fleet.timeline.at(10.0 + place / 10, read)
    fleet.play(10.0, 0.9, 20, rest=0.0)
    assert fleet.most_in_flight == 10
    fleet.play(12.0, 0.9, 20, rest=13.0)
    assert fleet.most_in_flight <= max(10, limit)
    fleet.most_in_flight = 0
    fleet.play(40.0, 0.9, 20, rest=0.0)
    assert fleet.most_in_flight == limit


def test_slots_go_back_when_the_last_call_ends():
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=4), rate_limit=RateLimitPolicy())
    fleet = Fleet(2, policy)
    for process in (0, 1):
        for _ in range(4):
            fleet.call(process)
        fleet.timeline.run(fleet.timeline.now + 0.05)
        assert fleet.in_flight == 4
        fleet.timeline.run(fleet.timeline.now + 1.5)


def test_a_crowd_that_shares_few_slots_uses_them():
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=20), rate_limit=RateLimitPolicy())
    fleet = Fleet(200, policy, service=2.0).play(40.0, 0.8, 200)
    assert fleet.most_in_flight == 20
    assert len(fleet.waits) == len(fleet.sent)
    assert sorted(fleet.waits)[len(fleet.waits) * 9 // 10] <= 1.0


UNSHARED = replace(SHARED, rate_limit=RateLimitPolicy())


def test_the_rate_of_a_tenant_is_that_of_the_fleet():
    acme = {"acme": TenantLimits(rpm=RATE * 60)}
    fleet = Fleet(20, UNSHARED, tenant="acme", tenants=acme).play(75.0, 1.2, 20)
    assert fleet.used(10, 75) >= 0.95
    assert fleet.worst_minute() <= BOUND


def test_the_money_of_a_tenant_is_that_of_the_fleet():
    """A call costs 0.0003 USD, and up to 0.0012."""
    acme = {"acme": TenantLimits(spend=SpendPolicy(max_usd=0.06, period=86_400.0))}
    fleet = Fleet(5, UNSHARED, service=0.2, tenant="acme", tenants=acme).play(40.0, 1.0, 5)
    assert 190 <= len(fleet.sent) <= 200


def test_a_tenant_has_the_same_limits_in_gateways_and_clients_of_a_fleet():
    limits = TenantLimits(rpm=60, spend=SpendPolicy(max_usd=1.0, period=60.0))
    fleet = Fleet(1, UNSHARED, tenant="acme", tenants={"acme": limits})
    fleet.call(0)
    fleet.timeline.run(5.0)
    holder = LimitHolder("tenant", "acme", limits)
    names = f"target {holder.target.place}", client_spend(holder.title, limits.spend)
    assert {f"default/{name}" for name in names} <= {*fleet.store.scopes}


def test_the_same_seed_gives_the_same_calls():
    first, second = (Fleet(5).play(20.0, 1.3, 5) for _ in range(2))
    assert first.sent == second.sent


def test_a_simulated_storm_shares_a_limit_between_its_processes():
    scenario = parse(small_storm(rate=4, processes=4))
    alone = replace(Policy(), limit=FixedLimit(max_in_flight=5))
    shared = simulate(scenario, replace(alone, fleet=SHARED.fleet))
    assert max(shared.series.in_flight) <= 5
    assert max(simulate(scenario, alone).series.in_flight) > 5
