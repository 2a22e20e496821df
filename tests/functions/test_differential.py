"""One script gives the same events and results, whichever way a function is guarded."""

import asyncio
from collections import Counter
from random import Random

import pytest
from guarding import DownError, Script, in_threads, on_a_loop
from stage import policy
from table_test import table_test

from stormbreak import Verdict
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import ConsecutiveFailures

CALLS = 60
RULES = policy(
    deadline=30.0,
    patience=8.0,
    fail_fast=True,
    retry_budget=BudgetPolicy(ratio=0.3),
    breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=4), open_duration=3.0),
    retry=RetryPolicy(max_attempts=3, backoff=Backoff(initial_delay=0.5)),
)


class BusyError(Exception):
    """Names a time to retry."""

    after = 2.0


ON = {DownError: True, TimeoutError: Verdict.TIMEOUT, BusyError: Verdict.THROTTLED}
MORE = {
    "on": ON,
    "failed_result": lambda result: result is None,
    "retry_after": lambda error: getattr(error, "after", None),
}


def steps_of(seed):
    chance = Random(seed)
    while True:
        unhealthy = chance.random() < 0.5
        kind = chance.choices(
            ["fine", None, DownError, TimeoutError, BusyError, ValueError],
            [9, 2, 6 * unhealthy + 1, 2, 1, 1],
        )[0]
        what = kind(f"step {chance.random():.3f}") if isinstance(kind, type) else kind
        yield what, chance.expovariate(2.0)


class Endless(Script):
    """A script without an end."""

    def __init__(self, seed):
        super().__init__()
        self._steps = steps_of(seed)

    def step(self):
        self.made += 1
        return next(self._steps)


def end_of(error):
    return type(error).__name__, str(error), getattr(error, "__notes__", [])


def by_call(guard, function):
    return guard.call(function)


def by_decorator(guard, function):
    return guard(function)()


def by_block(guard, function):
    for attempt in guard:
        with attempt:
            result = function()
            attempt.judge(result)
    return result


async def by_async_call(guard, function):
    return await guard.async_call(function)


async def by_async_decorator(guard, function):
    @guard
    async def decorated():
        return await function()

    return await decorated()


async def by_async_block(guard, function):
    async for attempt in guard:
        with attempt:
            result = await function()
            attempt.judge(result)
    return result


def blocking(way, seed):
    script = Endless(seed)

    def main(guard, sleep):
        def function():
            what, takes = script.step()
            sleep(takes)
            return script.come_to(what)

        ends = []
        for _ in range(CALLS):
            sleep(0.1937)
            try:
                ends.append(way(guard, function))
            except Exception as error:  # noqa: BLE001 - any exception is a result
                ends.append(end_of(error))
        return ends

    return in_threads(main, RULES, **MORE)


def asynchronous(way, seed):
    script = Endless(seed)

    async def main(guard):
        ends = []
        for _ in range(CALLS):
            await asyncio.sleep(0.1937)
            try:
                ends.append(await way(guard, script.later))
            except Exception as error:  # noqa: BLE001 - any exception is a result
                ends.append(end_of(error))
        return ends

    return on_a_loop(main, RULES, **MORE)


def facts(events):
    """The events without their times."""
    return [(type(one).__name__, *[v for v in one if not isinstance(v, float)]) for one in events]


def times(events):
    return [value for event in events for value in event if isinstance(value, float)]


WAYS = [
    (blocking, by_decorator), (blocking, by_block), (asynchronous, by_async_call),
    (asynchronous, by_async_decorator), (asynchronous, by_async_block),
]  # fmt: skip


@table_test("seed", range(4))
@table_test(("world", "way"), WAYS)
def test_every_way_to_guard_gives_the_same_events_and_results(world, way, seed):
    ends, events = blocking(by_call, seed)
    other_ends, other_events = world(way, seed)
    assert facts(events) == facts(other_events)
    assert times(events) == pytest.approx(times(other_events), abs=1e-6)
    assert ends == other_ends


def test_the_script_covers_every_kind_of_result_and_rejection():
    kinds, gates = Counter(), set()
    for seed in range(4):
        ends, events = blocking(by_call, seed)
        kinds.update(end[0] if isinstance(end, tuple) else end for end in ends)
        gates |= {getattr(event, "gate", None) for event in events}
    assert {"fine", None, "DownError", "TimeoutError", "ValueError", "CircuitOpenError"} <= set(
        kinds
    )
    assert {"verdict", "attempts", "budget"} <= gates
