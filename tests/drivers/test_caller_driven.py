"""A call that is handed to whoever makes its attempts: nothing of it is left, however it ends."""

import asyncio
import gc
import threading

import pytest
from stage import OK, SERVER_ERROR, TARGET, policy
from virtual_threads import Threads

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.delivery import DRAINED, LOOK_AGAIN
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.types import Call, CallResult, Outcome, Verdict

ONE = policy(limit=FixedLimit(max_in_flight=1))


class Bench:
    """Both drivers on one engine."""

    def __init__(self):
        self.engine = Engine(ONE)
        self.threads = ThreadDriver(self.engine)
        self.loops = AsyncioDriver(self.engine)

    def hand(self):
        return self.threads.begin(Call(self.engine.number(), TARGET))

    @property
    def in_flight(self):
        return self.engine.target_state(TARGET).slots.in_flight


def test_it_is_answered_until_it_ends():
    bench = Bench()
    handed = bench.hand()
    assert isinstance(bench.threads.wait_to_send(handed), Send)
    assert isinstance(handed.answer(OK), CallResult)
    assert handed.answer(SERVER_ERROR) == handed.command  # that changes nothing
    assert bench.threads.wait_to_send(handed) is None
    assert handed.command.outcome == OK
    assert bench.in_flight == 0


def test_a_closed_one_changes_nothing():
    bench = Bench()
    handed = bench.hand()
    handed.close()
    handed.close()
    assert bench.in_flight == 0
    assert isinstance(handed.answer(OK), Send)


async def test_a_dropped_one_is_closed_and_whoever_waits_for_its_place_is_woken():
    bench = Bench()
    first, second = bench.hand(), bench.hand()
    waits = asyncio.create_task(bench.loops.wait_to_send(second))
    await asyncio.sleep(0)
    del first
    gc.collect()
    assert isinstance(await asyncio.wait_for(waits, LOOK_AGAIN / 2), Send)
    second.close()
    assert bench.in_flight == 0


def test_what_ends_a_wait_on_a_thread_closes_it():
    threads, engine = Threads(), Engine(ONE)
    driver = ThreadDriver(engine, clock=threads.time, parking=threads.parking)
    first, second = (driver.begin(Call(engine.number(), TARGET)) for _ in range(2))
    thread = threads.spawn(0.0, lambda: driver.wait_to_send(second))
    threads.at(1.0, lambda: threads.cancel(thread))
    threads.run()
    assert second.flow is None
    assert engine.target_state(TARGET).admission.queued == 0
    first.close()


def test_what_came_of_it_can_be_forgotten():
    handed = Bench().hand()
    handed.answer(Outcome(Verdict.INVALID, value=1, error=ValueError()))
    handed.forget()
    assert (handed.command.outcome.value, handed.command.outcome.error) == (None, None)
    assert handed.command.outcome.verdict is Verdict.INVALID


async def test_it_waits_for_its_place_on_a_thread_and_on_a_loop():
    bench = Bench()
    first, second, third = bench.hand(), bench.hand(), bench.hand()
    blocked = asyncio.create_task(asyncio.to_thread(bench.threads.wait_to_send, second))
    waits = asyncio.create_task(bench.loops.wait_to_send(third))
    await asyncio.sleep(0.01)
    assert not blocked.done()
    first.answer(OK)
    assert isinstance(await blocked, Send)
    assert not waits.done()
    second.answer(OK)
    assert isinstance(await waits, Send)
    third.close()
    assert bench.in_flight == 0


async def test_a_cancel_while_it_waits_closes_it():
    bench = Bench()
    first, second = bench.hand(), bench.hand()
    waits = asyncio.create_task(bench.loops.wait_to_send(second))
    await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert second.flow is None
    assert bench.engine.target_state(TARGET).admission.queued == 0
    first.close()


async def test_draining_ends_who_waits():
    bench = Bench()
    first, second, third = bench.hand(), bench.hand(), bench.hand()
    waits = asyncio.create_task(bench.loops.wait_to_send(second))
    await asyncio.sleep(0)
    bench.loops.drain()
    assert (await waits, second.command) == (None, DRAINED)
    threading.Timer(0.01, bench.threads.drain).start()
    assert (bench.threads.wait_to_send(third), third.command) == (None, DRAINED)
    first.close()
    assert bench.in_flight == 0
