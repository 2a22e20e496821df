"""A loop was closed, its tasks not cancelled, while one of its calls kept the time for the queue of a target.
Calls that waited on another loop then waited until something else happened on that target, or for ever.
"""

import asyncio
import threading

from stage import OK, TARGET, policy, told

from stormbreak.core.engine import Engine
from stormbreak.drivers import asyncio_driver, delivery
from stormbreak.types import Call

COOLDOWN = 0.3


def test_those_who_wait_look_again_by_themselves(monkeypatch):
    monkeypatch.setattr(delivery, "LOOK_AGAIN", 0.1)
    engine = Engine(policy())
    driver = asyncio_driver.AsyncioDriver(engine, chance=lambda: 0.0)
    answers = iter([told(COOLDOWN)])
    waits, closed = threading.Event(), threading.Event()

    async def sender(send):
        return next(answers, OK)

    def call():
        return driver.run(Call(engine.number(), TARGET), sender)

    async def keep_time_and_leave():
        tasks.append(asyncio.create_task(call()))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(call()))
        await asyncio.sleep(0)

    async def wait():
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        waits.set()
        await asyncio.to_thread(closed.wait)
        return await asyncio.wait_for(task, 10.0)

    tasks = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(keep_time_and_leave())
    assert engine.target_state(TARGET).admission.queued == 1
    closing = threading.Thread(target=lambda: (waits.wait(), loop.close(), closed.set()))
    closing.start()
    ended = asyncio.run(wait())
    closing.join()

    assert ended.outcome == OK
    for task in tasks:
        task._log_destroy_pending = False  # they are, and are meant to be
