"""The load response: what sending less shows about late answers."""

import random

import pytest

from stormbreak.core.load_response import KEPT, LoadResponse

CALM = 0.5  # seconds


def episode(time_of, *, count=20, before=20, after=5, calm=CALM):
    """An episode of `count` answers on both sides of a limit that cuts how many are outstanding; `time_of(outstanding)` in seconds."""
    response = LoadResponse()
    response.begin(0.0)
    for _ in range(count):
        response.answered(1.0, before, time_of(before), 9.0, calm)
    response.hold(10.0)
    response.answered(11.0, after, time_of(after), 20.0, calm)  # now the limit is felt
    for _ in range(count):
        response.answered(21.0, after, time_of(after), 30.0, calm)
    return response


def lognormal(seed, spread=0.5):
    chance = random.Random(seed)
    return lambda mean: mean * chance.lognormvariate(0.0, spread)


def test_at_first_nothing_is_known():
    assert not LoadResponse().is_flat


@pytest.mark.parametrize("seed", range(20))
def test_a_time_that_does_not_depend_on_what_is_outstanding_is_flat(seed):
    draw = lognormal(seed)

    assert episode(lambda _: draw(6.0)).is_flat


@pytest.mark.parametrize("seed", range(20))
def test_a_time_in_proportion_to_what_is_outstanding_is_a_queue(seed):
    draw = lognormal(seed)

    assert not episode(lambda outstanding: draw(0.3 * outstanding)).is_flat


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_same_if_more_is_outstanding_later(seed):
    draw = lognormal(seed)

    assert episode(lambda _: draw(6.0), before=5, after=20).is_flat
    assert not episode(lambda outstanding: draw(0.3 * outstanding), before=5, after=20).is_flat


@pytest.mark.parametrize(("power", "flat"), [(0.45, True), (0.55, False)])
def test_the_line_is_the_square_root(power, flat):
    assert flat == episode(lambda outstanding: outstanding**power).is_flat


def test_without_a_change_of_what_is_outstanding_nothing_is_known():
    draw = lognormal(1)

    assert not episode(lambda _: draw(6.0), before=10, after=10).is_flat


@pytest.mark.parametrize(("calm", "flat"), [(CALM, True), (2.0, False)])
def test_no_queue_makes_answers_quicker_than_in_a_calm(calm, flat):
    """From 6 s down to a calm 2 s is all that sending less can do, though a twentieth is outstanding."""
    times = {20: 6.0, 1: 2.0}

    assert flat == episode(times.__getitem__, before=20, after=1, calm=calm).is_flat


def test_answers_decide_once_they_suffice():
    draw = lognormal(3, spread=1.5)
    found = [episode(lambda _: draw(6.0), count=count).is_flat for count in (2, 200)]

    assert found == [False, True]


def test_one_answer_on_a_side_shows_nothing():
    assert not episode(lambda _: 6.0, count=1).is_flat


def test_only_attempts_of_the_episode_count_and_none_that_left_before_the_limit_was_felt():
    response = LoadResponse()
    response.begin(100.0)
    response.answered(99.9, 20, 6.0, 106.0, CALM)  # left before
    response.answered(101.0, 20, 6.0, 107.0, CALM)
    response.answered(101.0, 20, 0.0, 107.0, CALM)  # took no time at all
    response.hold(108.0)
    response.hold(112.0)  # it is known already
    response.answered(109.0, 5, 6.0, 115.0, CALM)  # the limit is felt
    response.answered(114.9, 5, 6.0, 121.0, CALM)  # left before that
    assert list(response.times) == [6.0]
    response.answered(107.0, 20, 7.0, 122.0, CALM)
    response.answered(115.0, 5, 8.0, 123.0, CALM)

    assert list(response.times) == [6.0, 7.0, 8.0]


def test_a_new_episode_forgets_the_last_one():
    response = episode(lambda _: 6.0)
    assert response.is_flat
    response.begin(40.0)

    assert not response.is_flat
    assert not response.times


def test_it_keeps_the_last_times_only():
    response = LoadResponse()
    for number in range(2 * KEPT):
        response.answered(1.0, 2, 1.0 + number, 9.0, CALM)

    assert len(response.times) == KEPT
    assert response.times[0] == 1.0 + KEPT


def answers(times):
    response = LoadResponse()
    response.begin(0.0)
    for took in times:
        response.answered(1.0, 20, took, 9.0, CALM)
    return response


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [0.2, 0.9])
def test_a_slower_target_multiplies_times_and_a_queue_adds_to_them(seed, spread):
    draw = lognormal(seed, spread)
    calm = sorted(draw(CALM) for _ in range(200))

    assert answers([draw(5 * CALM) for _ in range(60)]).is_slower(calm)
    assert not answers([4 * CALM + draw(CALM) for _ in range(60)]).is_slower(calm)


@pytest.mark.parametrize("seed", range(20))
def test_a_queue_may_grow_and_shrink_meanwhile(seed):
    draw = lognormal(seed, 0.9)
    calm = sorted(draw(CALM) for _ in range(200))
    waits = [CALM * (3 + 10 * abs(30 - number) / 30) for number in range(60)]

    assert not answers([wait + draw(CALM) for wait in waits]).is_slower(calm)


def test_without_a_calm_nothing_is_known_of_its_spread():
    assert not answers([1.0, 2.0, 3.0]).is_slower([])
