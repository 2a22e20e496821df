"""Law 6. One deadline bounds a call over all attempts and waits. Attempt timeout = min(attempt timeout, time
left). A timeout caused by our own deadline is not evidence against the target. Patience bounds the time a call
may spend unserved: queue, cooldown, backoff.
"""

import asyncio
import gc
import ssl
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_clients import ONCE
from sockets import CHUNKED, End, answer, served, tls
from stage import OK, SERVER_ERROR, TIMEOUT, Stage, policy, retry_in
from table_test import table_test
from wrapped import INNER, WRAPPED, asking

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import ConsecutiveFailures

FRAGILE = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1))


@table_test(
    ("attempt_timeout", "within", "timeout"),
    [
        (None, None, None),
        (30.0, None, 30.0),
        (None, 20.0, 20.0),
        (30.0, 20.0, 20.0),
        (9.0, 20.0, 9.0),
    ],
)
def test_an_attempt_may_take_its_timeout_or_the_time_left(attempt_timeout, within, timeout):
    run = Stage(policy(attempt_timeout=attempt_timeout)).start(within=within)

    assert timeout == run.command.timeout


def test_a_later_attempt_has_less_time():
    stage = Stage(
        policy(
            attempt_timeout=30.0,
            retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0)),
        )
    )
    run = stage.start(within=40.0)
    stage.pass_time(10.0)
    run.step(SERVER_ERROR)
    stage.pass_time(5.0)

    assert run.command.timeout == 25.0


def test_a_deadline_may_start_with_the_first_attempt():
    stage = Stage(
        policy(
            cooldown=True, retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=5.0))
        )
    )
    stage.start().step(retry_in(30.0))
    run = stage.start(span=20.0)
    began = stage.now
    stage.tick(60.0)
    assert (run.command.attempt, run.command.timeout) == (1, 20.0)
    left_at = stage.now
    assert left_at - began >= 30.0
    stage.pass_time(8.0)
    run.step(SERVER_ERROR)
    stage.tick(5.0)
    assert run.command.timeout == pytest.approx(7.0)
    stage.pass_time(7.0)
    ended = run.step(TIMEOUT).ended
    assert ended.outcome.own_deadline
    assert ended.deadline_at == pytest.approx(left_at + 20.0)


def test_a_call_that_was_never_sent_has_no_deadline():
    stage = Stage(policy(queue=QueuePolicy(max_pause=10.0)))
    stage.start().step(retry_in(30.0))
    ended = stage.start(span=5.0).ended
    assert (ended.attempts, ended.deadline_at) == (0, None)


def evidence(stage):
    """What the breaker and the budget counted."""
    return stage.state.breaker.state is State.OPEN, stage.engine.budget._in_a_row


@table_test(
    ("attempt_timeout", "within", "took", "counted"),
    [
        (30.0, 20.0, 20.0, False),  # our own deadline
        (30.0, 20.0, 19.9995, False),  # our own deadline; a timer may run a little early
        (None, 20.0, 20.0, False),
        (30.0, 20.0, 12.0, True),  # the sender ended it earlier: silence, a lost connection
        (30.0, 60.0, 30.0, True),  # the timeout of the attempt
        (30.0, 30.0, 30.0, True),  # it had the full attempt timeout
        (30.0, None, 30.0, True),
    ],
)
def test_a_timeout_by_our_own_deadline_is_no_evidence(attempt_timeout, within, took, counted):
    stage = Stage(
        policy(attempt_timeout=attempt_timeout, breaker=FRAGILE, retry_budget=BudgetPolicy())
    )
    run = stage.start(within=within)
    stage.tick(took)
    run.step(TIMEOUT)

    assert (counted, int(counted)) == evidence(stage)


def test_a_timeout_that_the_target_reports_is_evidence_at_any_time():
    stage = Stage(policy(breaker=FRAGILE, retry_budget=BudgetPolicy()))
    run = stage.start(within=20.0)
    stage.tick(20.0)
    run.step(TIMEOUT._replace(status=504))

    assert evidence(stage) == (True, 1)


def test_silence_is_evidence_under_the_default_policy():
    stage = Stage(Policy(breaker=FRAGILE))
    run = stage.start(within=600.0)
    stage.tick(30.0)
    run.step(TIMEOUT)

    assert stage.state.breaker.state is State.OPEN


OUTCOMES = st.sampled_from([OK, SERVER_ERROR, TIMEOUT, retry_in(2.0), retry_in(11.0)])
STEPS = st.lists(st.tuples(st.floats(0.0, 30.0), OUTCOMES), max_size=40)


