"""Streams: a driver resumes the flow at the first output and at the end."""

import asyncio
import gc

import pytest
from loop_bench import Bench
from stage import OK, SERVER_ERROR, TARGET, policy
from table_test import table_test
from virtual_loop import now, on_virtual_loop, run

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.drivers.delivery import LoopDelivery
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.events import CallCancelled, CallEnded
from stormbreak.types import Call, CallResult, Outcome, Verdict

BEGUN = OK._replace(committed=True)
BROKEN = Outcome(Verdict.BROKEN, status=200)
RULES = policy(
    limit=FixedLimit(max_in_flight=1),
    retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=1.0)),
    attempt_timeout=10.0,
    breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=2), open_duration_jitter=0.0),
)


@on_virtual_loop
async def test_a_delivery_opens_at_the_first_output_and_ends_once():
    bench = Bench(RULES)
    delivery = await bench.open(BEGUN)
    assert isinstance(delivery, LoopDelivery)
    assert (delivery.command.outcome, bench.in_flight, delivery.over) == (BEGUN, 1, False)
    ended = delivery.end(OK)
    assert (ended.outcome.verdict, ended.attempts, bench.in_flight) == (Verdict.OK, 1, 0)
    assert delivery.end(BROKEN) is ended
    delivery.close()

    assert delivery.over
    assert bench.state.breaker.state is State.CLOSED


@on_virtual_loop
async def test_a_failure_before_the_first_output_is_retried():
    bench = Bench(RULES)
    delivery = await bench.open(SERVER_ERROR, BEGUN)
    assert delivery.command[2:5] == (2, pytest.approx(1.0), 0)

    assert delivery.end(BROKEN).stopped == "committed"


@on_virtual_loop
async def test_a_stream_that_ends_without_output_returns_a_result():
    bench = Bench(RULES)
    ended = await bench.open(OK)

    assert isinstance(ended, CallResult)
    assert bench.in_flight == 0


@on_virtual_loop
async def test_the_attempt_timeout_ends_with_the_first_output():
    bench = Bench(RULES)
    delivery = await bench.open(SERVER_ERROR, BEGUN, takes=9.0)
    await asyncio.sleep(100.0)
    assert not delivery.over
    delivery.close()
    ended = await bench.open(BEGUN, takes=11.0, within=10.5)

    assert ended.outcome.verdict is Verdict.TIMEOUT


@on_virtual_loop
async def test_the_deadline_ends_a_delivery():
    bench = Bench(RULES)
    delivery = await bench.open(BEGUN, within=20.0)
    cut = []
    delivery.cut = lambda: cut.append(now())
    await asyncio.sleep(100.0)

    assert cut == [pytest.approx(20.0)]
    assert delivery.ended.outcome.own_deadline
    assert (delivery.ended.stopped, bench.in_flight) == ("committed", 0)


@on_virtual_loop
async def test_the_deadline_ends_a_complete_answer_as_a_success():
    bench = Bench(RULES)
    delivery = await bench.open(BEGUN, within=20.0)
    cut = []
    delivery.cut, delivery.complete = lambda: cut.append(now()), lambda: OK
    await asyncio.sleep(100.0)

    assert cut == [pytest.approx(20.0)]
    assert (delivery.ended.outcome.verdict, bench.in_flight) == (Verdict.OK, 0)


@on_virtual_loop
async def test_a_delivery_dropped_during_a_step_ends_with_its_outcome():
    bench = Bench(RULES)
    delivery, ends = await bench.open(BEGUN, within=50.0), []
    bench.engine.listeners.append(ends.append)
    bench.driver.between_steps(lambda *_: delivery.drop(OK))
    await asyncio.sleep(0)

    assert (delivery.over, bench.in_flight) == (True, 0)
    assert [end.verdict for end in ends if isinstance(end, CallEnded)] == [Verdict.OK]
    assert not any(isinstance(end, CallCancelled) for end in ends)


