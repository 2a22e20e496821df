"""The asyncio driver on a loop whose time jumps: what it carries out, and that cancelling leaves nothing."""

import asyncio
from contextlib import suppress

import pytest
from loop_bench import Bench
from stage import INVALID, OK, SERVER_ERROR, TARGET, policy, told
from table_test import table_test
from virtual_loop import now, on_virtual_loop, run

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import Call, Verdict

ONE = policy(
    limit=FixedLimit(max_in_flight=1),
    retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0)),
    breaker=BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1),
        open_duration=10.0,
        open_duration_jitter=0.0,
        probes=1,
        max_concurrent_probes=1,
    ),
)


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ------------------------------------------------------------------ carrying out


@on_virtual_loop
async def test_answers():
    bench = Bench(ONE)
    ended = await bench.call(OK)

    assert (ended.outcome, ended.attempts, ended.waited) == (OK, 1, 0.0)


@on_virtual_loop
async def test_retries_after_the_backoff():
    bench = Bench(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0))))
    ended = await bench.call(SERVER_ERROR, SERVER_ERROR, OK)

    assert bench.sent == [(0.0, 1), (6.0, 2), (12.0, 3)]
    assert ended.waited == pytest.approx(10.0)


@on_virtual_loop
async def test_queues_for_a_slot():
    bench = Bench(ONE)
    await asyncio.gather(*[bench.call(OK) for _ in range(3)])

    assert [at for at, _ in bench.sent] == [0.0, 1.0, 2.0]


@on_virtual_loop
async def test_one_of_the_queue_keeps_time_for_a_cooldown():
    bench = Bench(ONE)
    told_to_wait = bench.call(told(30.0), OK)
    await asyncio.sleep(2.0)
    waiting = bench.call(OK)
    await asyncio.gather(told_to_wait, waiting)

    assert sorted(at for at, _ in bench.sent)[1] == 31.0
    assert len(bench.sent) == 3


@on_virtual_loop
async def test_an_attempt_that_takes_too_long_is_given_up():
    bench = Bench(policy(attempt_timeout=3.0, retry=RetryPolicy(max_attempts=1)))
    ended = await bench.call(OK, takes=10.0)

    assert now() == pytest.approx(3.0)
    assert ended.outcome.verdict is Verdict.TIMEOUT
    assert ended.outcome.maybe_processed
    assert isinstance(ended.outcome.error, TimeoutError)


@on_virtual_loop
async def test_the_deadline_ends_a_wait_in_the_queue():
    bench = Bench(ONE)
    blocker = bench.call(OK, takes=100.0)
    ended = await bench.call(OK, within=7.0)

    assert now() == pytest.approx(7.0)
    assert ended.stopped == "shed"
    await cancelled(blocker)


@on_virtual_loop
async def test_a_sender_that_breaks_its_word_and_raises_leaves_nothing_behind():
    bench = Bench(ONE)

    async def broken(send):
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await bench.run(broken)
    await bench.assert_at_rest()


# ------------------------------------------------------------------ cancelling at each suspension point


@on_virtual_loop
async def test_cancelled_before_it_ever_ran():
    bench = Bench(ONE)
    await cancelled(bench.call(OK))
    await bench.assert_at_rest()
    assert len(bench.sent) == 1


@on_virtual_loop
async def test_cancelled_in_the_queue():
    bench = Bench(ONE)
    blocker = bench.call(OK, takes=10.0)
    waiting, next_one = bench.call(OK), bench.call(OK)
    await asyncio.sleep(1.0)
    await cancelled(waiting)
    assert bench.state.admission.queued == 1
    await asyncio.gather(blocker, next_one)
    assert [at for at, _ in bench.sent] == [0.0, 10.0]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_cancelled_when_granted_but_not_resumed_yet():
    bench = Bench(ONE)
    never = asyncio.Event()

    async def hangs(send):
        await never.wait()

    blocker, granted, next_one = bench.run(hangs), bench.call(OK), bench.call(OK)
    await asyncio.sleep(1.0)
    ticket = next(iter(bench.state.admission._queue))
    blocker.cancel()
    await asyncio.sleep(0)  # the grant comes with the closing of the blocker
    assert ticket.permit is not None
    assert not granted.done()
    await cancelled(granted)
    await next_one
    assert len(bench.sent) == 1
    with suppress(asyncio.CancelledError):
        await blocker
    await bench.assert_at_rest()


@on_virtual_loop
async def test_cancelled_while_sending():
    bench = Bench(ONE)
    sending, waiting = bench.call(OK, takes=10.0), bench.call(OK)
    await asyncio.sleep(1.0)
    await cancelled(sending)
    await waiting
    assert [at for at, _ in bench.sent] == [0.0, 1.0]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_cancelled_while_backing_off():
    bench = Bench(policy(limit=FixedLimit(max_in_flight=1)))
    backing_off = bench.call(told(30.0))
    await asyncio.sleep(2.0)
    await cancelled(backing_off)
    await bench.assert_at_rest()
    assert [at for at, _ in bench.sent] == [0.0, 31.0]  # the cooldown outlives who was told


