"""Generators: made again before their first item, never after it, and their place is theirs until they end."""

import asyncio
import gc
import subprocess
import sys

import pytest
from guarding import QUICK, DownError, at_rest, in_threads, made, on_a_loop
from stage import policy
from table_test import table_test
from virtual_loop import now

from stormbreak import CircuitOpenError
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import AttemptTimeoutError

ONE = policy(limit=FixedLimit(max_in_flight=1), retry=QUICK.retry)


class Source:
    """Makes generators that do as told, one after the other: items, and exceptions to raise."""

    def __init__(self, *scripts, takes=0.0):
        self.scripts = list(scripts)
        self.takes = takes
        self.made = 0
        self.closed = 0

    def __call__(self):
        script = self._next()
        try:
            for what in script:
                if isinstance(what, BaseException):
                    raise what
                yield what
            return "done"
        finally:
            self.closed += 1

    async def later(self):
        script = self._next()
        try:
            for what in script:
                await asyncio.sleep(self.takes)
                if isinstance(what, BaseException):
                    raise what
                yield what
        finally:
            self.closed += 1

    def _next(self):
        self.made += 1
        return self.scripts.pop(0)


def drained(items):
    """What came, and how it ended."""
    came = []
    try:
        came.extend(items)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return came, type(error)
    return came, None


async def drained_later(items, pause=0.0):
    came = []
    try:
        async for item in items:
            came.append(item)
            await asyncio.sleep(pause)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return came, type(error)
    return came, None


def blocking(guard, source):
    return drained(guard.stream(source))


def asynchronous(guard, source):
    return asyncio.run(drained_later(guard.async_stream(source.later)))


WAYS = [blocking, asynchronous]


@table_test("way", WAYS)
def test_before_the_first_item_it_is_made_again(way):
    guard, source = made(), Source([DownError()], [DownError()], [1, 2])
    assert way(guard, source) == ([1, 2], None)
    assert (source.made, source.closed, at_rest(guard)) == (3, 3, True)


@table_test("way", WAYS)
def test_after_it_a_failure_is_raised_and_nothing_is_made_again(way):
    guard, source = made(), Source([1, DownError()], [1, 2])
    assert way(guard, source) == ([1], DownError)
    assert (source.made, source.closed, at_rest(guard)) == (1, 1, True)


@table_test("way", WAYS)
def test_it_counts(way):
    breaker = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1))
    guard = made(policy(fail_fast=True, breaker=breaker))
    assert way(guard, Source([1, DownError()])) == ([1], DownError)
    assert way(guard, Source([1, 2])) == ([], CircuitOpenError)


@table_test("way", WAYS)
def test_one_without_items_is_a_success(way):
    guard, source = made(), Source([])
    assert way(guard, source) == ([], None)
    assert (source.made, at_rest(guard)) == (1, True)


@table_test("way", WAYS)
def test_retries_end(way):
    guard, source = made(), Source(*[[DownError()]] * 3)
    assert way(guard, source) == ([], DownError)
    assert (source.made, at_rest(guard)) == (3, True)


def test_the_place_is_held_until_it_is_closed():
    guard, source = made(ONE), Source([1, 2], [3])
    first = guard.stream(source)
    assert at_rest(guard)  # nothing was asked of it yet
    assert next(first) == 1
    assert guard.snapshot()["targets"]["prices"]["in_flight"] == 1
    first.close()
    first.close()
    assert (source.closed, at_rest(guard)) == (1, True)
    assert list(guard.stream(source)) == [3]


def test_one_that_is_dropped_gives_its_place_back():
    guard, source = made(ONE), Source([1, 2])
    first = guard.stream(source)
    next(first)
    del first
    gc.collect()
    assert (source.closed, at_rest(guard)) == (1, True)


async def test_an_asynchronous_one_that_is_closed_or_dropped_gives_its_place_back():
    guard, source = made(ONE), Source([1, 2], [1, 2])
    first = guard.async_stream(source.later)
    await anext(first)
    assert not at_rest(guard)
    await first.aclose()
    assert (source.closed, at_rest(guard)) == (1, True)

    second = guard.async_stream(source.later)
    await anext(second)
    del second
    gc.collect()
    await asyncio.sleep(0.01)  # the loop closes it
    assert (source.closed, at_rest(guard)) == (2, True)


