"""Guarded functions that call guarded functions neither wait for themselves nor multiply retries."""

import asyncio
import gc
import threading
import weakref

import httpx2
import pytest
from guarding import PRICES, QUICK, DownError, Script, at_rest, made
from sockets import failing, served
from stage import policy
from table_test import table_test

from stormbreak import AsyncClient, CircuitOpenError, UpstreamError
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.httpx2 import AsyncTransport
from stormbreak.types import Target

ONE = policy(limit=FixedLimit(max_in_flight=1), retry=QUICK.retry)
"""A place for one, and any patience: who waits for himself waits for ever."""
STOCK = Target("stock", "")
FAILING = failing(500, {"message": "no", "code": "server_error"})


# ---------------------------------------------------------------- the same target


def test_a_recursive_function_needs_one_place():
    guard = made(ONE)

    @guard
    def depth(left):
        assert guard.snapshot()["targets"]["prices"]["in_flight"] == 1
        return 0 if not left else 1 + depth(left - 1)

    assert depth(5) == 5
    assert at_rest(guard)


async def test_so_do_an_asynchronous_one_its_tasks_and_its_threads():
    guard = made(ONE)

    @guard
    async def leaf(value):
        return value

    @guard
    async def tree():
        leaves = await asyncio.gather(*(leaf(value) for value in range(3)))
        return [*leaves, await asyncio.to_thread(guard.call, int, 3)]

    assert await asyncio.wait_for(tree(), 30.0) == [0, 1, 2, 3]
    assert at_rest(guard)


async def test_so_do_blocks_and_generators():
    guard = made(ONE)

    def items():
        yield from (1, 2)

    async def later():
        yield 3

    for attempt in guard:
        with attempt:
            came = list(guard.stream(items))
            came += [item async for item in guard.async_stream(later)]
            for inner in guard:
                with inner:
                    assert inner.judge(None)
            async for inner in guard:
                with inner:
                    came.append(inner.number)
    assert came == [1, 2, 3, 1]
    assert at_rest(guard)


def test_the_inner_call_is_a_part_of_the_attempt_and_has_no_retries_of_its_own():
    guard = made()
    script = Script(*[DownError()] * 9)

    @guard
    def outer():
        return guard.call(script)

    with pytest.raises(DownError):
        outer()
    assert script.made == 3


async def test_a_task_that_outlives_the_attempt_is_on_its_own():
    guard, ended = made(ONE), asyncio.Event()
    tasks = []

    async def afterwards():
        await ended.wait()
        return await guard.async_call(in_flight)

    async def in_flight():
        return guard.snapshot()["targets"]["prices"]["in_flight"]

    @guard
    async def outer():
        tasks.append(asyncio.create_task(afterwards()))

    await outer()
    ended.set()
    assert await tasks[0] == 1


def test_the_consumer_of_a_stream_is_outside_of_it():
    guard = made(policy(limit=FixedLimit(max_in_flight=2)))
    seen = []
    for _ in guard.stream(lambda: iter([1, 2])):
        for attempt in guard:
            with attempt:
                seen.append(guard.snapshot()["targets"]["prices"]["in_flight"])
    assert seen == [2, 2]


async def test_so_is_that_of_an_asynchronous_one():
    guard = made(policy(limit=FixedLimit(max_in_flight=2)))

    async def items():
        for item in (1, 2):
            yield item

    async def in_flight():
        return guard.snapshot()["targets"]["prices"]["in_flight"]

    seen = [await guard.async_call(in_flight) async for _ in guard.async_stream(items)]
    assert seen == [2, 2]


def test_a_bare_thread_is_outside_of_it():
    guard, seen = made(policy(limit=FixedLimit(max_in_flight=2))), []

    @guard
    def outer():
        thread = threading.Thread(
            target=lambda: guard.call(
                lambda: seen.append(guard.snapshot()["targets"]["prices"]["in_flight"])
            )
        )
        thread.start()
        thread.join()

    outer()
    assert seen == [2]


# ---------------------------------------------------------------- another target


@pytest.mark.parametrize("shared", [True, False], ids=["one engine", "two engines"])
@pytest.mark.parametrize("told", [False, True])
def test_what_was_retried_within_is_not_retried_without_unless_told(shared, told):
    outer = made(retry_exhausted=told)
    inner = made(target=STOCK, engine=outer.engine if shared else None)
    script = Script(*[DownError()] * 9)
    with pytest.raises(DownError):
        outer.call(inner.call, script)
    assert script.made == (9 if told else 3)


