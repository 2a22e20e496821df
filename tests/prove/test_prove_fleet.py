"""Faults of half a minute: what a fleet does without its store, and with a store that it cannot trust."""

import asyncio
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from batches import wait_until
from fleet_stores import Server, SlowProxy

from stormbreak.fleet.leasing import QUIET
from stormbreak.fleet.valkey import ValkeyStore
from stormbreak.provider.in_thread import serve

sys.path.append(str(Path(__file__).parent.parent / "fleet"))
from test_real_store import PATIENT, member, policy, settle, waits
from test_spend import LIMIT, SPENT, billed, start

pytestmark = pytest.mark.prove


async def test_no_call_waits_for_a_store_that_is_frozen_for_half_a_minute(tmp_path):
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
def test_a_limit_is_never_passed_through_half_a_minute_of_faults(fault, tmp_path):
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


def test_a_stopped_member_and_a_store_that_is_restarted_empty_cost_what_the_member_held(tmp_path):
    """It is stopped for longer than the store is quiet, so it reports late; others know what it had spent."""
    server = Server("valkey", tmp_path).start()
    calls = {"calls": 500, "every": 0.2, "until": SPENT, "patience": 15.0}
    try:
        with serve() as provider:
            workers = start(server, provider, quiet=QUIET, **calls)
            wait_until(lambda: billed(provider) > LIMIT * Decimal("0.6"))
            workers[0].process.send_signal(signal.SIGSTOP)
            time.sleep(2.0)  # others hear what it has reported
            held = held_by_the_silent(server)
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


def held_by_the_silent(server):
    """The US dollars that the member holds that has not reported for the longest time, beyond what it has spent."""
    store = ValkeyStore(server.url)
    (members,) = (each.members for each in store.scopes("default").values() if each.started)
    store.close()
    silent = min(members.values(), key=lambda each: each.until)
    return Decimal(int(silent.granted - silent.returned - silent.spent)) / 1_000_000