@given(
    within=st.floats(0.1, 60.0),
    steps=STEPS,
    chance=st.floats(0.0, 1.0, exclude_max=True),
    crowd=st.integers(0, 3),
)
def test_no_attempt_starts_or_lasts_beyond_the_deadline(within, steps, chance, crowd):
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)), chance=chance)
    others = [stage.start() for _ in range(crowd)]
    run = stage.start(within=within)
    deadline_at = run.call.deadline_at
    for pause, outcome in steps:
        if run.sending:
            gives_up_at = run.since + run.command.timeout
            assert run.since < deadline_at
            assert gives_up_at <= deadline_at + 1e-6
            stage.pass_time(max(0.0, min(pause, gives_up_at - stage.now)))
            run.step(outcome)
        else:
            stage.pass_time(pause)
            for other in others:
                if other.sending:
                    other.step(OK)
            stage.settle()
    if not run.sending:
        stage.pass_time(max(0.0, deadline_at - stage.now))
        assert run.over or run.sending


@given(
    patience=st.floats(0.1, 20.0),
    steps=STEPS,
    chance=st.floats(0.0, 1.0, exclude_max=True),
    crowd=st.integers(0, 3),
)
def test_no_call_is_unserved_for_longer_than_its_patience(patience, steps, chance, crowd):
    stage = Stage(
        policy(
            limit=FixedLimit(max_in_flight=1),
            retry=RetryPolicy(backoff=Backoff(initial_delay=2.0)),
        ),
        chance=chance,
    )
    others = [stage.start() for _ in range(crowd)]
    run = stage.start(patience=patience)
    for pause, outcome in steps:
        if run.sending:
            stage.pass_time(pause)
            run.step(outcome)
            continue
        for other in others:
            if other.sending:
                other.step(OK)
        stage.settle()
        stage.pass_time(pause)
    if run.ended:
        assert run.ended.waited <= patience + 1e-6


def test_time_in_an_attempt_does_not_count_for_patience():
    stage = Stage(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=3.0))))
    run = stage.start(patience=10.0)
    for _ in range(3):
        stage.pass_time(500.0)
        run.step(SERVER_ERROR)
        stage.pass_time(3.0)
        assert run.sending
    ended = run.step(SERVER_ERROR).ended

    assert (ended.stopped, ended.waited) == ("patience", 9.0)


def test_patience_covers_queue_and_backoff_together():
    stage = Stage(
        policy(
            limit=FixedLimit(max_in_flight=1),
            retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=3.0)),
        )
    )
    blocker, run = stage.start(), stage.start(patience=10.0)
    stage.pass_time(6.0)
    blocker.close()
    stage.settle()
    run.step(SERVER_ERROR)
    stage.start()
    stage.pass_time(3.0)
    assert run.queued
    stage.pass_time(1.0)

    assert (run.ended.stopped, run.ended.waited) == ("shed", 10.0)


SHORT = replace(ONCE, deadline=0.3)
DRIPS = {
    "head": (b"HTTP/1.1 200 OK\r\nx: ", *(0.02, b"x") * 250, End.HANG),
    "body": (answer(b"", content_length=1000), *(0.02, b"x") * 250, End.HANG),
    "chunk": (CHUNKED, b"1;", *(0.02, b"x") * 250, End.HANG),
}


async def fails_in_time(ask):
    began = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)time|late") as caught:
        await ask("hi")
    assert time.monotonic() - began < 20.0
    assert "imeout" in type(caught.value).__name__


@table_test("way", [None, *INNER, *WRAPPED])
async def test_a_slow_dripping_response_does_not_outlast_the_deadline(way):
    """Each byte comes before a read timeout; all kinds of drips at once."""

    async def fails(script):
        async with served(script) as server, asking(way, server.base_url, SHORT) as ask:
            await fails_in_time(ask)
            await server.all_closed()

    await asyncio.gather(*map(fails, DRIPS.values()))


@pytest.mark.parametrize("way", INNER, ids=str)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_dripping_response_on_a_reused_connection_does_not_outlast_the_deadline(
    way, encrypted, certificates
):
    trusted, _ = certificates
    options = {"ssl": tls(trusted)} if encrypted else {}
    verify = ssl.create_default_context(cafile=trusted[0])
    async with served(answer(), DRIPS["head"], **options) as server:
        url = f"https://localhost:{server.port}/v1" if encrypted else server.base_url
        async with asking(way, url, replace(SHORT, deadline=1.0), verify=verify) as ask:
            await ask("hi")
            await fails_in_time(ask)
            await server.all_closed()
    assert [each.connection for each in server.requests] == [1, 1]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", INNER, ids=str)
async def test_a_missing_tls_handshake_does_not_outlast_the_deadline(way):
    """An asynchronous library leaves the socket of a cancelled handshake to the garbage collector."""
    async with (
        served([End.HANG]) as server,
        asking(way, f"https://localhost:{server.port}/v1", SHORT, verify=True) as ask,
    ):
        began = time.monotonic()
        with pytest.raises(Exception, match=r"(?i)time|connect"):
            await ask("hi")
        assert time.monotonic() - began < 20.0
    gc.collect()
