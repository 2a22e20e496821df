"""A call whose attempts the caller makes: nothing is left behind, however it ends."""

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

    def begin(self):
        return self.threads.begin(Call(self.engine.number(), TARGET))

    @property
    def in_flight(self):
        return self.engine.target_state(TARGET).slots.in_flight


def test_a_call_takes_answers_until_it_ends():
    bench = Bench()
    pending = bench.begin()
    assert isinstance(bench.threads.wait_to_send(pending), Send)
    assert isinstance(pending.answer(OK), CallResult)
    assert pending.answer(SERVER_ERROR) == pending.command  # it changes nothing
    assert bench.threads.wait_to_send(pending) is None
    assert pending.command.outcome == OK
    assert bench.in_flight == 0


def test_closing_a_call_twice_changes_nothing():
    bench = Bench()
    pending = bench.begin()
    pending.close()
    pending.close()
    assert bench.in_flight == 0
    assert isinstance(pending.answer(OK), Send)


async def test_a_dropped_call_is_closed_and_wakes_the_next():
    bench = Bench()
    first, second = bench.begin(), bench.begin()
    waits = asyncio.create_task(bench.loops.wait_to_send(second))
    await asyncio.sleep(0)
    del first
    gc.collect()
    assert isinstance(await asyncio.wait_for(waits, LOOK_AGAIN / 2), Send)
    second.close()
    assert bench.in_flight == 0


def test_an_exception_in_a_wait_on_a_thread_closes_the_call():
    threads, engine = Threads(), Engine(ONE)
    driver = ThreadDriver(engine, clock=threads.time, parking=threads.parking)
    first, second = (driver.begin(Call(engine.number(), TARGET)) for _ in range(2))
    thread = threads.spawn(0.0, lambda: driver.wait_to_send(second))
    threads.at(1.0, lambda: threads.cancel(thread))
    threads.run()
    assert second.flow is None
    assert engine.target_state(TARGET).admission.queued == 0
    first.close()


def test_forget_drops_the_value_and_the_error():
    pending = Bench().begin()
    pending.answer(Outcome(Verdict.INVALID, value=1, error=ValueError()))
    pending.forget()
    assert (pending.command.outcome.value, pending.command.outcome.error) == (None, None)
    assert pending.command.outcome.verdict is Verdict.INVALID


async def test_calls_wait_for_a_slot_on_a_thread_and_on_a_loop():
    bench = Bench()
    first, second, third = bench.begin(), bench.begin(), bench.begin()
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


async def test_a_cancel_during_a_wait_closes_the_call():
    bench = Bench()
    first, second = bench.begin(), bench.begin()
    waits = asyncio.create_task(bench.loops.wait_to_send(second))
    await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert second.flow is None
    assert bench.engine.target_state(TARGET).admission.queued == 0
    first.close()


async def test_draining_ends_waiting_calls():
    bench = Bench()
    first, second, third = bench.begin(), bench.begin(), bench.begin()
    waits = asyncio.create_task(bench.loops.wait_to_send(second))
    await asyncio.sleep(0)
    bench.loops.drain()
    assert (await waits, second.command) == (None, DRAINED)
    threading.Timer(0.01, bench.threads.drain).start()
    assert (bench.threads.wait_to_send(third), third.command) == (None, DRAINED)
    first.close()
    assert bench.in_flight == 0
