"""The load response: the spread of late answers, and trials of a new usual time."""

import random
from math import inf

from table_test import table_test

from stormbreak.core.late_answers import KEPT, RESET_AFTER, LateAnswers
from stormbreak.core.latency_baseline import ENOUGH

CALM = 0.5  # seconds


def lognormal(seed, spread=0.5):
    chance = random.Random(seed)
    return lambda mean: mean * chance.lognormvariate(0.0, spread)


def late(count=ENOUGH):
    """An episode since 0.0."""
    return answers([3.0] * count)


def failed(response, now):
    """A trial at `now` that fails a second later."""
    response.begin_trial(now)
    response.begin(now + 0.5, now)
    return response.end_trial(now + 1.0)


@table_test(
    ("count", "now", "due"),
    [
        (ENOUGH, RESET_AFTER, False),
        (ENOUGH, RESET_AFTER + 1, True),
        (ENOUGH - 1, RESET_AFTER + 1, False),
    ],
)
def test_a_trial_is_due_after_enough_late_answers_for_long_enough(count, now, due):
    assert late(count).is_trial_due(now, -inf) == due


def test_a_trial_waits_anew_after_a_timeout():
    assert not late().is_trial_due(300.0, 300.0 - RESET_AFTER)
    assert late().is_trial_due(300.0, 299.0 - RESET_AFTER)


@table_test(("after", "fails"), [(RESET_AFTER - 1, True), (RESET_AFTER, False)])
def test_lateness_fails_a_trial_only_for_as_long_as_the_trial_waited(after, fails):
    response = late()
    response.begin_trial(200.0)

    assert response.end_trial(200.0 + after) == fails


def test_without_a_trial_none_fails():
    assert not late().end_trial(1.0)


def test_the_next_trial_waits_twice_as_long():
    response = late()
    assert failed(response, 200.0)
    assert not response.end_trial(202.0)
    assert not response.times
    for _ in range(ENOUGH):
        response.answered(201.5, 3.0)

    assert not response.is_trial_due(201.0 + 2 * RESET_AFTER, -inf)
    assert response.is_trial_due(202.0 + 2 * RESET_AFTER, -inf)


@table_test(("quiet", "waits"), [(0.0, 2), (2 * RESET_AFTER + 1, 1)])
def test_the_wait_is_reset_after_as_long_without_evidence(quiet, waits):
    response = late()
    failed(response, 200.0)
    begins = 1_000.0
    response.begin(begins, begins - quiet)
    for _ in range(ENOUGH):
        response.answered(begins, 3.0)

    assert not response.is_trial_due(begins + waits * RESET_AFTER, -inf)
    assert response.is_trial_due(begins + waits * RESET_AFTER + 1, -inf)


def test_only_attempts_sent_in_the_episode_count():
    response = LateAnswers()
    response.begin(100.0, -inf)
    response.answered(99.9, 6.0)
    response.answered(101.0, 0.0)  # took no time at all
    response.answered(101.0, 7.0)
    assert list(response.times) == [7.0]
    response.begin(200.0, -inf)

    assert not response.times


def test_only_the_last_times_are_kept():
    response = answers([1.0 + number for number in range(2 * KEPT)])

    assert len(response.times) == KEPT
    assert response.times[0] == 1.0 + KEPT


def test_answers_no_longer_than_in_a_calm_show_no_slower_target():
    draw = lognormal(1)

    assert not answers([draw(CALM) / 2 for _ in range(60)]).is_slower(
        [draw(CALM) for _ in range(200)]
    )


@table_test(("count", "decided"), [(4, False), (200, True)])
def test_enough_answers_show_a_slower_target(count, decided):
    draw = lognormal(3)
    calm = sorted(draw(CALM) for _ in range(200))

    assert answers([draw(1.6 * CALM) for _ in range(count)]).is_slower(calm) == decided


def answers(times):
    response = LateAnswers()
    response.begin(0.0, -inf)
    for took in times:
        response.answered(1.0, took)
    return response


@table_test("seed", range(20))
@table_test("spread", [0.2, 0.9])
def test_a_slower_target_multiplies_times_and_a_queue_adds_to_them(seed, spread):
    draw = lognormal(seed, spread)
    calm = sorted(draw(CALM) for _ in range(200))

    assert answers([draw(5 * CALM) for _ in range(60)]).is_slower(calm)
    assert not answers([4 * CALM + draw(CALM) for _ in range(60)]).is_slower(calm)


@table_test("seed", range(20))
def test_a_growing_and_shrinking_queue_shows_no_slower_target(seed):
    draw = lognormal(seed, 0.9)
    calm = sorted(draw(CALM) for _ in range(200))
    waits = [CALM * (3 + 10 * abs(30 - number) / 30) for number in range(60)]

    assert not answers([wait + draw(CALM) for wait in waits]).is_slower(calm)


def test_without_times_of_a_calm_no_target_is_slower():
    assert not answers([1.0, 2.0, 3.0]).is_slower([])
