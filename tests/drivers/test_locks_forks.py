"""A child process starts with an engine of its own, and uses no connection of its parent."""

import asyncio
import threading
import time
import warnings
from contextlib import contextmanager

from forking import in_child
from sockets import answer, served_aside
from stage import OK, SERVER_ERROR, TARGET, policy, told
from table_test import table_test
from thread_calls import run_call

from stormbreak import BreakerPolicy, CircuitBreaker
from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.http.client import AsyncClient
from stormbreak.types import Call

SAY = [{"role": "user", "content": "hello"}]


@contextmanager
def left_in_flight(driver):
    """A call is under way on a loop that does not run."""

    async def hangs(_):
        await asyncio.sleep(3600.0)

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        calling = loop.create_task(driver.run(Call(1, TARGET), hangs))
        runner.run(asyncio.sleep(0))
        yield
        calling.cancel()


def one_call(driver):
    async def answers(_):
        return OK

    return asyncio.run(driver.run(Call(2, TARGET), answers)).outcome == OK


def test_what_is_in_flight_in_the_parent_is_not_in_the_child():
    engine = Engine(policy(limit=FixedLimit(max_in_flight=1)))
    driver = AsyncioDriver(engine)
    with left_in_flight(driver):
        assert in_child(
            lambda: engine.target_state(TARGET).slots.in_flight == 0 and one_call(driver)
        )
        assert engine.target_state(TARGET).slots.in_flight == 1  # here, it still is
    assert engine.target_state(TARGET).slots.in_flight == 0


class ParkedThread(threading.Event):
    """Where a thread waits, and how often it was told to go."""

    told = 0

    def set(self):
        ParkedThread.told += 1
        super().set()


def test_a_child_wakes_no_thread_of_its_parent():
    """There is none, and the lock to wake it by may be held for ever."""
    driver = ThreadDriver(Engine(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=60.0)))), parking=ParkedThread)  # fmt: skip
    waits = threading.Thread(
        target=run_call, args=(driver, Call(1, TARGET), lambda _: SERVER_ERROR)
    )
    waits.start()
    while not driver._waits:
        time.sleep(0.001)

    def drained():
        driver.drain()
        return ParkedThread.told == 0

    assert in_child(drained)
    driver.drain()
    waits.join(20)
    assert (ParkedThread.told, waits.is_alive()) == (1, False)


def test_what_the_parent_learned_is_forgotten_and_who_listens_is_not():
    engine = Engine(policy())
    driver, seen = AsyncioDriver(engine), []
    engine.listeners.append(seen.append)

    async def told_to_wait(_):
        return told(3600.0)

    async def main():
        calling = asyncio.create_task(driver.run(Call(1, TARGET), told_to_wait))
        await asyncio.sleep(0.01)
        calling.cancel()

    asyncio.run(main())
    seen.clear()
    assert in_child(lambda: one_call(driver) and len(seen) > 0)


def test_a_lock_held_by_another_thread_at_the_fork_is_free_in_the_child():
    driver = AsyncioDriver(Engine(policy()))
    held, release = threading.Event(), threading.Event()

    def hold():
        with driver._stepper._lock:
            held.set()
            release.wait(10.0)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10.0)
    try:
        assert in_child(lambda: one_call(driver))
    finally:
        release.set()
        holder.join()


def test_a_child_opens_connections_of_its_own_and_the_parent_keeps_its():
    """The server is on a thread of its own; all of it is one loop that is forked while it stands still."""
    with served_aside(answer()) as server, asyncio.Runner() as runner:
        client = AsyncClient(base_url=server.base_url, model="m")
        runner.run(client.chat(SAY))
        assert in_child(lambda: asyncio.run(client.chat(SAY)).text == "fine")
        runner.run(client.chat(SAY))
        runner.run(client.close())

    assert [request.connection for request in server.requests] == [1, 2, 1]


@table_test("way", ["close", "drop"])
def test_a_stream_that_a_child_gives_up_goes_on_in_the_parent(way):
    go = threading.Event()
    first = b'data: {"choices":[{"index":0,"delta":{"content":"fine"}}]}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{"content":" day"},"finish_reason":"stop"}]}\n\n'
    head = answer(b"", content_type="text/event-stream", content_length=len(first + last))

    async def wait(*_):
        await asyncio.to_thread(go.wait, 30.0)

    async def open_one():
        stream = await client.stream("chat/completions", {"messages": SAY})
        return [stream, stream.texts()]

    async def read_on(texts):
        async with asyncio.timeout(10.0):
            return [text async for text in texts]

    def give_up():
        if way == "close":
            asyncio.run(held[0].aclose())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            held.clear()
        return client.engine.target_state(client.target("m")).slots.in_flight == 0

    script = (head + first, wait, last)
    with served_aside(script) as server, asyncio.Runner() as runner:
        client = AsyncClient(base_url=server.base_url, model="m")
        held = runner.run(open_one())
        try:
            assert in_child(give_up)
        finally:
            go.set()
        assert runner.run(read_on(held[1])) == ["fine", " day"]
        assert client.engine.target_state(client.target("m")).slots.in_flight == 0
        runner.run(client.close())


def test_a_client_that_stands_on_the_very_same_loop_shares_no_pool():
    client = AsyncClient(base_url="http://127.0.0.1:9/v1", model="m")
    loop = asyncio.new_event_loop()
    client.target("m")
    (wire,) = client._resolver.first.routes.connections()
    loop.run_until_complete(wire._new_pool())
    try:
        assert in_child(lambda: loop not in wire._pools)
        assert loop in wire._pools
    finally:
        loop.run_until_complete(client.close())
        loop.close()


def test_a_circuit_breaker_whose_lock_another_thread_holds_at_the_fork_begins_anew():
    circuit = CircuitBreaker(
        BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1), open_duration=60.0)
    )
    held, release = threading.Event(), threading.Event()

    def hold():
        with circuit._lock:
            held.set()
            release.wait(10.0)

    holder = threading.Thread(target=hold)
    attempt = circuit.attempt()
    attempt.__enter__()
    holder.start()
    held.wait(10.0)

    def child():
        attempt.__exit__(
            ValueError, ValueError(), None
        )  # it left in the parent, and is nothing here
        return circuit.state == "closed" and circuit.call(lambda: True)

    try:
        assert in_child(child)
    finally:
        release.set()
        holder.join()
    attempt.__exit__(ValueError, ValueError(), None)
    assert circuit.state == "open"
    assert in_child(lambda: circuit.state == "closed")
