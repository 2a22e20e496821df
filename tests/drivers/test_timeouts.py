"""Timeouts that share timers: none is early, a long one is late by a grain at most, and nothing is left behind."""

import asyncio
import gc
from math import inf
from weakref import ref

import pytest
import uvloop
from table_test import table_test
from virtual_loop import now, run

from stormbreak.core.stalls import STALL
from stormbreak.drivers.timeouts import EXACT, GRAIN, Timeout, Timeouts

LONG = 2 * EXACT
AMONG = Timeouts()
BEGINS = [0.0, 0.01, GRAIN / 2, GRAIN, 10.0]


async def _ends_after(seconds):
    began = now()
    with pytest.raises(TimeoutError), Timeout(seconds, AMONG):
        await asyncio.sleep(3600.0)
    return now() - began


@table_test("begins", BEGINS)
@table_test("seconds", [0.0, 0.01, 1.0, EXACT - 1])
def test_a_short_timeout_is_exact(seconds, begins):
    async def main():
        await asyncio.sleep(begins)
        assert await _ends_after(seconds) == pytest.approx(seconds, abs=1e-6)

    run(main)


@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.002])
def test_the_shortest_timeouts_end_on_uvloop(seconds):
    """uvloop makes no timer for less than a millisecond."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(_ends_after(seconds), 60.0)) < 60.0


@table_test("begins", BEGINS)
@table_test("seconds", [EXACT, EXACT + GRAIN / 3, 600.0])
def test_a_long_timeout_is_never_early_and_late_by_a_grain_at_most(seconds, begins):
    async def main():
        await asyncio.sleep(begins)
        assert seconds <= await _ends_after(seconds) <= seconds + GRAIN + 1e-6

    run(main)


@table_test("seconds", [1.0, LONG])
def test_timeouts_fire_on_a_loop_that_stalls_all_the_time(seconds):
    async def main():
        loop = asyncio.get_running_loop()

        def stand_still():
            loop._jumping.now += 1.0
            loop.call_later(0.001, stand_still)

        stand_still()
        assert seconds <= await _ends_after(seconds) <= seconds + GRAIN + STALL + 2 * 1.001

    run(main)


@table_test("seconds", [1.0, LONG])
def test_the_last_loop_of_a_thread_is_not_kept(seconds):
    async def main():
        with Timeout(seconds):
            return ref(asyncio.get_running_loop())

    known = asyncio.run(main())
    gc.collect()
    assert known() is None


def test_timeouts_that_end_in_the_same_grain_share_a_timer():
    async def main():
        loop, timers = asyncio.get_running_loop(), []
        call_at = loop.call_at
        loop.call_at = lambda *args, **options: timers.append(args[0]) or call_at(*args, **options)
        for _ in range(1_000):
            with Timeout(LONG, AMONG):
                pass
        assert len(timers) == 1

    run(main)


@table_test("seconds", [EXACT - 1, LONG])
def test_an_ended_timeout_does_not_cancel_its_task(seconds):
    async def main():
        with Timeout(seconds, AMONG):
            await asyncio.sleep(1.0)
        await asyncio.sleep(2 * seconds)
        assert not asyncio.current_task().cancelling()

    run(main)


def test_a_shared_timer_ends_only_waiting_tasks():
    async def main():
        async def quick():
            with Timeout(LONG, AMONG):
                await asyncio.sleep(1.0)
            await asyncio.sleep(2 * LONG)
            return "well"

        slow, well = asyncio.create_task(_ends_after(LONG)), asyncio.create_task(quick())
        assert await slow == pytest.approx(LONG, abs=2 * GRAIN)
        assert await well == "well"

    run(main)


@table_test("seconds", [EXACT - 1, LONG, inf])
def test_timeouts_leave_nothing_behind(seconds):
    async def main():
        for _ in range(100):
            with Timeout(seconds, AMONG):
                pass
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, Timeout)]

    run(main)


@table_test("seconds", [EXACT - 1, LONG])
def test_a_cancel_by_another_task_comes_before_the_timeout(seconds):
    async def main():
        async def waits():
            with Timeout(seconds, AMONG):
                await asyncio.sleep(10 * seconds)

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        fires_at = seconds if seconds < EXACT else (int(seconds / GRAIN) + 1) * GRAIN
        loop.call_at(fires_at, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_an_exception_inside_a_timeout_passes():
    async def main():
        with pytest.raises(KeyError), Timeout(LONG, AMONG):
            raise KeyError

    run(main)


def test_consecutive_loops_in_a_thread_have_timeouts():
    for _ in range(2):
        run(_is_ended)


async def _is_ended():
    assert await _ends_after(LONG) == pytest.approx(LONG, abs=2 * GRAIN)


@table_test("seconds", [None, EXACT - 1, LONG])
def test_a_closed_loop_frees_its_tasks(seconds):
    loop = asyncio.new_event_loop()

    async def wait():
        with Timeout(seconds, AMONG):
            await loop.create_future()

    async def leave():
        task = loop.create_task(wait())
        await asyncio.sleep(0)
        return ref(task)

    held = loop.run_until_complete(leave())
    loop.close()
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("seconds", [None, EXACT - 1, LONG])
async def test_a_timeout_that_is_ended_twice_leaves_no_cancel_behind(seconds):
    among, loop = Timeouts(), asyncio.get_running_loop()
    for _ in range(2):
        loop.call_soon(among.end, loop)
    with pytest.raises(TimeoutError), Timeout(seconds, among):
        await loop.create_future()
    assert asyncio.current_task().cancelling() == 0


def test_a_short_timeout_is_freed_without_the_garbage_collector():
    async def main():
        timeout = Timeout(1.0, AMONG)
        with timeout:
            known = ref(timeout)
        del timeout
        assert known() is None

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
