"""Circuits of a client are isolated, reset, saved and restored by hand, and waiting calls notice at once."""

import asyncio
import json
import threading
import time
from dataclasses import replace

import pytest
from sockets import End, answer, served
from table_test import table_test

from stormbreak import errors
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.target_state import TargetState
from stormbreak.drivers import delivery
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient

SAY = [{"role": "user", "content": "hello"}]
KEY = "sk-canary-0123456789"
ONE = Policy(limit=FixedLimit(max_in_flight=1), patience=60.0)
HASTY = replace(ONE, fail_fast=True)
NOWHERE = "http://127.0.0.1:9/v1"
AT_ONCE = 40.0  # seconds, on a machine that is as busy as it may be


@pytest.fixture
def no_periodic_recheck(monkeypatch):
    """Let waiting calls recheck by themselves only long after `AT_ONCE`."""
    monkeypatch.setattr(delivery, "LOOK_AGAIN", 1_000.0)


def client_of(server=None, policy=ONE):
    base_url = NOWHERE if server is None else server.base_url
    return AsyncClient(base_url=base_url, api_key=KEY, model="m", policy=policy)


def circuit(client, model="m"):
    return client.snapshot()["targets"][str(client.target(model))]["circuit"]


async def queued(client, calls):
    for _ in range(5000):
        if client.snapshot()["targets"][str(client.target("m"))]["queued"] == calls:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the calls do not queue")


async def test_an_isolated_target_rejects_calls_and_others_do_not():
    async with served(answer()) as server, client_of(server, HASTY) as client:
        client.isolate("m")
        with pytest.raises(errors.CircuitOpenError):
            await client.chat(SAY)
        await client.chat(SAY, model="other")
        client.reset(client.target("m"))
        await client.chat(SAY)
    assert len(server.requests) == 2


@pytest.mark.usefixtures("no_periodic_recheck")
async def test_isolating_a_target_rejects_queued_fail_fast_calls_at_once():
    """Found: queued calls were rejected only at their periodic recheck, after five seconds."""
    async with served(End.HANG) as server, client_of(server, HASTY) as client:
        sent = asyncio.create_task(client.chat(SAY))
        await server.asked()
        waiting = [asyncio.create_task(client.chat(SAY)) for _ in range(3)]
        await queued(client, 3)
        began = time.monotonic()
        await asyncio.to_thread(client.isolate, "m")
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert time.monotonic() - began < AT_ONCE
        sent.cancel()
    assert [type(end) for end in ends] == [errors.CircuitOpenError] * 3


@pytest.mark.usefixtures("no_periodic_recheck")
async def test_a_reset_circuit_sends_queued_calls_at_once():
    async with served(answer()) as server, client_of(server) as client:
        client.isolate("m")
        waiting = asyncio.create_task(client.chat(SAY))
        await queued(client, 1)
        began = time.monotonic()
        await asyncio.to_thread(client.reset, "m")
        await waiting
        assert time.monotonic() - began < AT_ONCE


async def test_a_restored_circuit_subtracts_the_time_since_it_was_saved(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 5000.0)
    client = client_of()
    values = {"state": "open", "open_left": 100.0, "open_for": 7.0, "named_left": 100.0}
    began = time.monotonic()
    client.restore_circuits({"circuits": {"m": values}, "saved_at": 5000.0})
    client.isolate("by-hand")
    text = json.dumps(client.save_circuits())
    between = time.monotonic() - began
    assert KEY not in text
    assert client.target("m").key not in text

    monkeypatch.setattr(time, "time", lambda: 5040.0)
    async with served(answer()) as server, client_of(server, HASTY) as again:
        began = time.monotonic()
        again.restore_circuits(json.loads(text))
        restored = time.monotonic()
        assert (circuit(again), circuit(again, "by-hand")) == ("open", "isolated")
        with pytest.raises(errors.CircuitOpenError) as caught:
            await again.chat(SAY)
        assert began + 60.0 - between <= caught.value.retry_at <= restored + 60.0


