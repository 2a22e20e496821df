"""One engine, many loops and threads: no call is forgotten, and the limit holds."""

import asyncio
import gc
import threading
import time
from random import Random

from stage import OK, TARGET, policy
from table_test import table_test

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.types import Call

PATIENCE = 30.0  # seconds until a test that hangs fails


class Target:
    """Counts concurrent attempts."""

    def __init__(self):
        self.inside = self.most = self.served = 0
        self._lock = threading.Lock()

    async def sender(self, send):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0.0005)
        finally:
            with self._lock:
                self.inside -= 1
        with self._lock:
            self.served += 1
        return OK


def in_threads(*mains):
    """Run each `main()` on its own loop and thread; return whether all ended."""
    threads = [threading.Thread(target=asyncio.run, args=(main(),), daemon=True) for main in mains]
    for thread in threads:
        thread.start()
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def test_two_loops_and_eight_threads_share_three_slots():
    engine, target = Engine(policy(limit=FixedLimit(max_in_flight=3))), Target()
    driver = AsyncioDriver(engine)
    ended = []

    def call():
        return driver.run(Call(engine.number(), TARGET), target.sender)

    async def busy():
        ended.extend(await asyncio.gather(*[call() for _ in range(200)]))

    def hammer(seed):
        async def main():
            chance = Random(seed)
            for _ in range(30):
                task = asyncio.create_task(call())
                if chance.random() < 0.3:
                    await asyncio.sleep(0.002 * chance.random())
                    task.cancel()
                ended.extend(
                    end
                    for end in await asyncio.gather(task, return_exceptions=True)
                    if not isinstance(end, BaseException)
                )

        return main

    assert in_threads(busy, busy, *[hammer(seed) for seed in range(8)])
    target_state = engine.target_state(TARGET)
    assert (target_state.slots.in_flight, target_state.admission.queued, target.inside) == (0, 0, 0)
    assert target.most <= 3
    assert 400 <= len(ended) <= target.served
    assert {end.outcome for end in ended} == {OK}


def test_closed_loops_pass_their_grants_on():
    """A thousand callers on a closed loop: too many for a recursion."""
    engine = Engine(policy(limit=FixedLimit(max_in_flight=1)))
    driver = AsyncioDriver(engine)
    release = threading.Event()
    outcomes = []

    async def holds(send):
        await asyncio.to_thread(release.wait, PATIENCE)
        return OK

    async def answers(send):
        return OK

    async def blocker():
        outcomes.append((await driver.run(Call(1, TARGET), holds)).outcome)

    async def last():
        outcomes.append((await driver.run(Call(2, TARGET), answers)).outcome)

    def waiting(count):
        while engine.target_state(TARGET).admission.queued < count:
            time.sleep(0.001)

    holding = threading.Thread(target=asyncio.run, args=(blocker(),), daemon=True)
    holding.start()
    while engine.target_state(TARGET).slots.in_flight == 0:
        time.sleep(0.001)
    dead = asyncio.new_event_loop()
    lost = [dead.create_task(driver.run(Call(n, TARGET), answers)) for n in range(3, 1003)]
    dead.run_until_complete(asyncio.sleep(0))
    waiting(1000)
    dead.close()
    survivor = threading.Thread(target=asyncio.run, args=(last(),), daemon=True)
    survivor.start()
    waiting(1001)
    release.set()
    holding.join(PATIENCE)
    survivor.join(PATIENCE)
    for task in lost:
        task._log_destroy_pending = False

    assert outcomes == [OK, OK]
    assert (
        engine.target_state(TARGET).slots.in_flight,
        engine.target_state(TARGET).admission.queued,
    ) == (0, 0)


def left_hanging(driver):
    """A caller with an attempt in flight on a closed loop."""

    async def hangs(_):
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    caller = loop.create_task(driver.run(Call(1, TARGET), hangs))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    caller._log_destroy_pending = False
    return caller


@table_test("dropped", [1, 5])
def test_the_garbage_collector_may_drop_callers_during_a_step(dropped):
    """It may run while this very thread holds the lock."""
    engine = Engine(policy(limit=FixedLimit(max_in_flight=dropped + 1)))
    collects = False

    def chance():
        if collects:
            gc.collect()
        return 0.5

    driver = AsyncioDriver(engine, chance=chance)
    stepper = driver._stepper

    def scene():
        nonlocal collects
        gc.disable()
        try:
            for _ in range(dropped):
                left_hanging(driver)  # a reference cycle: only the garbage collector frees it
            flow, _ = stepper.start(Call(2, TARGET))
            assert engine.target_state(TARGET).slots.in_flight == dropped + 1
            collects = True
            stepper.step(flow, OK)
        finally:
            gc.enable()

    thread = threading.Thread(target=scene, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "deadlock"
    assert engine.target_state(TARGET).slots.in_flight == 0


def test_a_dropped_caller_is_closed_after_the_step():
    engine = Engine(policy(limit=FixedLimit(max_in_flight=2)))
    driver = AsyncioDriver(engine)
    target_state = engine.target_state(TARGET)
    in_flight = []

    tick = target_state.slots.tick

    def in_the_middle(now, waited):
        nonlocal caller
        caller = None
        gc.collect()
        in_flight.append(target_state.slots.in_flight)
        tick(now, waited)

    caller = left_hanging(driver)
    flow, _ = driver._stepper.start(Call(2, TARGET))
    target_state.slots.tick = in_the_middle
    driver._stepper.step(flow, OK)

    assert in_flight[0] == 1  # only the slot of the stepped call is free yet
    assert target_state.slots.in_flight == 0


def test_a_flow_is_closed_when_close_returns():
    engine = Engine(policy(limit=FixedLimit(max_in_flight=1)))
    stepper = Stepper(engine, clock=lambda: 0.0, chance=lambda: 0.5)
    flow, _ = stepper.start(Call(1, TARGET))
    stepper.close(flow)

    assert engine.target_state(TARGET).slots.in_flight == 0
    stepper.close(flow)  # a second time does nothing
    assert engine.target_state(TARGET).slots.in_flight == 0
