"""Engines and processes share limits through a real server that freezes, dies, loses its data or is slow."""

import asyncio
import gc
import logging
import time
from dataclasses import replace
from math import inf

import pytest
import redis
from batches import wait_until
from fleet_processes import Worker
from fleet_stores import AnyServer, Server, SlowProxy, free_port
from forking import in_child
from table_test import table_test

import stormbreak
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fleet_policy import PASSWORD, FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.fleet import store_thread
from stormbreak.fleet.messages import Message, RateReport, Report, StoreError
from stormbreak.fleet.valkey import ValkeyStore
from stormbreak.provider.in_thread import serve

RPM = 1_200.0  # 20 per second
SLACK = 0.3  # seconds; the machine may be busy
PATIENT = 0.05  # seconds that a call may wait for the store


def policy(url, **changes):
    return replace(
        Policy(rate_limit=RateLimitPolicy(rpm=RPM), retry_budget=None, fleet=FleetPolicy(url=url)),
        **changes,
    )


def member(own):
    """Return a function with its own engine: a member of the fleet."""

    @stormbreak.resilient(own, target="x")
    async def call():
        started.append(time.monotonic())
        await asyncio.sleep(0.005)

    started = []
    call.started = started
    return call


async def waits(members, each):
    """Return the seconds that calls waited, one after another in each member, without the time the machine was busy."""
    busy = 0.0

    async def watch():
        nonlocal busy
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.004)  # less than a call takes
            busy += time.monotonic() - before - 0.004

    async def calls(call):
        found = []
        for _ in range(each):
            before = time.monotonic() - busy
            await call()
            found.append(call.started[-1] - before - busy)
        return found

    watching = asyncio.create_task(watch())
    found = await asyncio.gather(*map(calls, members))
    watching.cancel()
    return sorted(wait for each in found for wait in each)


async def settle(members):
    """Wait until every member has an answer of the store and no burst of its own."""
    await waits(members, 2)
    await asyncio.sleep(0.3)


def assert_no_call_waited(found):
    assert found[0] <= PATIENT
    assert found[-1] <= PATIENT + SLACK


async def test_members_share_a_quota(server):
    members = [
        member(policy(server.url, fleet=FleetPolicy(url=server.url, name="quota")))
        for _ in range(3)
    ]
    await settle(members)
    start = time.monotonic()
    await waits(members, 20)
    took = time.monotonic() - start
    assert 20 * took + 40 >= 60  # the rate, a burst, and one of all shares, if the machine is slow


async def test_a_frozen_store_delays_no_call(own_server, caplog):
    caplog.set_level(logging.INFO, "stormbreak")
    members = [member(policy(own_server.url)) for _ in range(2)]
    await settle(members)
    own_server.freeze()
    assert_no_call_waited(await waits(members, 3))
    await _until(lambda: "disconnected, no answer in time" in caplog.text)
    assert_no_call_waited(await waits(members, 3))
    caplog.clear()
    own_server.thaw()
    await _until(lambda: "sharing, members: 2" in caplog.text)
    assert_no_call_waited(await waits(members, 1))


async def test_a_killed_store_that_restarts_empty_is_used_again(own_server, caplog):
    members = [member(policy(own_server.url)) for _ in range(2)]
    await settle(members)
    own_server.kill()
    assert_no_call_waited(await waits(members, 3))
    own_server.start()
    await _until(lambda: "restarted empty" in caplog.text)
    assert max(await waits(members, 1)) <= SLACK  # an empty store grants no burst at first


async def test_without_a_store_from_the_start_each_member_uses_its_share():
    url = f"redis://127.0.0.1:{free_port()}"
    members = [member(policy(url, process_share=0.5)) for _ in range(2)]
    start = time.monotonic()
    found = await waits(members, 8)
    assert_no_call_waited(found[:2])
    assert time.monotonic() - start >= 0.9 * 7 / 10  # half of the rate each, and no burst


async def test_a_slow_store_delays_no_call(own_server):
    proxy = SlowProxy(own_server.port, 0.5)
    members = [member(policy(proxy.url)) for _ in range(2)]
    try:
        assert_no_call_waited(await waits(members, 1))
        await asyncio.sleep(1.5)
        assert_no_call_waited(await waits(members, 3))
    finally:
        proxy.close()