@on_virtual_loop
async def test_the_deadline_timer_ends_with_the_delivery():
    bench = Bench(RULES)
    delivery = await bench.open(BEGUN, within=20.0)
    cut = []
    delivery.cut = lambda: cut.append(now())
    delivery.end(OK)
    await asyncio.sleep(100.0)

    assert not cut


@table_test("way", ["close", "drop"])
def test_a_cancelled_stream_passes_its_slot_on(way):
    async def main():
        bench = Bench(RULES)
        delivery = await bench.open(BEGUN, within=50.0)
        waiting = asyncio.create_task(bench.open(OK))
        await asyncio.sleep(5.0)
        assert bench.state.admission.queued == 1
        if way == "close":
            delivery.close()
        del delivery
        ended = await waiting
        assert (ended.outcome, bench.in_flight) == (OK, 0)
        assert bench.state.breaker.state is State.CLOSED

    run(main)


@on_virtual_loop
async def test_the_garbage_collector_may_drop_a_delivery_during_a_step():
    bench = Bench(RULES)
    kept = [await bench.open(BEGUN)]
    bench.driver.between_steps(lambda *_: (kept.clear(), gc.collect()))

    assert bench.in_flight == 0


def test_a_delivery_may_be_dropped_after_its_loop_has_ended():
    async def main():
        return bench, await bench.open(BEGUN, within=5.0)

    async def make():
        return Bench(RULES)

    bench = run(make)
    _, delivery = run(main)
    del delivery

    assert bench.in_flight == 0


@on_virtual_loop
async def test_a_drained_driver_lets_a_delivery_end():
    bench = Bench(RULES)
    delivery = await bench.open(BEGUN)
    bench.driver.drain()

    assert delivery.end(OK).outcome.verdict is Verdict.OK


# ------------------------------------------------------------------ virtual time


class Scene:
    """A virtual driver, the replies to its attempts, and cancelled attempts."""

    def __init__(self, *, at_once=False):
        self.timeline = Timeline()
        self.engine = Engine(RULES)
        self.driver = VirtualDriver(self.engine, self.timeline)
        self.replies, self.cancelled, self.ended = [], [], []
        self.at_once = at_once

    def start(self, within=None):
        call = Call(self.engine.number(), TARGET, within, delivers=True, streams=True)
        return self.driver.start(call, self.send, self.ended.append)

    def send(self, send, reply):
        self.replies.append(reply)
        if self.at_once:
            reply(BEGUN)
        return lambda: self.cancelled.append(self.timeline.now)

    @property
    def in_flight(self):
        return self.engine.target_state(TARGET).slots.in_flight


@table_test("at_once", [True, False])
@table_test(("last", "stopped"), [(OK, None), (BROKEN, "committed")])
def test_a_virtual_sender_replies_twice(last, stopped, at_once):
    scene = Scene(at_once=at_once)
    scene.start()
    if not at_once:
        scene.replies[0](BEGUN)
    scene.timeline.run(until=500.0)
    assert (scene.ended, scene.in_flight) == ([], 1)
    scene.replies[0](last)
    scene.replies[0](SERVER_ERROR)

    assert [(ended.outcome.verdict, ended.stopped) for ended in scene.ended] == [
        (last.verdict, stopped)
    ]
    assert (scene.in_flight, scene.cancelled) == (0, [])


@table_test("at_once", [True, False])
@table_test("way", ["deadline", "cancel"])
def test_a_deadline_or_a_cancel_ends_a_virtual_delivery(way, at_once):
    scene = Scene(at_once=at_once)
    cancel = scene.start(within=20.0)
    if not at_once:
        scene.replies[0](BEGUN)
    if way == "cancel":
        scene.timeline.run(until=5.0)
        cancel()
    scene.timeline.run()
    scene.replies[0](OK)

    assert scene.cancelled == [20.0 if way == "deadline" else 5.0]
    assert [ended.outcome.own_deadline for ended in scene.ended] == [True] * (way == "deadline")
    assert scene.in_flight == 0
