"""Models of the article's two circuit breakers, beside stormbreak under the preset `article`."""

import asyncio
import gc
import time
from contextlib import suppress
from dataclasses import replace
from inspect import signature

import pytest
from article_models import RECOVERY, LooseBreaker, RatedBreaker
from circuits import Clock
from stage import OK, OTHER, SERVER_ERROR, TARGET, Stage
from table_test import table_test
from virtual_loop import now, run

from stormbreak import CircuitBreaker, CircuitOpenError, Judge
from stormbreak.core.breaker_policy import State
from stormbreak.core.engine import Engine
from stormbreak.core.presets import ARTICLE, for_batch
from stormbreak.core.trip import FailureRate
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.types import Call


def bare(model, clock):
    """A model that has just opened."""
    breaker = model(clock)
    for _ in range(5):
        (breaker.failed if isinstance(breaker, LooseBreaker) else breaker._failure)()
    assert breaker.state == "open"
    return breaker


def fail(error=ConnectionError):
    raise error


def ours(clock, policy=ARTICLE.breaker, **more):
    return CircuitBreaker(policy, clock=clock, wall_clock=clock, chance=lambda: 0.5, **more)


def opened(clock, **more):
    """A breaker of stormbreak that has just opened."""
    breaker = ours(clock, **more)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            breaker.call(fail)
    assert breaker.state is State.OPEN
    return breaker


async def answer_call():
    return "answer"


# ------------------------------------------------------------ half-open


async def test_a_successful_probe_divides_by_zero_and_opens_again():
    clock = Clock()
    theirs, mine = bare(RatedBreaker, clock), opened(clock)
    for _ in range(20):
        clock.now += RECOVERY
        with pytest.raises(ZeroDivisionError):  # the answer was there, and is lost
            await theirs.async_call(answer_call())
        assert theirs.state == "open"

    assert [await mine.async_call(answer_call) for _ in range(2)] == ["answer"] * 2
    assert mine.state is State.CLOSED


async def test_asynchronous_probes_are_not_counted():
    clock = Clock()
    theirs, mine = bare(RatedBreaker, clock), opened(clock)
    clock.now += RECOVERY
    inside, leave = [], asyncio.Event()

    async def probe(who):
        inside.append(who)
        await leave.wait()

    def calls():
        for _ in range(50):
            yield theirs.async_call(probe("theirs"))
            yield mine.async_call(probe, "mine")

    tasks = [asyncio.create_task(call) for call in calls()]
    await asyncio.sleep(0)
    assert (inside.count("theirs"), inside.count("mine")) == (50, 3)
    leave.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(end, CircuitOpenError) for end in ended) == 47


def test_three_interrupted_probes_keep_the_circuit_open_forever():
    clock = Clock()
    theirs, mine = bare(RatedBreaker, clock), opened(clock)
    clock.now += RECOVERY
    for breaker in (theirs, mine):
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                breaker.call(lambda: fail(KeyboardInterrupt))
    assert mine.call(lambda: "answer") == "answer"
    clock.now += 86_400
    with pytest.raises(PermissionError, match="no probe left"):
        theirs.call(lambda: "answer")


# ------------------------------------------------------------ late results


def test_a_late_success_closes_an_open_circuit():
    theirs = bare(LooseBreaker, Clock())
    theirs.succeeded()  # sent before it opened
    assert theirs.state == "closed"

    stage = Stage(ARTICLE)
    late, *failing = [stage.start() for _ in range(6)]
    for each in failing:
        each.step(SERVER_ERROR)
    late.step(OK)
    assert stage.state.breaker.state is State.OPEN


@table_test("model", [LooseBreaker, RatedBreaker])
def test_late_failures_extend_the_open_time(model):
    clock = Clock()
    theirs = bare(model, clock)
    clock.now += 20
    for _ in range(5):  # sent before it opened
        (theirs.failed if model is LooseBreaker else theirs._failure)()
    clock.now += 10.1
    if model is LooseBreaker:
        assert not theirs.passes()
    else:
        with pytest.raises(PermissionError):
            theirs.call(lambda: None)

    stage = Stage(ARTICLE)
    runs = [stage.start() for _ in range(10)]
    for each in runs[:5]:
        each.step(SERVER_ERROR)
    stage.pass_time(20.0)
    for each in runs[5:]:
        each.step(SERVER_ERROR)
    stage.pass_time(10.1)
    assert stage.start().sending


# ------------------------------------------------------------ waiting calls


async def sleeping(breaker, sent, send):
    """A call that finds the circuit open sleeps the whole recovery time, then sets it half-open and sends."""
    if not breaker.passes():
        await asyncio.sleep(RECOVERY)
        breaker.state = "half-open"
    sent.append(now())
    send()


def test_waiting_calls_sleep_the_whole_recovery_time_and_are_sent_at_once():
    sent = []

    async def theirs():
        breaker = bare(LooseBreaker, now)

        async def coming(at):
            await asyncio.sleep(at)
            await sleeping(breaker, sent, lambda: None)

        await asyncio.gather(*(coming(0.0) for _ in range(49)), coming(29.0))

    run(theirs)
    assert len([at for at in sent if at < 30.01]) == 49  # in one instant
    assert sent[-1] > 58.9  # the circuit could have been tried at 30

    timeline, engine, left, ended = Timeline(), Engine(for_batch(ARTICLE)), [], []
    driver = VirtualDriver(engine, timeline)

    def sender(send, reply):
        left.append(timeline.now)
        answer = SERVER_ERROR if timeline.now < 30 else OK
        timeline.at(timeline.now + 1.0, lambda: reply(answer))

    for number in range(50):
        driver.start(Call(number, TARGET, fail_fast=False), sender, ended.append)
    timeline.run()
    assert [end.outcome for end in ended] == [OK] * 50
    probes = [at for at in left if 30.9 < at < 32.0]
    assert len(probes) == 3
    assert max(left) < 45.0  # all of them, ten at a time
    assert not [at for at in left if 1.0 < at < 31.0]


