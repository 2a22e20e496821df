"""When an attempt of a batch takes too long, and when it is cancelled."""

from math import inf

import pytest
from stage import OK, SERVER_ERROR, TARGET, Stage
from table_test import table_test

from stormbreak.core.presets import BATCH
from stormbreak.core.straggler import FLOOR, GROWTH, KINDS, Attempt, Stragglers

CHAT, EMBEDDINGS = (TARGET, "/chat/completions"), (TARGET, "/embeddings")


def stragglers_after(seconds, *, ratio=0.1, timeout=600.0, kind=CHAT):
    stragglers = Stragglers(ratio=ratio, timeout=timeout)
    for one in seconds:
        stragglers.answered(kind, one)
    return stragglers


def attempt(age, *, kind=CHAT, rounds=0):
    return Attempt(kind, 1000.0 - age, rounds)


@table_test(
    ("taken", "limit"),
    [
        ([1.0] * 19, inf),  # too few
        ([1.0] * 20, FLOOR),
        ([10.0] * 99 + [20.0], 80.0),  # with few, the slowest counts
        ([10.0] * 199 + [20.0], 40.0),
        ([20.0] * 600 + [10.0] * 600, 40.0),  # old times are forgotten
        ([100.0] * 20, 400.0),
        ([150.0] * 20, inf),  # its timeout comes first
    ],
)
def test_the_timeout_follows_the_usual_time(taken, limit):
    stragglers = stragglers_after(taken)
    assert stragglers.limit(attempt(0.0), 1000.0) == limit
    assert not stragglers.is_overdue(attempt(limit), 1000.0)
    assert stragglers.is_overdue(attempt(limit + 1.0), 1000.0) == (limit < inf)


def test_the_timeout_grows_with_each_round_so_that_a_long_answer_can_finish():
    stragglers = stragglers_after([1.0] * 20)
    limits = [stragglers.limit(attempt(0.0, rounds=rounds), 1000.0) for rounds in range(4)]
    assert limits == [FLOOR, GROWTH * FLOOR, GROWTH**2 * FLOOR, inf]


def test_each_kind_has_its_own_timeout():
    stragglers = stragglers_after([40.0] * 20)
    for _ in range(20):
        stragglers.answered(EMBEDDINGS, 0.1)
    assert stragglers.limit(attempt(0.0), 1000.0) == 160.0
    assert stragglers.limit(attempt(0.0, kind=EMBEDDINGS), 1000.0) == FLOOR
    for number in range(2 * KINDS):
        for _ in range(20):
            stragglers.answered(("m", number), 1.0)
    assert stragglers.usual(("m", KINDS), 1000.0) == inf  # too many kinds


def test_one_attempt_may_be_cancelled_for_ten_answers():
    stragglers = stragglers_after([1.0] * 25)
    for _ in range(2):
        assert stragglers.is_overdue(attempt(FLOOR + 1.0), 1000.0)
        stragglers.give_up()
    assert not stragglers.is_overdue(attempt(FLOOR + 1.0), 1000.0)
    assert stragglers.given_up == 2


def test_without_a_budget_no_attempt_is_cancelled():
    assert not stragglers_after([1.0] * 1000, ratio=0.0).is_overdue(attempt(500.0), 1000.0)


@table_test(
    ("age", "rounds", "rest"),
    [
        (8.0, 0, 0.0),  # not much longer than usual
        (10.0, 0, FLOOR - 10.0 + 2.0),  # until it is cancelled, and then the usual time
        (FLOOR + 5.0, 0, 2.0),
        (10.0, 3, 590.0),  # until its timeout
        (700.0, 3, 0.0),
    ],
)
def test_the_rest_of_a_straggler_includes_its_retry(age, rounds, rest):
    assert stragglers_after([2.0] * 20).rest(attempt(age, rounds=rounds), 1000.0) == pytest.approx(
        rest
    )


def test_the_rest_is_the_timeout_if_no_attempt_may_be_cancelled():
    assert stragglers_after([2.0] * 20, ratio=0.0).rest(attempt(100.0), 1000.0) == 500.0
    assert stragglers_after([2.0] * 20, ratio=0.0, timeout=None).rest(attempt(100.0), 1000.0) == 0.0
    assert stragglers_after([2.0] * 9).rest(attempt(100.0), 1000.0) == 0.0  # nothing is usual yet


# ------------------------------------------------------------ lost, or the target is unhealthy


def slow_and_others(outcome, *, later=True):
    """One attempt that hangs, and twenty others sent later or before."""
    stage = Stage(BATCH)
    if later:
        stage.start()
        sent_at = stage.now
    for _ in range(20):
        stage.pass_time(0.1)
        stage.start(max_attempts=1).step(outcome)
    if not later:
        stage.pass_time(0.1)
        stage.start()
        sent_at = stage.now
    stage.pass_time(40.0)
    return stage.state, stage.now, sent_at


def test_an_attempt_is_a_straggler_once_a_later_one_was_answered():
    state, now, sent_at = slow_and_others(OK)
    assert state.is_straggler(now, sent_at, alone=False)


def test_the_last_attempt_is_a_straggler_if_answers_were_on_time():
    state, now, sent_at = slow_and_others(OK, later=False)
    assert not state.is_straggler(now, sent_at, alone=False)
    assert state.is_straggler(now, sent_at, alone=True)


def test_an_attempt_at_a_failing_target_is_no_straggler():
    state, now, sent_at = slow_and_others(SERVER_ERROR)
    assert not state.is_straggler(now, sent_at, alone=False)
    assert not state.is_straggler(now, sent_at, alone=True)
