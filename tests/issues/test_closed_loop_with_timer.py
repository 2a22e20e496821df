"""An event loop was closed without cancelling its tasks, while one of its calls held the timer for a target queue.
Calls that waited on another loop then waited for the next event of that target, or without end.
"""

import asyncio
import threading

from stage import OK, TARGET, policy, retry_in

from stormbreak.core.engine import Engine
from stormbreak.drivers import asyncio_driver, delivery
from stormbreak.types import Call

COOLDOWN = 0.3


def test_waiting_calls_recover_when_the_loop_with_the_timer_closes(monkeypatch):
    monkeypatch.setattr(delivery, "LOOK_AGAIN", 0.1)
    engine = Engine(policy())
    driver = asyncio_driver.AsyncioDriver(engine, chance=lambda: 0.0)
    answers = iter([retry_in(COOLDOWN)])
    waits, closed = threading.Event(), threading.Event()

    async def sender(send):
        return next(answers, OK)

    def call():
        return driver.run(Call(engine.number(), TARGET), sender)

    async def hold_the_timer_and_leave():
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
    loop.run_until_complete(hold_the_timer_and_leave())
    assert engine.target_state(TARGET).admission.queued == 1
    closing = threading.Thread(target=lambda: (waits.wait(), loop.close(), closed.set()))
    closing.start()
    ended = asyncio.run(wait())
    closing.join()

    assert ended.outcome == OK
    for task in tasks:
        task._log_destroy_pending = False  # they stay pending on purpose