def test_a_call_at_an_open_circuit_sleeps_instead_of_failing_fast():
    waited = []

    async def theirs():
        breaker = bare(LooseBreaker, now)
        await sleeping(breaker, waited, lambda: None)

    run(theirs)
    assert waited == [pytest.approx(30.0)]

    stage = Stage(ARTICLE)
    stage.fail_until_open()
    refused = stage.start(fail_fast=ARTICLE.fail_fast).ended
    assert (refused.attempts, refused.waited) == (0, 0.0)
    assert refused.retry_at == stage.now + 30.0


def test_a_waiting_call_is_sent_although_the_trial_failed():
    sent = []

    async def theirs():
        breaker = bare(LooseBreaker, now)

        async def coming(at):
            await asyncio.sleep(at)
            await sleeping(breaker, sent, breaker.failed)

        await asyncio.gather(coming(0.0), coming(10.0))

    run(theirs)
    assert sent == pytest.approx([30.0, 40.0])  # opened again at 30, for 30 s

    stage = Stage(for_batch(ARTICLE))
    stage.fail_until_open()
    waiting = [stage.start(fail_fast=False) for _ in range(3)]
    stage.pass_time(30.0)
    waiting[0].step(SERVER_ERROR)
    for each in waiting[1:]:
        each.close()
    later = stage.start(fail_fast=False)
    stage.pass_time(29.9)
    assert not later.sending
    stage.pass_time(0.2)
    assert later.sending


# ------------------------------------------------------------ state and inputs


def test_reading_the_state_changes_it():
    clock = Clock()
    theirs, mine = bare(LooseBreaker, clock), opened(clock)
    clock.now += RECOVERY
    theirs.passes()  # for example for a dashboard
    assert theirs.state == "half-open"

    assert (mine.state, mine.retry_in) == (State.OPEN, 0.0)
    assert mine.state is State.OPEN


def test_a_wall_clock_that_is_set_back_keeps_the_circuit_open():
    wall, steady = Clock(), Clock()
    theirs, mine = bare(LooseBreaker, wall), opened(steady)
    mine._wall_clock = wall
    for owner in (CircuitBreaker, AsyncioDriver):
        assert signature(owner).parameters["clock"].default is time.monotonic
    wall.now -= 3600  # the clock is put right
    for clock in (wall, steady):
        clock.now += RECOVERY
    assert not theirs.passes()
    assert mine.call(lambda: "answer") == "answer"


def test_a_failure_rate_of_half_never_opens_the_circuit():
    clock = Clock()
    theirs = RatedBreaker(clock)
    mine = ours(clock, replace(ARTICLE.breaker, trip=FailureRate(ratio=0.5)))
    for breaker in (theirs, mine):
        for number in range(1000):
            clock.now += 0.1
            with suppress(ConnectionError, CircuitOpenError):
                breaker.call(fail if number % 2 else bool)
    assert theirs.state == "closed"
    assert mine.trips > 0


async def test_a_failure_that_is_returned_counts_as_a_success():
    def failed_result():
        return {"status": "error", "code": "MAX_RETRIES_EXCEEDED"}

    clock = Clock()
    theirs = RatedBreaker(clock)
    mine = ours(clock, judge=Judge(failed_result=lambda answer: answer["status"] == "error"))
    for _ in range(5):
        theirs.call(failed_result)
        mine.call(failed_result)
    assert theirs.state == "closed"
    assert mine.state is State.OPEN


def test_the_expected_exception_is_never_used():
    clock = Clock()
    theirs = RatedBreaker(clock)
    theirs.expected = ConnectionError
    mine = ours(clock, judge=Judge(failures=(ConnectionError,)))
    for breaker in (theirs, mine):
        for _ in range(5):
            with pytest.raises(KeyError):
                breaker.call(lambda: fail(KeyError))  # a bug of the caller
    assert theirs.state == "open"
    assert mine.state is State.CLOSED


def test_all_models_share_one_circuit():
    theirs = LooseBreaker(Clock())
    for _ in range(5):
        theirs.failed()  # all of one model
    assert not theirs.passes()  # whatever the model

    stage = Stage(ARTICLE)
    stage.fail_until_open()
    assert stage.start().ended.stopped == "breaker"
    assert stage.start(target=OTHER).sending


async def test_a_rejected_coroutine_is_never_awaited():
    clock = Clock()
    theirs, mine = bare(RatedBreaker, clock), opened(clock)
    with pytest.warns(RuntimeWarning, match="never awaited"):  # noqa: PT031 - until it is collected
        with pytest.raises(PermissionError):
            await theirs.async_call(answer_call())
        gc.collect()

    with pytest.raises(CircuitOpenError):  # warnings are errors in this suite
        await mine.async_call(answer_call)
    gc.collect()
