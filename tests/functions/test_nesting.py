"""Nested guarded functions do not deadlock and do not multiply retries."""

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
"""One place and unlimited patience: a call that waits for itself would wait for ever."""
STOCK = Target("stock", "")
FAILING = failing(500, {"message": "no", "code": "server_error"})


# ---------------------------------------------------------------- the same target


def test_a_recursive_function_takes_one_place():
    guard = made(ONE)

    @guard
    def depth(left):
        assert guard.snapshot()["targets"]["prices"]["in_flight"] == 1
        return 0 if not left else 1 + depth(left - 1)

    assert depth(5) == 5
    assert at_rest(guard)


async def test_a_recursive_coroutine_its_tasks_and_its_threads_take_one_place():
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


async def test_nested_blocks_and_generators_take_one_place():
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


def test_a_nested_call_to_the_same_target_has_no_retries_of_its_own():
    guard = made()
    script = Script(*[DownError()] * 9)

    @guard
    def outer():
        return guard.call(script)

    with pytest.raises(DownError):
        outer()
    assert script.made == 3


async def test_a_task_that_outlives_its_attempt_takes_a_place_of_its_own():
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


def test_a_call_by_the_consumer_of_a_stream_takes_a_place_of_its_own():
    guard = made(policy(limit=FixedLimit(max_in_flight=2)))
    seen = []
    for _ in guard.stream(lambda: iter([1, 2])):
        for attempt in guard:
            with attempt:
                seen.append(guard.snapshot()["targets"]["prices"]["in_flight"])
    assert seen == [2, 2]


async def test_a_call_by_the_consumer_of_an_async_stream_takes_a_place_of_its_own():
    guard = made(policy(limit=FixedLimit(max_in_flight=2)))

    async def items():
        for item in (1, 2):
            yield item

    async def in_flight():
        return guard.snapshot()["targets"]["prices"]["in_flight"]

    seen = [await guard.async_call(in_flight) async for _ in guard.async_stream(items)]
    assert seen == [2, 2]


def test_a_call_in_a_bare_thread_takes_a_place_of_its_own():
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
@pytest.mark.parametrize("retry_exhausted", [False, True])
def test_the_outer_call_repeats_inner_retries_only_with_retry_exhausted(shared, retry_exhausted):
    outer = made(retry_exhausted=retry_exhausted)
    inner = made(target=STOCK, engine=outer.engine if shared else None)
    script = Script(*[DownError()] * 9)
    with pytest.raises(DownError):
        outer.call(inner.call, script)
    assert script.made == (9 if retry_exhausted else 3)


@table_test("kind", ["wrapped", "wrapped twice"])
def test_an_error_caused_by_an_exhausted_inner_call_is_not_retried(kind):
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


def test_the_outer_call_retries_what_the_inner_call_did_not():
    outer = made()
    for on in (None, ValueError):
        script = Script(DownError(), DownError(), 3)
        assert outer.call(made(target=STOCK, on=on).call, script) == 3


def test_the_outer_call_retries_an_inner_stream_that_broke():
    outer, inner, made_ = made(), made(target=STOCK), []

    def source():
        made_.append(1)
        yield 1
        raise DownError

    with pytest.raises(DownError):
        outer.call(lambda: list(inner.stream(source)))
    assert len(made_) == 3


def test_three_nested_calls_do_not_multiply_retries():
    outer, middle, inner = made(), made(target=STOCK), made(target=Target("shelf", ""))
    script = Script(*[DownError()] * 9)
    with pytest.raises(DownError):
        outer.call(middle.call, inner.call, script)
    assert script.made == 3


async def test_nested_calls_in_tasks_do_not_multiply_retries():
    outer, inner = made(), made(target=STOCK)
    script = Script(*[DownError()] * 9)

    async def gathered():
        await asyncio.gather(inner.async_call(script.later))

    with pytest.raises(DownError):
        await outer.async_call(gathered)
    assert script.made == 3


def test_an_exception_object_raised_again_in_a_later_call_is_retried():
    guard, raised = made(), DownError()
    for _ in range(2):
        script = Script(raised, raised, raised)
        with pytest.raises(DownError):
            guard.call(script)
        assert script.made == 3


def test_a_rejected_inner_call_is_neither_retried_nor_counted():
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


# ---------------------------------------------------------------- around a client, and an SDK's transport


RETRY = RetryPolicy(
    max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01), min_time_left=0.0
)


async def test_a_guard_does_not_retry_what_a_client_retried():
    async with served(FAILING) as server:
        async with AsyncClient(
            base_url=server.base_url, model="m", policy=policy(retry=RETRY)
        ) as client:
            with pytest.raises(UpstreamError):
                await made(on=Exception).async_call(client.chat, [{"role": "user", "content": "?"}])
        assert len(server.requests) == 2


async def test_a_guard_does_not_retry_what_a_transport_retried():
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


def test_one_target_name_in_two_engines_is_two_targets():
    outer, inner = made(ONE), made(ONE)
    assert outer.target == inner.target == PRICES
    seen = outer.call(inner.call, lambda: inner.snapshot()["targets"]["prices"]["in_flight"])
    assert seen == 1
    assert at_rest(inner)


async def test_a_task_that_outlives_an_inner_attempt_belongs_to_the_outer_one():
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


async def test_a_task_that_outlives_the_call_keeps_no_exception_alive():
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
