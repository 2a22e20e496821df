"""When an attempt of a batch takes far too long, and when it is given up."""

from math import inf

import pytest
from stage import OK, SERVER_ERROR, TARGET, Stage
from table_test import table_test

from stormbreak.core.presets import BATCH
from stormbreak.core.straggler import FLOOR, GROWTH, KINDS, Attempt, Stragglers

CHAT, EMBEDDINGS = (TARGET, "/chat/completions"), (TARGET, "/embeddings")


def taught(seconds, *, ratio=0.1, timeout=600.0, kind=CHAT):
    made = Stragglers(ratio=ratio, timeout=timeout)
    for one in seconds:
        made.answered(kind, one)
    return made


def attempt(age, *, kind=CHAT, rounds=0):
    return Attempt(kind, 1000.0 - age, rounds)


@table_test(
    ("taken", "limit"),
    [
        ([1.0] * 19, inf),  # too few
        ([1.0] * 20, FLOOR),
        ([10.0] * 99 + [20.0], 80.0),  # with few, the slowest counts
        ([10.0] * 199 + [20.0], 40.0),
        ([20.0] * 600 + [10.0] * 600, 40.0),  # what is long ago is forgotten
        ([100.0] * 20, 400.0),
        ([150.0] * 20, inf),  # its timeout comes first
    ],
)
def test_the_timeout_follows_what_is_usual(taken, limit):
    made = taught(taken)
    assert made.limit(attempt(0.0), 1000.0) == limit
    assert not made.is_overdue(attempt(limit), 1000.0)
    assert made.is_overdue(attempt(limit + 1.0), 1000.0) == (limit < inf)


def test_it_grows_with_each_round_so_that_a_long_answer_still_comes():
    made = taught([1.0] * 20)
    limits = [made.limit(attempt(0.0, rounds=rounds), 1000.0) for rounds in range(4)]
    assert limits == [FLOOR, GROWTH * FLOOR, GROWTH**2 * FLOOR, inf]


def test_kinds_are_told_apart():
    made = taught([40.0] * 20)
    for _ in range(20):
        made.answered(EMBEDDINGS, 0.1)
    assert made.limit(attempt(0.0), 1000.0) == 160.0
    assert made.limit(attempt(0.0, kind=EMBEDDINGS), 1000.0) == FLOOR
    for number in range(2 * KINDS):
        for _ in range(20):
            made.answered(("m", number), 1.0)
    assert made.usual(("m", KINDS), 1000.0) == inf  # too many kinds


def test_one_is_given_up_for_ten_that_were_answered():
    made = taught([1.0] * 25)
    for _ in range(2):
        assert made.is_overdue(attempt(FLOOR + 1.0), 1000.0)
        made.give_up()
    assert not made.is_overdue(attempt(FLOOR + 1.0), 1000.0)
    assert made.given_up == 2


def test_without_a_budget_none_is_given_up():
    assert not taught([1.0] * 1000, ratio=0.0).is_overdue(attempt(500.0), 1000.0)


@table_test(
    ("age", "rounds", "rest"),
    [
        (8.0, 0, 0.0),  # not far longer than usual
        (10.0, 0, FLOOR - 10.0 + 2.0),  # until it is given up, and then the usual time
        (FLOOR + 5.0, 0, 2.0),
        (10.0, 3, 590.0),  # until its timeout
        (700.0, 3, 0.0),
    ],
)
def test_the_rest_of_one_that_takes_far_longer_than_usual(age, rounds, rest):
    assert taught([2.0] * 20).rest(attempt(age, rounds=rounds), 1000.0) == pytest.approx(rest)


def test_the_rest_is_the_timeout_where_none_may_be_given_up():
    assert taught([2.0] * 20, ratio=0.0).rest(attempt(100.0), 1000.0) == 500.0
    assert taught([2.0] * 20, ratio=0.0, timeout=None).rest(attempt(100.0), 1000.0) == 0.0
    assert taught([2.0] * 9).rest(attempt(100.0), 1000.0) == 0.0  # nothing is usual yet


# ------------------------------------------------------------ lost, or the target is in trouble


def slow_and_others(outcome, *, later=True):
    """One attempt that hangs, and twenty others, that left later or before."""
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


def test_it_is_lost_once_one_that_left_later_was_answered():
    state, now, sent_at = slow_and_others(OK)
    assert state.is_straggler(now, sent_at, alone=False)


def test_the_last_of_all_is_lost_where_answers_were_on_time():
    state, now, sent_at = slow_and_others(OK, later=False)
    assert not state.is_straggler(now, sent_at, alone=False)
    assert state.is_straggler(now, sent_at, alone=True)


def test_where_nothing_is_answered_another_is_of_no_use():
    state, now, sent_at = slow_and_others(SERVER_ERROR)
    assert not state.is_straggler(now, sent_at, alone=False)
    assert not state.is_straggler(now, sent_at, alone=True)
