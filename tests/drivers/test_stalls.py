"""A stalled process is late itself: an answer that waited for it is no evidence against the target."""

import asyncio
from functools import partial
from math import inf

from loop_bench import Bench
from stage import OK, policy
from table_test import table_test
from virtual_loop import on_virtual_loop, run
from watch import Watch

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.diagnosis import Cause
from stormbreak.core.stalls import STALL, Stalls

POLICY = policy(limit=AutomaticLimit())
CALLS, TOOK = 50, 0.02


class Busy(Bench):
    """Keeps `CALLS` calls in flight; the target answers each after `takes` seconds."""

    def __init__(self):
        super().__init__(POLICY)
        self.takes = TOOK
        self.tasks = [asyncio.create_task(self.keep_calling()) for _ in range(CALLS)]

    async def keep_calling(self):
        while True:
            await self.call(OK, takes=self.takes)

    def stand_still(self, seconds):
        """As `time.sleep` in a callback of the loop does."""
        asyncio.get_running_loop()._jumping.now += seconds

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@table_test("seconds", [0.26, 1.0, 20.0, 100.0])
@on_virtual_loop
async def test_a_stall_is_no_evidence(seconds):
    busy = Busy()
    await asyncio.sleep(2.0)
    for _ in range(3):
        busy.stand_still(seconds)
        await asyncio.sleep(1.0)

    diagnosis = busy.state.diagnosis
    assert diagnosis.judge.usual is not None
    assert (diagnosis.evidence_at, diagnosis.cause(busy.driver.clock())) == (-inf, Cause.NONE)
    assert busy.state.slots.limit == AutomaticLimit().max_in_flight
    await busy.end()


@table_test(("takes", "cause"), [(0.5, Cause.OVERLOAD), (100.0, Cause.DEAD)])
@on_virtual_loop
async def test_a_late_or_silent_target_is_evidence_soon(takes, cause):
    busy = Busy()
    await asyncio.sleep(2.0)
    busy.takes = takes
    await asyncio.sleep(1.5)

    assert busy.state.diagnosis.cause(busy.driver.clock()) is cause
    await busy.end()


@on_virtual_loop
async def test_a_silent_target_is_dead_a_moment_after_a_stall():
    busy = Busy()
    await asyncio.sleep(2.0)
    busy.takes = 100.0
    await asyncio.sleep(0.1)
    busy.stand_still(5.0)
    await asyncio.sleep(STALL + 0.2)

    assert busy.state.diagnosis.is_dead(busy.driver.clock())
    await busy.end()


def test_beats_distinguish_a_stall_from_silence():
    stalls, loops = Stalls(), [True]
    runs = partial(all, loops)
    assert not stalls.is_recent(1000.0)  # nothing beats
    stalls.beat(1000.0, runs)
    stalls.beat(1000.2, runs)
    assert not stalls.is_recent(1000.4)
    assert stalls.is_recent(1000.5)  # before the next beat
    stalls.beat(1001.0, runs)
    assert stalls.is_recent(1001.2)  # also after it
    stalls.beat(1001.2, runs)
    assert not stalls.is_recent(1001.3)
    stalls.rest()
    stalls.beat(2000.0, runs)
    assert not stalls.is_recent(2000.0)
    loops[0] = False
    assert not stalls.is_recent(2001.0)
    stalls.beat(2002.0, runs)  # another loop
    assert not stalls.is_recent(2002.0)


def test_an_ended_loop_does_not_count_as_stalled():
    async def call():
        bench = Bench(POLICY)
        await bench.call(OK, takes=0.01)
        return bench.engine.stalls

    stalls = run(call)
    assert not any(stalls.is_recent(after) for after in (0.3, 1.0, 59.0, 1000.0))


@on_virtual_loop
async def test_nothing_beats_without_calls_in_flight():
    bench, loop = Bench(POLICY), asyncio.get_running_loop()
    await bench.call(OK, takes=1.0)
    await asyncio.sleep(1.0)
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]
    assert not bench.engine.stalls.is_recent(loop.time() + 10.0)


def test_a_stall_may_delay_the_end_of_a_stream_judged_by_its_whole_answer():
    watch = Watch().know()  # plain answers: no first output is known
    watch.diagnosis._stalls.beat(watch.now, lambda: True)
    flights = watch.send(20, streams=True)
    watch.now += 0.1
    watch.first(flights)
    watch.now += 3.0  # without a beat
    watch.end(flights)

    assert watch.diagnosis.late_at == -inf