@table_test("kind", ["wrapped", "wrapped twice"])
def test_nor_if_it_is_the_cause_of_another(kind):
    outer, inner, made_calls = made(on=LookupError), made(target=STOCK), []

    def wrapping():
        made_calls.append(1)
        try:
            inner.call(Script(*[DownError()] * 3))
        except DownError as error:
            raise LookupError from error

    def wrapping_twice():
        try:
            wrapping()
        except LookupError as error:
            raise LookupError from error

    with pytest.raises(LookupError):
        outer.call(wrapping if kind == "wrapped" else wrapping_twice)
    assert len(made_calls) == 1


def test_what_was_not_retried_within_may_be_retried_without():
    outer = made()
    for on in (None, ValueError):
        script = Script(DownError(), DownError(), 3)
        assert outer.call(made(target=STOCK, on=on).call, script) == 3


def test_a_stream_that_broke_within_was_not_retried_and_may_be_without():
    outer, inner, made_ = made(), made(target=STOCK), []

    def source():
        made_.append(1)
        yield 1
        raise DownError

    with pytest.raises(DownError):
        outer.call(lambda: list(inner.stream(source)))
    assert len(made_) == 3


def test_nor_is_it_through_three_of_them():
    outer, middle, inner = made(), made(target=STOCK), made(target=Target("shelf", ""))
    script = Script(*[DownError()] * 9)
    with pytest.raises(DownError):
        outer.call(middle.call, inner.call, script)
    assert script.made == 3


async def test_nor_across_tasks():
    outer, inner = made(), made(target=STOCK)
    script = Script(*[DownError()] * 9)

    async def gathered():
        await asyncio.gather(inner.async_call(script.later))

    with pytest.raises(DownError):
        await outer.async_call(gathered)
    assert script.made == 3


def test_an_object_that_is_raised_again_later_is_a_failure_of_its_own():
    guard, raised = made(), DownError()
    for _ in range(2):
        script = Script(raised, raised, raised)
        with pytest.raises(DownError):
            guard.call(script)
        assert script.made == 3


def test_a_rejection_within_is_neither_retried_nor_counted_without():
    fragile = policy(
        fail_fast=True,
        retry=QUICK.retry,
        breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)),
    )
    outer, inner = made(fragile, on=Exception), made(fragile, target=STOCK)
    inner.isolate()
    for _ in range(3):
        with pytest.raises(CircuitOpenError, match=r"^stock: "):
            outer.call(inner.call, Script(1))
    assert outer.snapshot()["targets"]["prices"]["circuit"] == "closed"


# ---------------------------------------------------------------- around a client, and an SDK's door


RETRY = RetryPolicy(
    max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01), min_time_left=0.0
)


async def test_what_a_client_retried_is_not_retried():
    async with served(FAILING) as server:
        async with AsyncClient(
            base_url=server.base_url, model="m", policy=policy(retry=RETRY)
        ) as client:
            with pytest.raises(UpstreamError):
                await made(on=Exception).async_call(client.chat, [{"role": "user", "content": "?"}])
        assert len(server.requests) == 2


async def test_what_went_through_a_door_is_not_retried():
    async with served(FAILING) as server:
        transport = AsyncTransport(policy=policy(retry=RETRY))
        async with httpx2.AsyncClient(transport=transport) as http:

            async def ask():
                body = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
                response = await http.post(f"{server.base_url}/chat/completions", json=body)
                response.raise_for_status()

            with pytest.raises(httpx2.HTTPStatusError):
                await made(on=Exception).async_call(ask)
        assert len(server.requests) == 2


# ---------------------------------------------------------------- what is left behind


def test_the_same_target_of_another_engine_is_another():
    outer, inner = made(ONE), made(ONE)
    assert outer.target == inner.target == PRICES
    seen = outer.call(inner.call, lambda: inner.snapshot()["targets"]["prices"]["in_flight"])
    assert seen == 1
    assert at_rest(inner)


async def test_a_task_that_outlives_an_inner_attempt_is_still_within_the_outer_one():
    outer, middle, inner = made(), made(target=STOCK), made(target=Target("shelf", ""))
    script = Script(*[DownError()] * 9)

    async def start():
        return asyncio.create_task(later())

    async def later():
        await asyncio.sleep(0)  # by then the attempt that started it has ended
        await inner.async_call(script.later)

    async def outermost():
        await (await middle.async_call(start))

    with pytest.raises(DownError):
        await outer.async_call(outermost)
    assert script.made == 3


async def test_a_task_that_lives_on_keeps_no_exception_alive():
    outer, inner, tasks = made(), made(target=STOCK), []

    async def fail():
        raise DownError

    async def outermost():
        tasks.append(asyncio.create_task(asyncio.sleep(60.0)))
        await inner.async_call(fail)

    gc.disable()
    try:
        try:
            await outer.async_call(outermost)
        except DownError as error:
            held = weakref.ref(error)
        assert held() is None
    finally:
        gc.enable()
        tasks[0].cancel()
