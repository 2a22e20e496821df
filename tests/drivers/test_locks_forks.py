"""A child process starts with an idle engine, and uses no connection of its parent."""

import asyncio
import threading
import time
import warnings
from contextlib import contextmanager

from forking import in_child
from sockets import answer, served_aside
from stage import OK, SERVER_ERROR, TARGET, policy, retry_in
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
    """A call is in flight on a loop that does not run."""

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


def test_calls_in_flight_in_the_parent_are_not_in_the_child():
    engine = Engine(policy(limit=FixedLimit(max_in_flight=1)))
    driver = AsyncioDriver(engine)
    with left_in_flight(driver):
        assert in_child(
            lambda: engine.target_state(TARGET).slots.in_flight == 0 and one_call(driver)
        )
        assert engine.target_state(TARGET).slots.in_flight == 1  # here it still is
    assert engine.target_state(TARGET).slots.in_flight == 0


class ParkedThread(threading.Event):
    """An event that counts how often it was set."""

    sets = 0

    def set(self):
        ParkedThread.sets += 1
        super().set()


def test_a_child_wakes_no_thread_of_its_parent():
    """The child has no such thread, and its lock may be held for ever."""
    driver = ThreadDriver(Engine(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=60.0)))), parking=ParkedThread)  # fmt: skip
    waits = threading.Thread(
        target=run_call, args=(driver, Call(1, TARGET), lambda _: SERVER_ERROR)
    )
    waits.start()
    while not driver._waits:
        time.sleep(0.001)

    def drained():
        driver.drain()
        return ParkedThread.sets == 0

    assert in_child(drained)
    driver.drain()
    waits.join(20)
    assert (ParkedThread.sets, waits.is_alive()) == (1, False)


def test_a_child_forgets_what_the_parent_learned_and_keeps_listeners():
    engine = Engine(policy())
    driver, seen = AsyncioDriver(engine), []
    engine.listeners.append(seen.append)

    async def refused(_):
        return retry_in(3600.0)

    async def main():
        calling = asyncio.create_task(driver.run(Call(1, TARGET), refused))
        await asyncio.sleep(0.01)
        calling.cancel()

    asyncio.run(main())
    seen.clear()
    assert in_child(lambda: one_call(driver) and len(seen) > 0)


def test_a_lock_held_at_the_fork_is_free_in_the_child():
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


def test_a_child_opens_its_own_connections_and_the_parent_keeps_its_own():
    """The server is on its own thread; the loop of the client is forked while it does not run."""
    with served_aside(answer()) as server, asyncio.Runner() as runner:
        client = AsyncClient(base_url=server.base_url, model="m")
        runner.run(client.chat(SAY))
        assert in_child(lambda: asyncio.run(client.chat(SAY)).text == "fine")
        runner.run(client.chat(SAY))
        runner.run(client.close())

    assert [request.connection for request in server.requests] == [1, 2, 1]


@table_test("way", ["close", "drop"])
def test_a_stream_that_a_child_cancels_goes_on_in_the_parent(way):
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

    def cancel():
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
            assert in_child(cancel)
        finally:
            go.set()
        assert runner.run(read_on(held[1])) == ["fine", " day"]
        assert client.engine.target_state(client.target("m")).slots.in_flight == 0
        runner.run(client.close())


def test_a_client_on_the_same_loop_in_a_child_shares_no_pool():
    client = AsyncClient(base_url="http://127.0.0.1:9/v1", model="m")
    loop = asyncio.new_event_loop()
    client.target("m")
    (connection,) = client._resolver.first.routes.connections()
    loop.run_until_complete(connection._new_pool())
    try:
        assert in_child(lambda: loop not in connection._pools)
        assert loop in connection._pools
    finally:
        loop.run_until_complete(client.close())
        loop.close()


def test_a_circuit_breaker_locked_at_the_fork_starts_closed_in_the_child():
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
        )  # it began in the parent, and does not count here
        return circuit.state == "closed" and circuit.call(lambda: True)

    try:
        assert in_child(child)
    finally:
        release.set()
        holder.join()
    attempt.__exit__(ValueError, ValueError(), None)
    assert circuit.state == "open"
    assert in_child(lambda: circuit.state == "closed")
