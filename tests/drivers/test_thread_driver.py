"""Calls on threads wait for each other, can be interrupted, and leave nothing behind."""

import asyncio
import threading
import time

import pytest
from interrupts import interrupted
from stage import OK, SERVER_ERROR, TARGET, policy, retry_in
from table_test import table_test
from thread_calls import open_call, run_call

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.delivery import LOOK_AGAIN
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.types import Call, Verdict

PATIENCE = 20.0  # seconds


class Scene:
    def __init__(self, **changes):
        self.engine = Engine(policy(**changes))
        self.driver = ThreadDriver(self.engine)

    def call(self, **more):
        return Call(self.engine.number(), TARGET, **more)

    def run(self, sender=lambda _: OK, **more):
        return run_call(self.driver, self.call(**more), sender)

    @property
    def in_flight(self):
        return self.engine.target_state(TARGET).slots.in_flight

    def elsewhere(self, sender=lambda _: OK, **more):
        """Run one call on another thread; return a function that waits for its result."""
        ends = []
        thread = threading.Thread(target=lambda: ends.append(self.run(sender, **more)), daemon=True)
        thread.start()

        def ended():
            thread.join(PATIENCE)
            return ends[0]

        return ended

    def hold_a_slot(self):
        """Let a call on another thread keep a slot; return a function that ends it, and one that waits for its result."""
        leave = threading.Event()
        ended = self.elsewhere(lambda _: (leave.wait(PATIENCE), OK)[1])
        while not self.in_flight:
            time.sleep(0.001)
        return leave.set, ended

    def wait_for(self, queued):
        until = time.monotonic() + PATIENCE
        while self.engine.target_state(TARGET).admission.queued != queued:
            assert time.monotonic() < until
            time.sleep(0.001)


def test_a_failure_is_retried_after_its_backoff():
    scene = Scene(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=0.02)))
    answers = iter([SERVER_ERROR, OK])
    began = time.monotonic()
    ended = scene.run(lambda _: next(answers))

    assert (ended.outcome, ended.attempts) == (OK, 2)
    assert time.monotonic() - began >= 0.02
    assert scene.in_flight == 0


def test_a_freed_slot_wakes_a_waiting_thread():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    leave, first = scene.hold_a_slot()
    second = scene.elsewhere()
    scene.wait_for(queued=1)
    leave()

    assert (first().outcome, second().outcome) == (OK, OK)
    assert second().queued > 0


def test_a_queued_call_checks_again_without_a_wake_up():
    """The timer ticket may be on a loop that was closed."""
    spans = []

    class ParkedThread(threading.Event):
        def wait(self, timeout=None):
            spans.append(timeout)
            return super().wait(timeout)

    scene = Scene(limit=FixedLimit(max_in_flight=1), patience=600.0)
    scene.driver = ThreadDriver(scene.engine, parking=ParkedThread)
    leave, first = scene.hold_a_slot()
    second = scene.elsewhere(patience=600.0)
    scene.wait_for(queued=1)
    while not spans:
        time.sleep(0.001)
    leave()
    assert (first().outcome, second().outcome) == (OK, OK)
    assert LOOK_AGAIN <= spans[0] <= 2 * LOOK_AGAIN


def test_threads_and_loops_share_an_engine():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    leave, waits = scene.hold_a_slot()

    async def main():
        async def sender(_):
            return OK

        task = asyncio.create_task(AsyncioDriver(scene.engine).run(scene.call(), sender))
        await asyncio.to_thread(scene.wait_for, 1)
        leave()
        return await task

    assert asyncio.run(main()).outcome == OK
    assert waits().outcome == OK


@table_test("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_exception_of_a_sender_frees_the_slot_and_counts_for_nothing(error):
    scene = Scene(limit=FixedLimit(max_in_flight=1))

    def fails(_):
        raise error

    with pytest.raises(error):
        scene.run(fails)
    assert scene.in_flight == 0
    assert scene.run().outcome == OK


def test_an_interrupt_in_the_queue_withdraws_the_ticket():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    leave, first = scene.hold_a_slot()
    admission = scene.engine.target_state(TARGET).admission
    with interrupted(once=lambda: admission.queued), pytest.raises(KeyboardInterrupt):
        scene.run()
    assert admission.queued == 0
    leave()
    assert first().outcome == OK
    assert scene.in_flight == 0


def test_an_interrupt_ends_a_backoff():
    scene = Scene(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=60.0)))
    began = time.monotonic()
    with interrupted(), pytest.raises(KeyboardInterrupt):
        scene.run(lambda _: SERVER_ERROR)
    assert time.monotonic() - began < 10.0


def test_draining_ends_waiting_calls():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    leave, first = scene.hold_a_slot()
    waiting = scene.elsewhere()
    scene.wait_for(queued=1)
    scene.driver.drain()

    assert waiting().stopped == "drained"
    leave()
    assert first().outcome == OK
    assert scene.elsewhere(lambda _: retry_in(60.0))().stopped == "drained"


def test_patience_ends_in_the_queue():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    leave, first = scene.hold_a_slot()
    ended = scene.run(patience=0.05)

    assert ended.outcome.verdict is Verdict.REJECTED
    leave()
    first()


def test_a_stream_is_delivered_at_its_first_output():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    opened = open_call(scene.driver, scene.call(delivers=True))

    assert scene.in_flight == 1
    assert opened.end(OK).outcome.verdict is Verdict.OK
    assert scene.in_flight == 0
    assert opened.over


def test_a_dropped_delivery_frees_its_slot():
    scene = Scene(limit=FixedLimit(max_in_flight=1))
    opened = open_call(scene.driver, scene.call(delivers=True))
    assert scene.in_flight == 1
    del opened
    assert scene.in_flight == 0


def test_sixty_four_threads_respect_a_limit_of_five():
    scene = Scene(limit=FixedLimit(max_in_flight=5))
    inside, most, lock = [0], [0], threading.Lock()

    def sender(_):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.0005)
        with lock:
            inside[0] -= 1
        return OK

    served = []

    def works():
        served.extend(scene.run(sender).outcome for _ in range(10))

    threads = [threading.Thread(target=works, daemon=True) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert served == [OK] * 640
    assert most[0] == 5
    assert scene.in_flight == 0