@on_virtual_loop
async def test_cancelled_in_a_cooldown_while_keeping_time():
    bench = Bench(ONE)
    blocker = bench.call(told(30.0))
    await asyncio.sleep(2.0)
    await cancelled(blocker)
    keeper, other = bench.call(OK), bench.call(OK)
    await asyncio.sleep(1.0)
    await cancelled(keeper)
    await other
    assert [at for at, _ in bench.sent] == [0.0, 31.0]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_cancelled_while_the_probe_is_out():
    bench = Bench(ONE)
    assert (await bench.call(INVALID._replace(verdict=Verdict.BROKEN))).stopped == "breaker"
    probe = bench.call(OK, takes=30.0, fail_fast=False)
    waiting = bench.call(OK, fail_fast=False)
    await asyncio.sleep(11.0)
    assert bench.state.breaker.state is State.HALF_OPEN
    assert len(bench.state.breaker.trial.probes) == 1
    await cancelled(probe)
    assert bench.state.breaker.state is State.HALF_OPEN
    await waiting
    assert bench.state.breaker.state is State.CLOSED
    await bench.assert_at_rest()


@table_test("turns", range(12))
def test_cancelled_at_any_turn_of_the_loop_around_a_grant(turns):
    """The blocker answers, the queue moves, a retry follows; the cancel comes some turns of the loop later."""

    async def main():
        bench = Bench(ONE)
        blocker = bench.call(OK, takes=2.0)
        victim, next_one = bench.call(OK, takes=0.0), bench.call(OK)
        await asyncio.sleep(2.0 - 1e-12)
        for _ in range(turns):
            await asyncio.sleep(0)
        victim.cancel()
        await asyncio.wait([blocker, victim, next_one])
        assert next_one.result().outcome == OK
        await bench.assert_at_rest()

    run(main)


# ------------------------------------------------------------------ timeouts of others


@table_test("impatience", [0.5, 2.0, 5.5, 11.0])
def test_the_callers_own_wait_for_leaves_nothing_behind(impatience):
    """It ends the call while queueing, sending, backing off, or in the second attempt."""

    async def main():
        bench = Bench(
            policy(
                limit=FixedLimit(max_in_flight=1),
                retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0)),
            )
        )
        blocker = bench.call(OK, takes=1.0)
        victim = bench.call(SERVER_ERROR, OK, takes=4.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(victim, impatience)
        await blocker
        await bench.assert_at_rest()

    run(main)


@on_virtual_loop
async def test_the_callers_own_timeout_is_theirs_and_not_the_attempts():
    bench = Bench(policy(attempt_timeout=5.0))

    async def sender(send):
        await asyncio.sleep(60.0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3.0):
            await bench.driver.run(Call(1, TARGET), sender)
    assert now() == pytest.approx(3.0)
    await bench.assert_at_rest()


@table_test("earlier", [0.0, 1e-10])
def test_a_cancel_at_the_very_tick_of_the_attempt_timeout_wins(earlier):
    async def main():
        bench = Bench(policy(attempt_timeout=5.0))
        sent = []

        async def sender(send):
            asyncio.get_running_loop().call_at(now() + 5.0 - earlier, victim.cancel)
            sent.append(send.attempt)
            await asyncio.sleep(60.0)

        victim = bench.run(sender)
        with pytest.raises(asyncio.CancelledError):
            await victim
        assert sent == [1]
        await bench.assert_at_rest()

    run(main)


@on_virtual_loop
async def test_the_callers_timeout_at_the_very_tick_of_the_attempt_timeout():
    bench = Bench(policy(attempt_timeout=5.0))

    async def sender(send):
        bench.sent.append(send.attempt)
        await asyncio.sleep(60.0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(5.0):
            await bench.driver.run(Call(1, TARGET), sender)
    assert bench.sent == [1]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_sender_that_is_slow_to_let_go_keeps_its_slot_until_it_has():
    bench = Bench(
        policy(
            limit=FixedLimit(max_in_flight=1),
            attempt_timeout=5.0,
            retry=RetryPolicy(max_attempts=1),
        )
    )

    async def slow_to_let_go(send):
        try:
            await asyncio.sleep(60.0)
        finally:
            await asyncio.sleep(2.0)  # closes its connection

    first, waiting = bench.run(slow_to_let_go), bench.call(OK)
    await asyncio.sleep(6.0)
    assert bench.state.slots.in_flight == 1
    assert (await first).outcome.verdict is Verdict.TIMEOUT
    assert now() == pytest.approx(7.0)
    await waiting
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_sender_that_answers_after_all_when_given_up_is_heard():
    bench = Bench(policy(attempt_timeout=5.0))

    async def answers_after_all(send):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        return OK

    assert (await bench.run(answers_after_all)).outcome == OK
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_timeout_inside_the_sender_is_a_timeout():
    bench = Bench(policy(retry=RetryPolicy(max_attempts=1), attempt_timeout=50.0))

    async def sender(send):
        raise TimeoutError

    ended = await bench.run(sender)
    assert ended.outcome.verdict is Verdict.TIMEOUT
