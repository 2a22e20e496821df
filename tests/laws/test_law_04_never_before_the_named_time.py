"""Law 4, the core's side. A time named by the server is obeyed: never earlier. The return is spread over
[t, 1.5 t], or by the backoff where t is very short. A wait beyond deadline, patience or the cap fails at once and says when to come back.
"""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from stage import OK, THROTTLED, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import SHORT_WAIT
from stormbreak.types import Verdict

CHANCE = st.floats(0.0, 1.0, exclude_max=True)


@given(named=st.floats(0.0, 900.0), chance=CHANCE)
def test_a_retry_leaves_between_the_named_time_and_half_as_much_again(named, chance):
    stage = Stage(policy(), chance=chance)
    run = stage.start().step(retry_in(named))
    stage.pass_time(named * 1.5 + 1.0)

    assert run.sending
    assert run.since >= 100.0 + named
    at_most = 1.5 * named if named >= SHORT_WAIT else max(1.5 * named, 0.5)  # the first backoff
    assert run.since <= 100.0 + at_most + 1e-9


@given(named=st.floats(0.01, 900.0), chance=CHANCE, backoff=st.just(0.0) | st.floats(0.001, 60.0))
def test_the_time_of_the_server_replaces_our_backoff(named, chance, backoff):
    stage = Stage(
        policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=backoff))),
        chance=chance,
    )
    run = stage.start().step(retry_in(named))

    floor = backoff  # a policy without a budget: nothing else bounds its retries
    assert run.command.until >= 100.0 + named
    assert run.command.until == pytest.approx(100.0 + max(floor, named * (1 + chance / 2)))


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.1, 20.0), CHANCE), min_size=1))
def test_no_call_is_sent_while_a_named_time_runs(answers):
    """All attempts left before the first answer, so no later success can lift the cooldown."""
    stage = Stage(policy(limit=FixedLimit(max_in_flight=len(answers))))
    runs = [stage.start() for _ in answers]
    crowd = [stage.start() for _ in range(5)]
    not_before = 0.0
    for run, (pause, named, chance) in zip(runs, answers, strict=True):
        if crowd[0].sending:
            break
        stage.pass_time(pause)
        if crowd[0].sending:
            break
        stage.chance = chance
        run.step(retry_in(named)).close()
        stage.settle()
        not_before = max(not_before, stage.now + named)
    while crowd[0].queued:
        stage.now = crowd[0].command.until
        stage.settle()

    assert stage.now >= not_before - 1e-9


def test_an_answer_to_a_later_attempt_lifts_the_cooldown_for_other_calls():
    """The one deviation: the refused call itself still waits for its named time."""
    stage = Stage(policy(limit=FixedLimit(max_in_flight=2)))
    first = stage.start()
    stage.pass_time(1.0)
    later, waiting = stage.start(), stage.start()
    first.step(retry_in(30.0))
    stage.settle()
    assert waiting.queued
    later.step(OK)
    stage.settle()

    assert waiting.sending
    assert first.backing_off
    stage.pass_time(29.9)
    assert first.backing_off


def test_an_answer_to_an_earlier_attempt_does_not_lift_the_cooldown():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=2)))
    earlier = stage.start()
    stage.pass_time(1.0)
    first, waiting = stage.start(), stage.start()
    first.step(retry_in(30.0))
    earlier.step(OK)
    stage.pass_time(29.9)

    assert waiting.queued


@pytest.mark.parametrize(
    ("gate", "limits"),
    [
        ("deadline", {"within": 30.0}),
        ("patience", {"patience": 30.0}),
        ("max_wait", {}),
    ],
)
@given(extra=st.floats(0.01, 1000.0), chance=CHANCE)
def test_a_wait_beyond_deadline_patience_or_max_wait_ends_the_call_at_once(
    gate, limits, extra, chance
):
    stage = Stage(policy(), chance=chance)
    named = (900.0 if gate == "max_wait" else 30.0) + extra
    if gate != "max_wait":
        assume(named <= 900.0)
    ended = stage.start(**limits).step(retry_in(named)).ended

    assert (ended.stopped, ended.retry_at) == (gate, 100.0 + named)
    assert ended.outcome.verdict is Verdict.THROTTLED


@table_test("limits", [{"within": 30.0}, {"patience": 30.0}, {}])
def test_waiting_and_new_calls_also_get_the_time_to_retry(limits):
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1), queue=QueuePolicy(max_pause=100.0)))
    blocker, waiting = stage.start(), stage.start(**limits)
    blocker.step(retry_in(200.0)).close()
    stage.settle()
    new = stage.start(**limits)

    assert [
        (run.ended.attempts, run.ended.stopped, run.ended.retry_at) for run in (waiting, new)
    ] == [(0, "cooldown", 300.0)] * 2


def test_a_bare_429_starts_no_cooldown():
    stage = Stage(policy(retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=2.0))))
    run = stage.start().step(THROTTLED)

    assert run.command.until == 102.0
    assert stage.start().sending
