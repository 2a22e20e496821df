"""The asyncio driver on a virtual loop: commands, and that a cancel leaves nothing behind."""

import asyncio
from contextlib import suppress

import pytest
from loop_bench import Bench
from stage import INVALID, OK, SERVER_ERROR, TARGET, policy, retry_in
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


# ------------------------------------------------------------------ commands


@on_virtual_loop
async def test_a_call_is_answered():
    bench = Bench(ONE)
    ended = await bench.call(OK)

    assert (ended.outcome, ended.attempts, ended.waited) == (OK, 1, 0.0)


@on_virtual_loop
async def test_a_call_retries_after_the_backoff():
    bench = Bench(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0))))
    ended = await bench.call(SERVER_ERROR, SERVER_ERROR, OK)

    assert bench.sent == [(0.0, 1), (6.0, 2), (12.0, 3)]
    assert ended.waited == pytest.approx(10.0)


@on_virtual_loop
async def test_a_call_queues_for_a_slot():
    bench = Bench(ONE)
    await asyncio.gather(*[bench.call(OK) for _ in range(3)])

    assert [at for at, _ in bench.sent] == [0.0, 1.0, 2.0]


@on_virtual_loop
async def test_one_queued_call_keeps_the_timer_of_a_cooldown():
    bench = Bench(ONE)
    refused = bench.call(retry_in(30.0), OK)
    await asyncio.sleep(2.0)
    waiting = bench.call(OK)
    await asyncio.gather(refused, waiting)

    assert sorted(at for at, _ in bench.sent)[1] == 31.0
    assert len(bench.sent) == 3


@on_virtual_loop
async def test_an_attempt_ends_at_its_timeout():
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
async def test_a_sender_that_raises_leaves_nothing_behind():
    bench = Bench(ONE)

    async def broken(send):
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await bench.run(broken)
    await bench.assert_at_rest()


# ------------------------------------------------------------------ cancelling at each suspension point


@on_virtual_loop
async def test_a_cancel_before_the_first_step_leaves_nothing_behind():
    bench = Bench(ONE)
    await cancelled(bench.call(OK))
    await bench.assert_at_rest()
    assert len(bench.sent) == 1


@on_virtual_loop
async def test_a_cancel_in_the_queue_frees_the_place():
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
async def test_a_cancel_between_grant_and_resume_passes_the_grant_on():
    bench = Bench(ONE)
    never = asyncio.Event()

    async def hangs(send):
        await never.wait()

    blocker, granted, next_one = bench.run(hangs), bench.call(OK), bench.call(OK)
    await asyncio.sleep(1.0)
    ticket = next(iter(bench.state.admission._queue))
    blocker.cancel()
    await asyncio.sleep(0)  # closing the blocker grants the permit
    assert ticket.permit is not None
    assert not granted.done()
    await cancelled(granted)
    await next_one
    assert len(bench.sent) == 1
    with suppress(asyncio.CancelledError):
        await blocker
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_cancel_while_sending_frees_the_slot():
    bench = Bench(ONE)
    sending, waiting = bench.call(OK, takes=10.0), bench.call(OK)
    await asyncio.sleep(1.0)
    await cancelled(sending)
    await waiting
    assert [at for at, _ in bench.sent] == [0.0, 1.0]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_cancel_in_a_backoff_keeps_the_cooldown():
    bench = Bench(policy(limit=FixedLimit(max_in_flight=1)))
    backing_off = bench.call(retry_in(30.0))
    await asyncio.sleep(2.0)
    await cancelled(backing_off)
    await bench.assert_at_rest()
    assert [at for at, _ in bench.sent] == [0.0, 31.0]  # the cooldown outlives the refused call


@on_virtual_loop
async def test_a_cancel_of_the_timer_in_a_cooldown_passes_the_timer_on():
    bench = Bench(ONE)
    blocker = bench.call(retry_in(30.0))
    await asyncio.sleep(2.0)
    await cancelled(blocker)
    timer, other = bench.call(OK), bench.call(OK)
    await asyncio.sleep(1.0)
    await cancelled(timer)
    await other
    assert [at for at, _ in bench.sent] == [0.0, 31.0]
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_cancel_of_a_probe_frees_its_place():
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
def test_a_cancel_at_any_turn_of_the_loop_around_a_grant_leaves_nothing_behind(turns):
    """The blocker answers, the queue moves, a retry follows; the cancel comes `turns` turns of the loop later."""

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


# ------------------------------------------------------------------ timeouts of callers


@table_test("impatience", [0.5, 2.0, 5.5, 11.0])
def test_the_wait_for_of_a_caller_leaves_nothing_behind(impatience):
    """It ends the call in the queue, in an attempt, in a backoff, or in the second attempt."""

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
async def test_the_timeout_of_a_caller_is_not_taken_for_an_attempt_timeout():
    bench = Bench(policy(attempt_timeout=5.0))

    async def sender(send):
        await asyncio.sleep(60.0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3.0):
            await bench.driver.run(Call(1, TARGET), sender)
    assert now() == pytest.approx(3.0)
    await bench.assert_at_rest()


@table_test("earlier", [0.0, 1e-10])
def test_a_cancel_at_the_tick_of_the_attempt_timeout_wins(earlier):
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
async def test_the_timeout_of_a_caller_at_the_tick_of_the_attempt_timeout_wins():
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
async def test_a_sender_that_is_slow_to_end_keeps_its_slot_until_it_ends():
    bench = Bench(
        policy(
            limit=FixedLimit(max_in_flight=1),
            attempt_timeout=5.0,
            retry=RetryPolicy(max_attempts=1),
        )
    )

    async def slow_to_end(send):
        try:
            await asyncio.sleep(60.0)
        finally:
            await asyncio.sleep(2.0)  # it closes its connection

    first, waiting = bench.run(slow_to_end), bench.call(OK)
    await asyncio.sleep(6.0)
    assert bench.state.slots.in_flight == 1
    assert (await first).outcome.verdict is Verdict.TIMEOUT
    assert now() == pytest.approx(7.0)
    await waiting
    await bench.assert_at_rest()


@on_virtual_loop
async def test_an_answer_of_a_sender_after_its_timeout_counts():
    bench = Bench(policy(attempt_timeout=5.0))

    async def answers_after_all(send):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        return OK

    assert (await bench.run(answers_after_all)).outcome == OK
    await bench.assert_at_rest()


@on_virtual_loop
async def test_a_timeout_error_of_the_sender_is_a_timeout():
    bench = Bench(policy(retry=RetryPolicy(max_attempts=1), attempt_timeout=50.0))

    async def sender(send):
        raise TimeoutError

    ended = await bench.run(sender)
    assert ended.outcome.verdict is Verdict.TIMEOUT
