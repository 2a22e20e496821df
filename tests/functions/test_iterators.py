"""Generators: retried before their first item, never after it; each holds its place until it ends."""

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
    """Make generators that follow scripts, one after the other: items, and exceptions to raise."""

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
    """Return the items, and the type of the exception at the end."""
    came = []
    try:
        came.extend(items)
    except Exception as error:  # noqa: BLE001 - any exception is a result
        return came, type(error)
    return came, None


async def drained_later(items, pause=0.0):
    came = []
    try:
        async for item in items:
            came.append(item)
            await asyncio.sleep(pause)
    except Exception as error:  # noqa: BLE001 - any exception is a result
        return came, type(error)
    return came, None


def blocking(guard, source):
    return drained(guard.stream(source))


def asynchronous(guard, source):
    return asyncio.run(drained_later(guard.async_stream(source.later)))


WAYS = [blocking, asynchronous]


@table_test("way", WAYS)
def test_a_generator_that_fails_before_its_first_item_is_retried(way):
    guard, source = made(), Source([DownError()], [DownError()], [1, 2])
    assert way(guard, source) == ([1, 2], None)
    assert (source.made, source.closed, at_rest(guard)) == (3, 3, True)


@table_test("way", WAYS)
def test_a_generator_that_fails_after_its_first_item_is_not_retried(way):
    guard, source = made(), Source([1, DownError()], [1, 2])
    assert way(guard, source) == ([1], DownError)
    assert (source.made, source.closed, at_rest(guard)) == (1, 1, True)


@table_test("way", WAYS)
def test_a_failure_after_the_first_item_opens_the_circuit(way):
    breaker = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1))
    guard = made(policy(fail_fast=True, breaker=breaker))
    assert way(guard, Source([1, DownError()])) == ([1], DownError)
    assert way(guard, Source([1, 2])) == ([], CircuitOpenError)


@table_test("way", WAYS)
def test_a_generator_without_items_is_a_success(way):
    guard, source = made(), Source([])
    assert way(guard, source) == ([], None)
    assert (source.made, at_rest(guard)) == (1, True)


@table_test("way", WAYS)
def test_a_generator_that_keeps_failing_stops_after_max_attempts(way):
    guard, source = made(), Source(*[[DownError()]] * 3)
    assert way(guard, source) == ([], DownError)
    assert (source.made, at_rest(guard)) == (3, True)


def test_a_generator_holds_its_place_until_it_is_closed():
    guard, source = made(ONE), Source([1, 2], [3])
    first = guard.stream(source)
    assert at_rest(guard)  # no item was requested yet
    assert next(first) == 1
    assert guard.snapshot()["targets"]["prices"]["in_flight"] == 1
    first.close()
    first.close()
    assert (source.closed, at_rest(guard)) == (1, True)
    assert list(guard.stream(source)) == [3]


def test_a_dropped_generator_frees_its_place():
    guard, source = made(ONE), Source([1, 2])
    first = guard.stream(source)
    next(first)
    del first
    gc.collect()
    assert (source.closed, at_rest(guard)) == (1, True)


async def test_a_closed_or_dropped_async_generator_frees_its_place():
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


def test_an_async_generator_whose_loop_has_ended_frees_its_place():
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


def test_a_generator_passes_on_sent_values_thrown_errors_and_its_return_value():
    @made()
    def echo():
        words_sent = []
        try:
            while (word := (yield len(words_sent))) is not None:
                words_sent.append(word)
        except LookupError:
            yield "caught"
        return words_sent

    words = echo()
    assert [next(words), words.send("a"), words.send("b")] == [0, 1, 2]
    with pytest.raises(StopIteration) as stop:
        next(words)
    assert stop.value.value == ["a", "b"]

    words = echo()
    next(words)
    assert words.throw(LookupError()) == "caught"


async def test_an_async_generator_passes_on_sent_values_and_thrown_errors():
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


def test_stream_accepts_any_iterable_and_closes_it():
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
    with pytest.raises(LookupError):  # the stream has no throw()
        items.throw(LookupError())
    assert (stream.closed, at_rest(guard)) == (1, True)


async def test_async_stream_accepts_a_coroutine_that_returns_a_stream():
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
def test_an_async_generator_is_cut_by_attempt_timeout_stall_and_deadline(attempts, ended):
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


def test_the_time_of_the_consumer_counts_only_towards_the_deadline():
    async def source():
        for number in range(20):
            yield number

    async def main(guard):
        return await drained_later(guard.async_stream(source), pause=6.0), at_rest(guard)

    assert on_a_loop(main, TIMED)[0] == (([0, 1, 2, 3], AttemptTimeoutError), True)


def test_the_deadline_stops_a_blocking_generator_between_two_items():
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


def test_a_generator_may_be_collected_while_a_context_variable_is_set():
    """In Python 3.11 the interpreter crashes when a finalizer sets a context variable at that moment."""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", DROPPING], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "alive\n"), ran.stderr[-2000:]
