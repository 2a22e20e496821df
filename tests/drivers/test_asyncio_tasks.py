"""Hedges on an event loop: the first answer counts, and nothing is left of the other attempts."""

import asyncio
from dataclasses import replace

import pytest
from loop_bench import Bench
from stage import OK, SERVER_ERROR, TARGET, policy
from virtual_loop import now, on_virtual_loop

from stormbreak.core.backoff import Backoff
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.events import Overtaken
from stormbreak.types import Call, Outcome, Verdict

HEDGED = policy(hedge=HedgePolicy(delay=1.0, percentile=None), attempt_timeout=60.0)


def serving(rules):
    """A bench whose target has just answered: without a healthy target no hedge is sent."""
    bench = Bench(rules)
    diagnosis = bench.state.diagnosis
    diagnosis.settle(diagnosis.take(None, now()), OK, now(), 0.5)
    return bench


class Source:
    """The rest of a stream."""

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


class Attempts:
    """A sender with a script of (seconds or event, outcome) for each attempt; it records cancelled attempts."""

    def __init__(self, *scripts):
        self._scripts = scripts
        self.began, self.stopped = [], []

    async def __call__(self, send):
        takes, outcome = self._scripts[send.attempt - 1]
        self.began.append((round(now(), 3), send.attempt))
        try:
            await (takes.wait() if isinstance(takes, asyncio.Event) else asyncio.sleep(takes))
        except asyncio.CancelledError:
            self.stopped.append(send.attempt)
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@on_virtual_loop
async def test_a_slow_attempt_is_overtaken_and_cancelled():
    bench, attempts = serving(HEDGED), Attempts((30.0, OK), (0.5, OK))
    ended = await bench.run(attempts)

    assert now() == pytest.approx(1.5, abs=0.01)
    assert attempts.began == [(0.0, 1), (1.0, 2)]
    assert (ended.attempts, ended.maybe_processed) == (2, 1)
    await asyncio.sleep(0)
    assert attempts.stopped == [1]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_the_first_attempt_of_a_process_gets_a_hedge():
    bench, attempts = Bench(HEDGED), Attempts((30.0, OK), (0.1, OK))
    await bench.run(attempts)

    assert attempts.began == [(0.0, 1), (1.0, 2)]


@on_virtual_loop
async def test_a_fast_attempt_gets_no_hedge():
    bench, attempts = serving(HEDGED), Attempts((0.9, OK))
    await bench.run(attempts)

    assert attempts.began == [(0.0, 1)]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_the_slow_attempt_may_win():
    bench, attempts = serving(HEDGED), Attempts((1.2, OK), (30.0, OK))
    await bench.run(attempts)
    await asyncio.sleep(0)

    assert attempts.stopped == [2]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_the_call_waits_for_the_other_attempt_after_a_failure():
    bench, attempts = serving(HEDGED), Attempts((5.0, OK), (0.5, SERVER_ERROR))
    ended = await bench.run(attempts)

    assert ended.outcome == OK
    assert now() == pytest.approx(5.0, abs=0.01)
    assert attempts.stopped == []


@on_virtual_loop
async def test_each_attempt_has_its_own_timeout():
    rules = policy(
        hedge=HedgePolicy(delay=1.0, percentile=None),
        attempt_timeout=2.0,
        retry=RetryPolicy(max_attempts=2),
    )
    bench, attempts = serving(rules), Attempts((30.0, OK), (1.5, OK))
    ended = await bench.run(attempts)

    assert ended.outcome == OK
    assert now() == pytest.approx(2.5, abs=0.01)
    assert attempts.stopped == [1]


@pytest.mark.parametrize("after", [0.5, 1.5])
@on_virtual_loop
async def test_a_cancel_stops_all_attempts(after):
    bench, attempts = serving(HEDGED), Attempts((30.0, OK), (30.0, OK))
    task = bench.run(attempts)
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)

    assert attempts.stopped == [1, 2][: len(attempts.began)]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_an_exception_of_a_sender_reaches_the_caller_and_cancels_the_other_attempt():
    bench, attempts = serving(HEDGED), Attempts((30.0, OK), (0.5, ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        await bench.run(attempts)
    await asyncio.sleep(0)

    assert attempts.stopped == [1]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_two_answers_at_one_instant_count_once():
    instant, overtaken = asyncio.Event(), []
    asyncio.get_running_loop().call_later(1.5, instant.set)
    bench, attempts = serving(HEDGED), Attempts((instant, OK), (instant, OK))
    bench.engine.listeners.append(
        lambda event: overtaken.append(event) if isinstance(event, Overtaken) else None
    )
    ended = await bench.run(attempts)

    assert ended.outcome == OK
    assert len(overtaken) == 1
    await bench.assert_at_rest()


@on_virtual_loop
async def test_of_two_streams_that_begin_at_one_instant_one_is_closed():
    bench, sources, instant = serving(HEDGED), [Source(), Source()], asyncio.Event()
    asyncio.get_running_loop().call_later(1.5, instant.set)
    first = [Outcome(Verdict.OK, value=source, committed=True) for source in sources]
    attempts = Attempts((instant, first[0]), (instant, first[1]))
    delivery = await bench.driver.open(Call(1, TARGET, delivers=True), attempts)
    await asyncio.sleep(0.1)
    winner = sources.index(delivery.command.outcome.value)

    assert [source.closed for source in sources] == [winner != 0, winner != 1]
    assert bench.in_flight == 1
    delivery.end(OK)
    await bench.assert_at_rest()


@on_virtual_loop
async def test_draining_ends_a_hedged_call_in_its_backoff():
    bench = Bench(
        replace(HEDGED, retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0)))
    )
    task = bench.run(Attempts((0.5, SERVER_ERROR), (30.0, OK)))
    await asyncio.sleep(1.0)
    bench.driver.drain()

    assert (await task).outcome.verdict is Verdict.CANCELLED
    assert bench.in_flight == 0
