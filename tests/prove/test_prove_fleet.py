"""Faults of half a minute: a fleet without its store, and with a store that loses data."""

import asyncio
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from batches import wait_until
from fleet_processes import Worker
from fleet_stores import Server, SlowProxy

from stormbreak.fleet.store_rules import QUIET, Member
from stormbreak.fleet.valkey import ValkeyStore
from stormbreak.provider.in_thread import serve

sys.path.append(str(Path(__file__).parent.parent / "fleet"))
from test_real_store import PATIENT, member, policy, settle, waits
from test_spend import BOUND, LIMIT, SPENT, billed, start

pytestmark = pytest.mark.prove


async def test_no_call_waits_for_a_store_frozen_for_half_a_minute(tmp_path):
    server = Server("valkey", tmp_path).start()
    try:
        members = [member(policy(server.url)) for _ in range(3)]
        await settle(members)
        server.freeze()
        found = []
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found += await waits(members, 1)
            await asyncio.sleep(0.5)
        server.thaw()
        found.sort()
        assert found[len(found) * 99 // 100] <= PATIENT
    finally:
        server.thaw()
        server.kill()


@pytest.mark.parametrize("fault", ["frozen", "killed", "cut off"])
def test_a_limit_is_never_exceeded_in_half_a_minute_of_faults(fault, tmp_path):
    server = Server("valkey", tmp_path, durable=True).start()
    proxy = SlowProxy(server.port, 0.0)
    try:
        with serve() as provider:
            workers = start(proxy, provider, 3, calls=130, every=0.3, patience=5.0)
            time.sleep(5)
            workers[0].kill()
            if fault == "frozen":
                server.freeze()
            elif fault == "killed":
                server.kill()
            else:
                proxy.drops = True
            time.sleep(30)
            if fault == "frozen":
                server.thaw()
            elif fault == "killed":
                server.start()
            proxy.drops = False
            for worker in workers[1:]:
                worker.ended()
            assert Decimal(0) < billed(provider) <= LIMIT
    finally:
        server.thaw()
        proxy.close()
        server.kill()


def test_a_store_restarted_empty_overspends_at_most_the_share_of_a_stopped_member(tmp_path):
    """The member is stopped for longer than the store is quiet, so it reports late; others know its spend."""
    server = Server("valkey", tmp_path).start()
    calls = {"calls": 500, "every": 0.2, "until": SPENT, "patience": 15.0}
    try:
        with serve() as provider:
            workers = start(server, provider, quiet=QUIET, **calls)
            wait_until(lambda: billed(provider) > LIMIT * Decimal("0.6"))
            workers[0].process.send_signal(signal.SIGSTOP)
            time.sleep(2.0)  # others receive its report
            held, _ = held_by_the_silent_member(server, server)
            server.kill()
            server.start()
            for worker in workers[1:]:
                assert any(SPENT in error for error in worker.ended()["errors"])
            workers[0].process.send_signal(signal.SIGCONT)
            workers[0].ended()
            spent = billed(provider)
    finally:
        server.kill()
    print(f"spent {spent} of {LIMIT} USD; the member held {held}")
    assert LIMIT * Decimal("0.9") <= spent <= LIMIT + held


def test_clocks_an_hour_apart_change_neither_spend_nor_quota(tmp_path):
    server = Server("valkey", tmp_path, durable=True).start()
    clocks = (-1, 0, 1)
    try:
        with serve() as provider:
            options = {"fleet": server.url, "base_url": provider.base_url}
            money = {"max_usd": float(LIMIT), "calls": 67, "policy": {"name": "money"}}
            workers = [Worker(hours=hours, **options, **money) for hours in clocks]
            ended = [worker.ready().ended() for worker in workers]
            spent = billed(provider)
            quota = {"rpm": 600, "calls": 70, "patience": 60.0, "policy": {"name": "quota"}}
            workers = [Worker(hours=hours, **options, **quota) for hours in clocks]
            quota = [worker.ready().ended() for worker in workers]
    finally:
        server.kill()
    wrong = [round((each["started"] - time.time()) / 3600) for each in ended]
    took = max(wait for each in quota for wait in each["waits"])
    print(f"{wrong} hours off; spent {spent} of {LIMIT} USD; 210 calls in {took:.1f} s")
    assert wrong == list(clocks)
    assert LIMIT - BOUND <= spent <= LIMIT
    assert not any(each["errors"] for each in quota)
    assert 10 * (took + 1) + 10 + 10 >= 210  # the rate, a burst, and the bursts of all shares
    assert took <= 21 / 0.9


MANY = {"limit": Decimal("0.3"), "calls": 2_000, "every": 0.01, "until": SPENT, "patience": 20.0}
SECOND = "[provider]\nservice = 1.0\nslots = 1000\n"  # 200 calls are in flight


@pytest.mark.parametrize(
    ("promoted", "is_lost"), [("hand", False), ("sentinel", False), ("hand", True)]
)
def test_a_promoted_replica_overspends_at_most_what_lost_members_reported(
    promoted, is_lost, tmp_path
):
    """The replica has received nothing for a second when the primary is killed; calls move to its address."""
    primary, replica, sentinel = (Server("valkey", tmp_path / name) for name in "prs")
    link = address = None
    try:
        primary.start()
        link, address = SlowProxy(primary.port, 0.0), SlowProxy(primary.port, 0.0)
        replica.start("--replicaof", "127.0.0.1", str(link.port))
        admin = redis.Redis.from_url(replica.url)
        wait_until(lambda: admin.info("replication")["master_link_status"] == "up")
        if promoted == "sentinel":
            watcher = redis.Redis.from_url(sentinel.watch(primary).url)
            wait_until(lambda: watcher.sentinel_master("fleet")["num-slaves"] == 1)
        with serve(SECOND) as provider:
            workers = start(address, provider, quiet=QUIET, **MANY)
            wait_until(lambda: billed(provider) > MANY["limit"] / 3)
            link.drops = True
            time.sleep(1.0)
            in_flight = provider.stats()["in_service"]
            held = lost = Decimal(0)
            if is_lost:
                workers.pop().kill()
                held, lost = held_by_the_silent_member(primary, replica)
            primary.kill()
            if promoted == "hand":
                admin.execute_command("REPLICAOF", "NO", "ONE")
            else:
                wait_until(lambda: watcher.sentinel_master("fleet")["port"] == replica.port)
            address.to_port = replica.port
            for worker in workers:
                assert any(SPENT in error for error in worker.ended()["errors"])
            spent = billed(provider)
    finally:
        for each in (link, address):
            if each is not None:
                each.close()
        for each in (sentinel, replica, primary):
            each.kill()
    print(
        f"{in_flight} in flight; spent {spent} of {MANY['limit']} USD; the lost member held {held}, "
        f"of which the replica did not know {lost}"
    )
    assert MANY["limit"] * Decimal("0.95") - held <= spent <= MANY["limit"] + lost


def held_by_the_silent_member(server, replica):
    """The US dollars that the longest silent member holds unspent, and the part that the replica does not know."""
    known = []
    for each in (server, replica):
        store = ValkeyStore(each.url)
        (members,) = (each.members for each in store.scopes("default").values() if each.started)
        store.close()
        known.append(members)
    name, member = min(known[0].items(), key=lambda item: item[1].until)
    received = known[1].get(name, Member())
    held = member.granted - member.returned - member.spent
    return (Decimal(int(each)) / 1_000_000 for each in (held, member.money - received.money))
