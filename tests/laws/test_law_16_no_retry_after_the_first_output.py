"""Law 16. After the first output reached the caller there is no retry: the call ends with the outcome of the stream."""

import asyncio

import pytest
from guarding import DownError, made
from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.flow import DeliverStream
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.events import Committed, Returned, Sent
from stormbreak.types import CANCELLED, Outcome, Verdict

EAGER_FUNCTION = policy(
    retry=RetryPolicy(
        max_attempts=5, backoff=Backoff(kind="constant", initial_delay=0.0), min_time_left=0.0
    )
)
BEGUN = OK._replace(committed=True)
BROKEN = Outcome(Verdict.BROKEN, status=200)
EAGER = policy(
    retry=RetryPolicy(max_attempts=5, backoff=Backoff(kind="constant", initial_delay=1.0))
)
FRAGILE = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1))


def start(stage, **call):
    return stage.start(delivers=True, streams=True, **call)


@table_test("failure", [BROKEN, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in(2.0)])
def test_a_stream_that_breaks_after_its_first_output_is_not_retried(failure):
    run = start(Stage(EAGER)).step(BEGUN)
    assert isinstance(run.command, DeliverStream)
    assert run.command.outcome == BEGUN
    ended = run.step(failure).ended

    assert (ended.stopped, ended.attempts) == ("committed", 1)
    assert ended.outcome == failure._replace(committed=True)


@table_test("failure", [BROKEN, SERVER_ERROR, TIMEOUT])
def test_a_stream_that_breaks_before_its_first_output_is_retried(failure):
    stage = Stage(EAGER)
    run = start(stage).step(failure)
    assert run.backing_off
    stage.tick(1.0)
    run.step(BEGUN)

    assert (run.command.attempts, run.command.waited) == (2, 1.0)
    assert run.step(OK).ended.attempts == 2


def test_a_stream_that_ends_without_output_is_not_delivered():
    ended = start(Stage()).step(OK).ended

    assert (ended.outcome, ended.stopped) == (OK, None)


def test_a_final_verdict_is_reported_before_the_commitment():
    assert start(Stage()).step(BEGUN).step(INVALID).ended.stopped == "verdict"


def test_a_committed_stream_that_breaks_costs_no_budget():
    stage = Stage(policy(retry_budget=BudgetPolicy(ratio=1.0, low_traffic_calls=0)))
    runs = [start(stage).step(BEGUN) for _ in range(5)]
    paid_in = stage.engine.budget.balance(stage.now)
    for run in runs:
        run.step(BROKEN)

    assert stage.engine.budget.balance(stage.now) == paid_in


@table_test(
    ("last", "state"), [(BROKEN, State.OPEN), (OK, State.CLOSED), (CANCELLED, State.CLOSED)]
)
def test_the_circuit_counts_the_outcome_of_the_whole_stream(last, state):
    stage = Stage(policy(breaker=FRAGILE))
    run = start(stage).step(BEGUN)
    assert stage.state.breaker.state is State.CLOSED
    run.step(last)

    assert stage.state.breaker.state is state


@table_test("way", ["step", "close", "drop"])
def test_a_stream_holds_its_slot_until_it_ends(way):
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)))
    run, waiting = start(stage).step(BEGUN), start(stage)
    stage.tick(30.0)
    assert (stage.state.slots.in_flight, waiting.queued) == (1, True)
    getattr(run, way)()
    stage.settle()
    assert waiting.sending
    waiting.close()

    assert stage.state.slots.in_flight == 0


def test_a_cancelled_stream_counts_for_nothing():
    stage = Stage(policy(breaker=FRAGILE, retry_budget=BudgetPolicy()))
    run = start(stage).step(BEGUN)
    stage.tick(5.0)
    run.close()

    assert stage.state.admission.service == 0.0  # no whole answer
    assert stage.state.breaker.state is State.CLOSED
    assert stage.engine.budget._in_a_row == 0


def test_the_diagnosis_learns_of_the_first_output():
    stage = Stage(policy(limit=AutomaticLimit()))
    run = start(stage)
    serving = [stage.state.diagnosis._first_output_estimate.serving]
    run.step(BEGUN)
    serving.append(stage.state.diagnosis._first_output_estimate.serving)
    run.step(OK)
    serving.append(stage.state.diagnosis._first_output_estimate.serving)

    assert serving == [0, 1, 0]


@table_test(
    ("attempt_timeout", "took", "outcome", "counted"),
    [
        (
            30.0,
            100.0,
            TIMEOUT,
            False,
        ),  # the deadline; the attempt timeout ends with the first output
        (200.0, 100.0, TIMEOUT, False),
        (None, 100.0, TIMEOUT, False),
        (30.0, 100.0, TIMEOUT._replace(status=200), True),  # it went silent
        (30.0, 99.0, TIMEOUT, True),
    ],
)
def test_our_own_deadline_is_no_evidence_during_a_stream(attempt_timeout, took, outcome, counted):
    stage = Stage(policy(attempt_timeout=attempt_timeout, breaker=FRAGILE))
    run = start(stage, within=100.0).step(BEGUN)
    assert run.command.until == stage.now + 100.0
    stage.tick(took)
    run.step(outcome)

    assert run.ended.outcome.own_deadline is not counted
    assert (stage.state.breaker.state is State.OPEN) is counted


def test_the_deadline_of_a_stream_may_start_with_its_attempt():
    stage = Stage()
    run = start(stage, span=20.0)
    stage.tick(5.0)

    assert run.step(BEGUN).command.until == stage.now + 15.0


def test_listeners_get_the_events_of_a_stream():
    stage = Stage().listen()
    run = start(stage)
    stage.tick(2.0)
    run.step(BEGUN)
    stage.tick(3.0)
    run.step(OK)
    sent, committed, returned, _ = stage.events

    assert [type(each) for each in (sent, committed, returned)] == [Sent, Committed, Returned]
    assert (committed.attempt, committed.took, returned.took) == (1, 2.0, 5.0)


STEPS = st.sampled_from([BEGUN, OK, BROKEN, SERVER_ERROR, TIMEOUT, None])


@given(steps=st.lists(STEPS, max_size=30))
def test_no_attempt_is_sent_after_the_first_output(steps):
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1), retry=EAGER.retry))
    run, delivered = start(stage), 0
    for step in steps:
        if run.over:
            break
        if step is None and not run.backing_off:
            run.close()
        elif run.backing_off:
            stage.tick(1.0)
        else:
            assert not (delivered and run.sending)
            run.step(step)
            delivered += isinstance(run.command, DeliverStream)
    assert delivered <= 1
    if not run.over:
        run.close()
    assert stage.state.slots.in_flight == 0


# ---------------------------------------------------------------- generators in an engine


@given(st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=5), st.booleans())
def test_a_generator_is_called_again_only_before_its_first_item(items, asynchronous):
    """Each attempt yields some items and fails: the first that yields any is the last."""
    guard, attempts = made(EAGER_FUNCTION), iter(items)

    def source():
        yield from range(next(attempts))
        raise DownError

    async def later():
        for item in source():
            yield item

    received = []

    async def main():
        async for item in guard.async_stream(later):
            received.append(item)  # noqa: PERF401 - items before the failure count

    def consume():
        received.extend(guard.stream(source))

    with pytest.raises((DownError, RuntimeError)):  # RuntimeError at the end of the list
        asyncio.run(main()) if asynchronous else consume()

    begun = next((count for count in items if count), 0)
    assert received == list(range(begun))
    if begun:
        assert list(attempts) == items[items.index(begun) + 1 :]