def test_one_whose_loop_is_gone_gives_its_place_back():
    guard, source = made(ONE), Source([1, 2])

    async def main():
        items = guard.async_stream(source.later)
        await anext(items)
        return items

    with asyncio.Runner() as runner:
        left = runner.run(main())
    del left
    gc.collect()
    assert at_rest(guard)


def test_what_is_sent_thrown_and_returned_passes_through():
    @made()
    def echo():
        said = []
        try:
            while (word := (yield len(said))) is not None:
                said.append(word)
        except LookupError:
            yield "caught"
        return said

    words = echo()
    assert [next(words), words.send("a"), words.send("b")] == [0, 1, 2]
    with pytest.raises(StopIteration) as stop:
        next(words)
    assert stop.value.value == ["a", "b"]

    words = echo()
    next(words)
    assert words.throw(LookupError()) == "caught"


async def test_what_is_sent_and_thrown_passes_through_asynchronously():
    @made()
    async def echo():
        try:
            word = yield 0
            while True:
                word = yield word
        except LookupError:
            yield "caught"

    words = echo()
    assert [await anext(words), await words.asend("a"), await words.asend("b")] == [0, "a", "b"]
    assert await words.athrow(LookupError()) == "caught"
    await words.aclose()


def test_any_iterable_will_do():
    guard = made()
    assert list(guard.stream(list, "ab")) == ["a", "b"]

    class Stream:
        closed = 0

        def __iter__(self):
            return iter([1, 2])

        def close(self):
            self.closed += 1

    stream = Stream()
    items = guard.stream(lambda: stream)
    assert next(items) == 1
    with pytest.raises(LookupError):  # it has nowhere to throw it in
        items.throw(LookupError())
    assert (stream.closed, at_rest(guard)) == (1, True)


async def test_what_can_be_awaited_for_a_stream_will_do():
    guard, source = made(), Source([1, 2])

    async def opened():
        return source.later()

    assert [item async for item in guard.async_stream(opened)] == [1, 2]


TIMED = policy(
    deadline=20.0, attempt_timeout=5.0, stall_timeout=3.0,
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=1.0)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("attempts", "ended"),
    [
        ([[9.0], [1.0, 9.0]], (1, 10.0)),  # cut at 5, again at 6, its item at 7, silent until 10
        ([[1.0, 4.0]], (1, 4.0)),
        ([[2.0] * 20], (9, 20.0)),
    ],
    ids=["first item late", "stall", "deadline"],
)
def test_an_asynchronous_one_is_cut(attempts, ended):
    """By the attempt's timeout before its first item, then by silence, and by the deadline in any case."""
    left = list(attempts)

    async def source():
        for seconds in left.pop(0):
            await asyncio.sleep(seconds)
            yield seconds

    async def main(guard):
        came, error = await drained_later(guard.async_stream(source))
        return (len(came), round(now(), 3)), error, at_rest(guard)

    assert on_a_loop(main, TIMED, on=TimeoutError)[0] == (ended, AttemptTimeoutError, True)


def test_the_consumers_time_counts_for_the_deadline_only():
    async def source():
        for number in range(20):
            yield number

    async def main(guard):
        return await drained_later(guard.async_stream(source), pause=6.0), at_rest(guard)

    assert on_a_loop(main, TIMED)[0] == (([0, 1, 2, 3], AttemptTimeoutError), True)


def test_one_that_blocks_is_stopped_between_two_items():
    def main(guard, sleep):
        def source():
            for number in range(20):
                sleep(6.0)
                yield number

        return drained(guard.stream(source)), at_rest(guard)

    assert in_threads(main, TIMED)[0] == (([0, 1, 2, 3], AttemptTimeoutError), True)


DROPPING = """
import contextvars, gc, random
from stormbreak import resilient

def source():
    yield 1
    yield 2

guard, var, rng = resilient(), contextvars.ContextVar("var"), random.Random(1)
for _ in range(3000):
    gc.disable()
    items = guard.stream(source)
    next(items)
    cycle = [items]
    cycle.append(cycle)
    del items, cycle
    gc.set_threshold(rng.randrange(1, 60))
    gc.enable()
    for _ in range(20):
        var.set(object())
print("alive")
"""


def test_the_garbage_collector_may_close_one_while_a_context_variable_is_set():
    """In Python 3.11 the interpreter crashes when a finalizer sets a context variable at that moment."""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", DROPPING], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "alive\n"), ran.stderr[-2000:]