async def test_a_closed_client_returns_its_slots_and_leaves_the_store(own_server):
    own = policy(own_server.url, limit=FixedLimit(max_in_flight=4))
    store, admin = ValkeyStore(own_server.url), redis.Redis.from_url(own_server.url)

    def members():
        return [name for scope in store.scopes("default").values() for name in scope.members]

    with serve("bench") as provider:
        given = {"base_url": provider.base_url, "model": "storm-1", "policy": own}
        client, other = stormbreak.Client(**given), stormbreak.AsyncClient(**given)
        await asyncio.to_thread(client.chat, [{"role": "user", "content": "x"}])
        await other.chat([{"role": "user", "content": "x"}])
        await _until(lambda: len(members()) == 2)
        client.close()
        await _until(lambda: len(members()) == 1)
        await other.close()
        await _until(lambda: not members())
        await _until(lambda: len(admin.client_list()) == 2)  # the two of this test
        assert client.engine is not other.engine  # both live
    store.close()
    admin.close()


def test_the_fleet_drops_the_membership_of_a_forgotten_target(own_server):
    """Found: a process with ever new targets kept a membership for each."""
    with serve("bench") as provider:
        given = {
            "base_url": provider.base_url,
            "model": "storm-1",
            "policy": policy(own_server.url),
        }
        with stormbreak.Client(**given) as client:
            client.chat([{"role": "user", "content": "x"}])
            members = store_thread._thread_for(own_server.url)._members
            wait_until(lambda: all(each.next_at < inf for each in members))
            for member in members:
                member.next_at = inf  # idle
            client.engine.targets.clear()
            gc.collect()
            wait_until(lambda: not members)


async def test_slots_in_flight_are_shared(own_server, monkeypatch):
    monkeypatch.setattr(
        "stormbreak.core.fleet_lease.PATIENCE", 20.0
    )  # a busy machine must not count as a late store
    in_flight = peak = 0
    own = policy(own_server.url, limit=FixedLimit(max_in_flight=4), rate_limit=RateLimitPolicy())

    def one():
        @stormbreak.resilient(own, target="x")
        async def call():
            nonlocal in_flight, peak
            in_flight += 1
            peak = max(peak, in_flight)
            await asyncio.sleep(0.02)
            in_flight -= 1

        return call

    members = [one(), one()]
    await asyncio.gather(*(each() for each in members))
    await asyncio.sleep(0.3)
    await asyncio.gather(*(each() for each in members for _ in range(20)))
    assert 2 <= peak <= 4


async def test_a_forked_child_is_another_member(own_server):
    own = policy(own_server.url)
    call = member(own)
    await settle([call])
    store = ValkeyStore(own_server.url)

    def check():
        asyncio.run(settle([call]))
        return True

    assert await asyncio.to_thread(in_child, check)
    await settle([call])
    (scope,) = store.scopes("default").values()
    assert len(scope.members) == 2
    store.close()


