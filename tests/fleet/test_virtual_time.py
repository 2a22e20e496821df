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
    """Processes that call one target; an answer takes about `service` seconds."""

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
        """Let the first `busy` processes make `load` times as many calls as the quota allows."""
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
        """Return the part of the quota used between two times."""
        return sum(start <= at < end for at in self.sent) / (RATE * (end - start))

    def worst_minute(self):
        """Return the maximum number of calls sent in any minute."""
        sent = self.sent
        return max(bisect_left(sent, at + MINUTE) - place for place, at in enumerate(sent))


@table_test(("busy", "load"), [(2, 1.2), (20, 1.2)])
def test_busy_processes_use_the_shared_quota_and_never_exceed_it(busy, load):
    fleet = Fleet(20).play(75.0, load, busy)
    assert fleet.used(10, 75) >= 0.95
    assert fleet.worst_minute() <= BOUND


def test_under_moderate_load_no_call_waits_long():
    fleet = Fleet(20).play(120.0, 0.7, 20)
    waits = sorted(fleet.waits)
    assert waits[len(waits) // 2] <= 0.01
    assert waits[len(waits) * 95 // 100] <= 0.15


def test_two_busy_processes_of_twenty_wait_no_longer_than_one_alone():
    """Compare with the same 9,553 calls in 20 minutes by one process with the whole quota."""
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
def test_a_calm_fleet_makes_few_round_trips_to_the_store(limits, service):
    """Each process makes a call every 8 s."""
    policy = replace(replace(SHARED, rate_limit=RateLimitPolicy()), **limits)
    fleet = Fleet(20, policy, service=service)
    fleet.play(100.0, 0.25, 20, rest=0.0)
    assert len(fleet.waits) > 200
    assert fleet.store.round_trips / 100.0 <= 10


def test_a_call_held_by_a_pause_is_sent_when_the_pause_ends():
    """Found: the lease had expired by then, and the call waited until another call renewed it."""
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
def test_closed_clients_stop_reporting_until_they_are_used_again(policy):
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


def test_a_closed_client_frees_its_slots_for_others_when_its_calls_end():
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


def test_closed_clients_do_not_retry_a_store_that_is_down():
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


def test_a_member_asks_a_recovered_store_again_without_new_events():
    """Found: after a failed report a member waited for a new event, and rejected calls meanwhile."""
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


def test_without_the_store_the_fallback_half_uses_half_of_the_quota():
    policy = replace(SHARED, fleet=replace(SHARED.fleet, fallback="half"))
    fleet = Fleet(20, policy)
    fleet.timeline.at(20.0, lambda: setattr(fleet.store, "down", True))
    assert 0.4 <= fleet.play(70.0, 1.0, 20).used(42, 70) <= 0.6


def test_members_report_their_use_to_a_recovered_store():
    fleet = Fleet(20)
    fleet.timeline.at(30.0, lambda: setattr(fleet.store, "down", True))
    fleet.timeline.at(50.0, lambda: setattr(fleet.store, "down", False))
    fleet.play(80.0, 1.2, 20)
    assert fleet.used(55, 80) >= 0.93
    assert fleet.worst_minute() <= BOUND * 1.1


@table_test(("processes", "limit"), [(20, 40), (20, 10), (2, 3)])
def test_members_share_an_in_flight_limit_and_never_exceed_it(processes, limit):
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=limit), rate_limit=RateLimitPolicy())
    fleet = Fleet(processes, policy, service=2.0).play(30.0, 0.065 * limit, processes)
    assert fleet.most_in_flight == limit
    assert len(fleet.waits) >= 0.9 * limit / 2.0 * 30.0


@table_test("limit", [4, 15])
def test_a_changed_in_flight_limit_holds_once_every_member_has_read_it(limit):
    """Calls that already wait stay under the old limit until their patience ends."""
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


def test_a_member_returns_its_slots_when_its_last_call_ends():
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=4), rate_limit=RateLimitPolicy())
    fleet = Fleet(2, policy)
    for process in (0, 1):
        for _ in range(4):
            fleet.call(process)
        fleet.timeline.run(fleet.timeline.now + 0.05)
        assert fleet.in_flight == 4
        fleet.timeline.run(fleet.timeline.now + 1.5)


def test_many_members_use_all_of_a_few_shared_slots():
    policy = replace(SHARED, limit=FixedLimit(max_in_flight=20), rate_limit=RateLimitPolicy())
    fleet = Fleet(200, policy, service=2.0).play(40.0, 0.8, 200)
    assert fleet.most_in_flight == 20
    assert len(fleet.waits) == len(fleet.sent)
    assert sorted(fleet.waits)[len(fleet.waits) * 9 // 10] <= 1.0


UNSHARED = replace(SHARED, rate_limit=RateLimitPolicy())


def test_the_fleet_shares_the_rate_limit_of_a_tenant():
    acme = {"acme": TenantLimits(rpm=RATE * 60)}
    fleet = Fleet(20, UNSHARED, tenant="acme", tenants=acme).play(75.0, 1.2, 20)
    assert fleet.used(10, 75) >= 0.95
    assert fleet.worst_minute() <= BOUND


def test_the_fleet_shares_the_spend_limit_of_a_tenant():
    """A call costs 0.0003 USD, at most 0.0012."""
    acme = {"acme": TenantLimits(spend=SpendPolicy(max_usd=0.06, period=86_400.0))}
    fleet = Fleet(5, UNSHARED, service=0.2, tenant="acme", tenants=acme).play(40.0, 1.0, 5)
    assert 190 <= len(fleet.sent) <= 200


def test_gateways_and_clients_share_the_scopes_of_a_tenant():
    limits = TenantLimits(rpm=60, spend=SpendPolicy(max_usd=1.0, period=60.0))
    fleet = Fleet(1, UNSHARED, tenant="acme", tenants={"acme": limits})
    fleet.call(0)
    fleet.timeline.run(5.0)
    holder = LimitHolder("tenant", "acme", limits)
    names = f"target {holder.target.place}", client_spend(holder.title, limits.spend)
    assert {f"default/{name}" for name in names} <= {*fleet.store.scopes}


def test_a_seed_gives_the_same_calls_in_every_run():
    first, second = (Fleet(5).play(20.0, 1.3, 5) for _ in range(2))
    assert first.sent == second.sent


def test_processes_of_a_simulated_storm_share_a_limit():
    scenario = parse(small_storm(rate=4, processes=4))
    alone = replace(Policy(), limit=FixedLimit(max_in_flight=5))
    shared = simulate(scenario, replace(alone, fleet=SHARED.fleet))
    assert max(shared.series.in_flight) <= 5
    assert max(simulate(scenario, alone).series.in_flight) > 5
