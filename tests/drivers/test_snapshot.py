"""A snapshot lists calls in flight with plain values, and no call that has ended."""

import asyncio
import json
from contextlib import suppress

import pytest
from stage import OK, SERVER_ERROR, TARGET, policy

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.fallback_policy import ELSEWHERE, Step
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.types import Call, Outcome, Priority, Verdict

COMMITTED = Outcome(Verdict.OK, committed=True)


class Bench:
    """One engine, and calls on it that are cancelled at the end."""

    def __init__(self, **changes):
        self.engine = Engine(policy(**changes))
        self.driver = AsyncioDriver(self.engine)
        self.tasks = []

    async def start(self, sender, asker=None, **call):
        call = Call(self.engine.number(), TARGET, **call)
        self.tasks.append(asyncio.ensure_future(self.driver.open(call, sender, asker)))
        await asyncio.sleep(0)

    def pending(self):
        snapshot = self.engine.snapshot()
        json.dumps(snapshot, allow_nan=False)
        return snapshot["pending"]

    async def leave(self):
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert self.pending() == []


async def hang(_command):
    await asyncio.Event().wait()


def answering(outcome):
    async def say(_command):
        return outcome

    return say


async def test_the_snapshot_shows_a_sent_and_a_queued_call():
    bench = Bench(limit=FixedLimit(max_in_flight=1), attempt_timeout=30.0)
    await bench.start(hang)
    await bench.start(hang, tenant="shop", priority=Priority.BATCH, patience=9.0)
    sent, waits = bench.pending()

    assert sent == {
        "call": 1, "target": "acme/large", "priority": "interactive", "tenant": "", "labels": {}, "deadline": None,
        "command": "send", "attempt": 1, "timeout": 30.0,
    }  # fmt: skip
    assert waits.pop("until") == pytest.approx(9.0, abs=0.5)
    assert 0.0 <= waits.pop("waited") < 0.5
    assert waits == {
        "call": 2, "target": "acme/large", "priority": "batch", "tenant": "shop", "labels": {}, "deadline": None,
        "command": "wait_for",
    }  # fmt: skip
    await bench.leave()


async def test_the_snapshot_shows_a_hedged_call():
    bench = Bench(hedge=HedgePolicy(delay=8.0, percentile=None), attempt_timeout=30.0)
    await bench.start(hang)
    (call,) = bench.pending()

    assert call.pop("until") == pytest.approx(8.0, abs=0.5)
    assert (call["command"], call["target"], call["under_way"]) == ("race", "acme/large", [1])
    await bench.leave()


async def test_the_snapshot_shows_a_call_in_backoff():
    bench = Bench(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=8.0)))
    await bench.start(answering(SERVER_ERROR))
    (call,) = bench.pending()

    assert call["command"] == "wait"
    assert call["until"] == pytest.approx(8.0, abs=0.5)
    await bench.leave()


async def test_the_snapshot_shows_a_call_that_asks_for_a_local_answer():
    bench = Bench(retry=RetryPolicy(max_attempts=1))
    step = Step(frozenset(ELSEWHERE), None, "cache")
    await bench.start(answering(SERVER_ERROR), hang, fallbacks=(step,))
    (call,) = bench.pending()

    assert (call["command"], call["source"], call["until"]) == ("ask", "cache", None)
    await bench.leave()


async def test_the_snapshot_shows_a_stream_until_it_is_dropped():
    bench = Bench()
    delivery = await bench.driver.open(Call(1, TARGET, delivers=True), answering(COMMITTED))
    (call,) = bench.pending()
    assert (call["command"], call["attempts"], call["until"]) == ("deliver", 1, None)

    del delivery
    await bench.leave()


async def test_the_snapshot_shows_no_ended_calls():
    bench = Bench()
    delivery = await bench.driver.open(Call(1, TARGET, delivers=True), answering(COMMITTED))
    delivery.end(OK)
    await bench.driver.run(Call(2, TARGET), answering(OK))
    await bench.leave()


async def test_pending_calls_may_be_left_out():
    bench = Bench()
    await bench.start(hang)
    assert "pending" not in bench.driver.snapshot(pending=False)
    await bench.leave()


def test_an_engine_without_a_driver_has_no_time():
    with pytest.raises(RuntimeError, match="no driver runs this engine"):
        Engine(policy()).snapshot()