@pytest.mark.usefixtures("no_periodic_recheck")
async def test_a_restored_open_circuit_rejects_queued_fail_fast_calls():
    async with served(End.HANG) as server, client_of(server, HASTY) as client:
        sent = asyncio.create_task(client.chat(SAY))
        await server.asked()
        waiting = asyncio.create_task(client.chat(SAY))
        await queued(client, 1)
        saved = {"state": "open", "open_left": 60.0, "open_for": 5.0}
        client.restore_circuits({"circuits": {"m": saved}, "saved_at": time.time()})
        with pytest.raises(errors.CircuitOpenError):
            await asyncio.wait_for(waiting, AT_ONCE)
        sent.cancel()


def test_closed_circuits_are_not_saved():
    client = client_of()
    client.isolate("m")
    client.reset("m")
    assert client.save_circuits()["circuits"] == {}


def test_a_client_without_a_breaker_isolates_and_restores_nothing():
    client = client_of(policy=replace(ONE, breaker=None))
    with pytest.raises(ConfigurationError, match="the policy has no breaker"):
        client.isolate("m")
    saved = client_of()
    saved.isolate("m")
    client.restore_circuits(saved.save_circuits())
    client.reset("m")
    assert circuit(client) is None
    assert client.save_circuits()["circuits"] == {}


OPEN = {"state": "open", "open_left": 1.0, "open_for": 5.0}


@table_test(
    ("values", "message"),
    [
        (None, "saved circuits must be a table, got None"),
        ({}, "circuits must be a table, got None"),
        ({"circuits": []}, r"circuits must be a table, got \[\]"),
        ({"circuits": {"": OPEN}}, "circuits must have names of models, got ''"),
        ({"circuits": {3: OPEN}}, "circuits must have names of models, got 3"),
        ({"circuits": {"m": None}}, "circuits of 'm': a saved circuit must be a table, got None"),
        ({"circuits": {"m": {**OPEN, "open_left": -1}}}, "circuits of 'm': open_left must not be"),
        ({"circuits": {KEY: None}}, "circuits of what looks like a key"),
        ({"circuits": {"m": OPEN}}, "saved_at must be a finite number, got None"),
        ({"circuits": {"m": OPEN}, "saved_at": 10**400}, "saved_at must be a finite number"),
    ],
)
def test_invalid_saved_circuits_are_rejected_and_change_nothing(values, message):
    client = client_of()
    client.isolate("m")
    with pytest.raises(ConfigurationError, match=message) as caught:
        client.restore_circuits(values)
    assert KEY not in str(caught.value)
    assert circuit(client) == "isolated"
    assert len(client.snapshot()["targets"]) == 1


def test_a_listener_may_read_snapshots_but_not_reset_circuits():
    client = client_of()
    seen = []

    def listen(event):
        seen.append(circuit(client))
        with pytest.raises(RuntimeError, match="a listener may not"):
            client.reset("m")
        seen.append("refused")

    client.subscribe(listen)
    client.isolate("m")
    assert seen == ["isolated", "refused"]


def test_a_snapshot_tolerates_new_targets_in_other_threads(monkeypatch):
    """Found: a call to a new target in another thread made the snapshot fail."""
    client, threads = client_of(), []
    client.reset("a")
    client.reset("b")
    look = TargetState.snapshot

    def meanwhile(target_state, now):
        threads.append(threading.Thread(target=client.reset, args=(f"new-{len(threads)}",)))
        threads[-1].start()
        threads[-1].join(0.05)
        return look(target_state, now)

    monkeypatch.setattr(TargetState, "snapshot", meanwhile)
    assert len(client.snapshot()["targets"]) == 2
    for thread in threads:
        thread.join(10.0)
    monkeypatch.undo()
    assert len(client.snapshot()["targets"]) == 4


def test_isolate_waits_for_the_running_step_of_the_engine():
    client, order = client_of(), []

    def step(engine, now):
        thread = threading.Thread(target=lambda: (client.isolate("m"), order.append("isolated")))
        thread.start()
        thread.join(0.05)
        order.append("step is over")
        return thread

    client._driver.between_steps(step).join(10.0)
    assert order == ["step is over", "isolated"]


def test_reset_does_not_close_a_circuit_that_is_forced_open():
    client = client_of(policy=replace(ONE, breaker=BreakerPolicy(mode="forced_open")))
    client.reset("m")
    assert circuit(client) == "isolated"