async def test_the_store_password_comes_from_the_environment_and_is_never_logged(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    secret = "Correct-Horse-7-Battery"
    server = Server("valkey", tmp_path).start("--requirepass", secret)
    try:
        url = server.url.replace("//", "//default@")
        monkeypatch.setenv(PASSWORD, secret)
        call = member(policy(url))
        await settle([call])
        assert f"fleet store {server.url}: sharing, members: 1" in caplog.text
        monkeypatch.setenv(PASSWORD, "Another-Horse-8-Battery")
        wrong = member(policy(f"{url}/1"))
        await waits([wrong], 1)
        await _until(lambda: "it refuses the user or the password" in caplog.text)
        assert "Battery" not in caplog.text
    finally:
        server.kill()


async def test_the_store_works_over_tls_with_the_documented_user_rights(
    tmp_path, certificates, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    (cert, key), _ = certificates
    port = free_port()
    server = Server("valkey", tmp_path).start(
        "--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-auth-clients", "no"
    )  # fmt: skip
    try:
        admin = redis.Redis.from_url(server.url)
        rights = ["eval", "evalsha", "time", "hgetall", "hset", "hdel", "expire", "persist"]
        keys = (">Correct-Horse", "resetkeys", "~stormbreak:3:*", "-@all")
        admin.execute_command(
            "ACL", "SETUSER", "app", "on", *keys, *(f"+{each}" for each in rights)
        )
        admin.close()
        monkeypatch.setenv(PASSWORD, "Correct-Horse")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        await settle([member(policy(f"rediss://app@localhost:{port}"))])
        assert f"fleet store rediss://localhost:{port}: sharing, members: 1" in caplog.text
    finally:
        server.kill()


REFUSALS = {
    "it is out of memory": (
        ("CONFIG", "SET", "maxmemory", "1"),
        ("CONFIG", "SET", "maxmemory", "0"),
    ),
    "it is a read-only replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "it refuses writes because it has too few replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


def test_an_error_of_the_store_is_explained_and_the_store_used_again(server):
    store, admin = ValkeyStore(server.url), redis.Redis.from_url(server.url)
    message = Message("refuses/target x", "m", Report(requests=RateReport(600.0, 1.0, 1.0, 1.0)))
    store.beat([message])
    for reason, (begin, end) in REFUSALS.items():
        admin.execute_command(*begin)
        with pytest.raises(StoreError, match=reason):
            store.beat([message])
        admin.execute_command(*end)
        assert store.beat([message])[0].members == 1
    admin.script_flush()
    assert store.beat([message, message])[1].members == 1
    store.close()
    admin.close()


def test_a_server_restarted_between_two_reports_is_recognised(own_server):
    """Found: the client reconnected by itself, and reports named the server before the restart."""
    store, message = ValkeyStore(own_server.url), Message("x/target x", "m", Report())
    named = []
    for _ in range(2):
        store.beat([message])
        named.append(store.scopes("x")["x/target x"].server)
        own_server.kill()
        own_server.start()
    assert 0.0 not in named
    assert named[0] != named[1]
    store.close()


@table_test(
    ("reply", "reason"),
    [
        (b"+OK\r\n", "its answer is not one of our script"),
        (b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n", "its answer is not one of our script"),
        (b"*21\r\n" + b"$3\r\nnan\r\n" * 21, "its answer is not one of our script"),
        (b"-MOVED 1 127.0.0.1:1\r\n", "it is a cluster"),
        (b"-LOADING it is\r\n", "it is loading its data"),
        (b"garbage\r\n", "no connection|InvalidResponse"),
        (b"*21\r\n$1\r\n", "no connection|no answer in time"),  # the connection ends
    ],
)
def test_an_invalid_reply_of_the_store_closes_the_connection(reply, reason):
    with AnyServer(reply) as fake:
        store = ValkeyStore(fake.url)
        for _ in range(2):
            with pytest.raises(StoreError, match=reason):
                store.beat([Message("x/target x", "m", Report())])
        assert fake.connections == 2
        store.close()


def test_a_store_that_cannot_report_its_start_grants_no_money():
    """Found: after a failed query the store granted money before other members could report theirs."""
    with AnyServer(b"-ERR\r\n", {b"INFO": b"-LOADING it is\r\n"}) as fake:
        store = ValkeyStore(fake.url)
        with pytest.raises(StoreError, match="it is loading its data"):
            store.beat([Message("x/target x", "m", Report())])
        assert fake.connections == 0
        store.close()


def test_processes_share_a_quota(own_server):
    with serve() as provider:
        workers = [
            Worker(fleet=own_server.url, base_url=provider.base_url, calls=40, rpm=900)
            for _ in range(2)
        ]
        ended = [worker.ready().ended() for worker in workers]
    assert not any(each["errors"] for each in ended)
    took = max(each["ended"] for each in ended) - min(each["started"] for each in ended)
    assert 15 * (took + 1) + 30 >= 80  # as above


async def _until(holds):
    until = time.monotonic() + 120
    while not holds():
        if time.monotonic() > until:
            pytest.fail("the condition never held")
        await asyncio.sleep(0.02)
