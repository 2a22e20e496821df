"""Many calls on one engine, from two event loops or many threads, with a check for leaks."""

import asyncio
import threading
import time
from collections import Counter
from random import Random

from stage import OK, SERVER_ERROR, TARGET, policy
from thread_calls import run_call

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.events import CallEnded, Returned, Sent
from stormbreak.types import Call

LIMIT = 64
POLICY = policy(
    limit=FixedLimit(max_in_flight=LIMIT),
    retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=0.001)),
    queue=QueuePolicy(max_size=20_000),
)


class Unlocked:
    """Await a call, and check that its thread does not hold the lock when it is suspended."""

    def __init__(self, call, stepper):
        self._steps = call.__await__()
        self._stepper = stepper

    def __await__(self):
        step, value = self._steps.send, None
        while True:
            try:
                waits_for = step(value)
            except StopIteration as stop:
                return stop.value
            assert not self._stepper._lock._is_owned(), "the lock is held across an await"
            try:
                step, value = self._steps.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001 - passed on
                step, value = self._steps.throw, error


class Interrupted(BaseException):
    """Raised in a sending thread, like KeyboardInterrupt."""


class BackgroundTraffic:
    """Counts started, sent and ended calls on both sides of the driver."""

    def __init__(self):
        self.engine = Engine(POLICY)
        self.events = Counter()
        self.seen = Counter()
        self.inside = self.most = 0
        self._counting = threading.Lock()
        self.engine.listeners.append(self._listen)

    def _listen(self, event):
        with self._counting:
            self.events[type(event)] += 1

    def _count(self, what, inside=0):
        with self._counting:
            self.seen[what] += 1
            self.inside += inside
            self.most = max(self.most, self.inside)

    def run(self, tasks, seconds=0.0):
        """Run two loops, each with this number of concurrent tasks, repeatedly for these seconds."""
        threads = [
            threading.Thread(target=asyncio.run, args=(self._loop(seed, tasks, seconds),))
            for seed in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run_threads(self, threads, seconds=0.0, least=20):
        """Run threads that each make one call after the other for these seconds."""
        driver = ThreadDriver(self.engine)
        working = [
            threading.Thread(target=self._work, args=(driver, Random(seed), seconds, least))
            for seed in range(threads)
        ]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()

    def _work(self, driver, chance, seconds, least):
        end = time.monotonic() + seconds
        while time.monotonic() < end or least > 0:
            least -= 1
            try:
                run_call(driver, Call(self.engine.number(), TARGET), self._sender(driver, chance))
            except Interrupted:
                self._count("cancelled")
            else:
                self._count("ended")

    def _sender(self, driver, chance):
        def send(_):
            assert not driver._stepper._lock._is_owned(), "the lock is held across a send"
            self._count("sent", +1)
            try:
                time.sleep(0.001 * chance.random())
                if chance.random() < 0.1:
                    raise Interrupted
            finally:
                self._count("landed", -1)
            self._count("answered")
            return OK if chance.random() < 0.8 else SERVER_ERROR

        return send

    async def _loop(self, seed, tasks, seconds):
        driver, chance = AsyncioDriver(self.engine), Random(seed)
        end = time.monotonic() + seconds
        while True:
            calling = [asyncio.create_task(self._call(driver, chance)) for _ in range(tasks)]
            await asyncio.sleep(0.01)
            for task in calling:
                if chance.random() < 0.1:
                    task.cancel()
            for end_of_call in await asyncio.gather(*calling, return_exceptions=True):
                if not isinstance(end_of_call, asyncio.CancelledError):
                    assert not isinstance(end_of_call, BaseException), end_of_call
                    self._count("ended")
                else:
                    self._count("cancelled")
            if time.monotonic() >= end:
                return

    async def _call(self, driver, chance):
        stepper = driver._stepper

        async def send(_):
            assert not stepper._lock._is_owned(), "the lock is held across a send"
            self._count("sent", +1)
            try:
                await asyncio.sleep(0.001 * chance.random())
            finally:
                self._count("landed", -1)
            self._count("answered")
            return OK if chance.random() < 0.8 else SERVER_ERROR

        return await Unlocked(driver.run(Call(self.engine.number(), TARGET), send), stepper)

    def check(self, started):
        """Check that no call is in flight, no permit is held, and the counters agree."""
        target_state, seen, events = self.engine.target_state(TARGET), self.seen, self.events
        assert (target_state.slots.in_flight, target_state.admission.queued, self.inside) == (
            0,
            0,
            0,
        )
        assert (self.engine.woken, self.engine.events) == ([], [])
        assert self.most <= LIMIT
        assert seen["ended"] + seen["cancelled"] == started
        assert seen["ended"] == events[CallEnded]
        assert seen["sent"] == seen["landed"] <= events[Sent]
        assert seen["answered"] == events[Returned]
        assert min(seen["cancelled"], seen["ended"] - seen["cancelled"]) > 0
