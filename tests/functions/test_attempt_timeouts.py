"""Timeouts, cancels and interrupts: a cut attempt frees its place, and a cancel is not a failure."""

import asyncio

import pytest
from guarding import QUICK, DownError, Script, at_rest, in_threads, made, on_a_loop
from interrupts import interrupted
from stage import policy
from table_test import table_test
from virtual_loop import now

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import AttemptTimeoutError, RejectedError, ShedError

RETRY = RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
TIMED = policy(attempt_timeout=5.0, retry=RETRY)
ONE = policy(limit=FixedLimit(max_in_flight=1), retry=RETRY)
LATE = 100.0


async def by_call(guard, function):
    return await guard.async_call(function)


async def by_block(guard, function):
    async for attempt in guard:
        with attempt:
            return await function()
    return None


WAYS = [by_call, by_block]


@table_test("way", WAYS)
@table_test("on", [TimeoutError, OSError, Exception])
def test_a_timed_out_attempt_is_retried_if_the_rule_covers_timeout_error(way, on):
    script = Script((1, LATE), (2, LATE), (3, 2.0))

    async def main(guard):
        return await way(guard, script.later), now(), at_rest(guard)

    (result, ended_at, rests), _ = on_a_loop(main, TIMED, on=on)
    assert (result, round(ended_at, 3), rests) == (3, 14.0, True)


@table_test("way", WAYS)
@table_test("on", [None, DownError, ValueError])
def test_a_timed_out_attempt_outside_the_rule_raises_attempt_timeout_error(way, on):
    async def main(guard):
        with pytest.raises(AttemptTimeoutError) as caught:
            await way(guard, Script((1, LATE)).later)
        return caught.value, now(), at_rest(guard)

    (error, ended_at, rests), _ = on_a_loop(main, TIMED, on=on)
    assert (error.attempts, round(ended_at, 3), rests) == (1, 5.0, True)
    assert str(error) == "prices: timeout after 1 attempt(s); no further retry: forbidden"
    assert isinstance(error.__cause__, TimeoutError)


def test_an_attempt_cut_by_the_deadline_does_not_open_the_circuit():
    rules = policy(deadline=8.0, attempt_timeout=5.0, retry=RETRY, breaker=BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=2)))  # fmt: skip

    async def main(guard):
        with pytest.raises(AttemptTimeoutError):
            await guard.async_call(Script((1, LATE), (2, LATE)).later)
        return now(), guard.snapshot()["targets"]["prices"]["circuit"]

    (ended_at, circuit), _ = on_a_loop(main, rules, on=TimeoutError)
    assert (round(ended_at, 3), circuit) == (8.0, "closed")


def test_a_timeout_error_raised_by_the_function_is_raised_unchanged():
    raised = TimeoutError("mine")

    async def main(guard):
        with pytest.raises(TimeoutError) as caught:
            await guard.async_call(Script((raised, 1.0)).later)
        return caught.value

    error, _ = on_a_loop(main, TIMED, on=None)
    assert error is raised


def test_a_blocking_call_is_not_cut_and_not_retried_after_the_deadline():
    rules = policy(deadline=10.0, attempt_timeout=5.0, retry=RETRY)

    def main(guard, sleep):
        script = Script((DownError(), 0.0), (DownError(), 0.0))

        def function():
            sleep(7.0)
            script()

        with pytest.raises(DownError) as caught:
            guard.call(function)
        return script.made, caught.value.__notes__[-1]

    assert in_threads(main, rules)[0] == (2, "no further retry: deadline")


def test_a_blocking_success_counts_even_after_the_deadline():
    def main(guard, sleep):
        return guard.call(lambda: sleep(50.0) or 3)

    assert in_threads(main, policy(deadline=10.0))[0] == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("steps", "when"),
    [([(1, LATE)], 1.0), ([(DownError(), 0.5), (1, 0.0)], 1.0)],
    ids=["sent", "backoff"],
)
def test_a_cancel_propagates_at_once_frees_the_place_and_counts_no_failure(way, steps, when):
    rules = policy(retry=RETRY, limit=FixedLimit(max_in_flight=1), attempt_timeout=50.0,
                   breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=2)))  # fmt: skip

    async def main(guard):
        task = asyncio.create_task(way(guard, Script(*steps).later))
        await asyncio.sleep(when)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        state = guard.snapshot()["targets"]["prices"]
        return now(), at_rest(guard), state["circuit"], await way(guard, Script(5).later)

    (ended_at, rests, circuit, result), _ = on_a_loop(main, rules)
    assert (round(ended_at, 3), rests, circuit, result) == (1.0, True, "closed", 5)


@table_test("way", WAYS)
def test_a_cancelled_call_leaves_the_queue(way):
    async def main(guard):
        first = asyncio.create_task(way(guard, Script((1, 5.0)).later))
        await asyncio.sleep(0)
        second = asyncio.create_task(way(guard, Script((2, 0.0)).later))
        await asyncio.sleep(1.0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        queued = guard.snapshot()["targets"]["prices"]["queued"]
        return queued, await first, at_rest(guard)

    assert on_a_loop(main, ONE)[0] == (0, 1, True)


def test_a_timeout_around_the_call_cancels_it():
    async def main(guard):
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(2.0):
                await guard.async_call(Script((1, LATE)).later)
        return (
            hasattr(caught.value, "__notes__"),
            at_rest(guard),
            asyncio.current_task().cancelling(),
        )

    assert on_a_loop(main, TIMED, on=TimeoutError)[0] == (False, True, 0)


def test_a_call_queued_beyond_its_patience_raises_shed_error():
    rules = policy(limit=FixedLimit(max_in_flight=1), patience=3.0)

    async def main(guard):
        first = asyncio.create_task(guard.async_call(Script((1, 9.0)).later))
        await asyncio.sleep(0)
        with pytest.raises(ShedError) as caught:
            await guard.async_call(Script(2).later)
        await first
        return caught.value

    error, _ = on_a_loop(main, rules)
    assert isinstance(error, RejectedError)
    assert error.attempts == 0


@table_test("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_propagates_and_frees_the_place(error):
    guard = made(QUICK, on=BaseException)
    with pytest.raises(error):
        guard.call(Script(error()))
    assert at_rest(guard)


def test_ctrl_c_during_a_backoff_leaves_nothing_in_flight():
    guard = made(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=60.0))))
    with pytest.raises(KeyboardInterrupt), interrupted():
        guard.call(Script(DownError()))
    assert at_rest(guard)


@table_test("rule", ["on", "failed_result"])
def test_a_rule_that_raises_leaves_nothing_in_flight(rule):
    def broken(_):
        raise LookupError

    guard = made(QUICK, **{rule: broken})
    with pytest.raises(LookupError):
        guard.call(Script(DownError() if rule == "on" else 1))
    assert at_rest(guard)


def test_a_dropped_attempt_loop_frees_its_place():
    guard = made(ONE)
    attempts = iter(guard)
    next(attempts)
    assert not at_rest(guard)
    del attempts
    assert at_rest(guard)
