from math import exp

import pytest
from table_test import table_test

from stormbreak.core.automatic_limit import LimitFloor


def usual(*, rate=10, in_flight=20, most=1_000.0, seconds=300):
    """A floor that has seen a steady load, and the time."""
    limit_floor = LimitFloor(most)
    for second in range(seconds):
        limit_floor.quiet(float(second), rate, in_flight)
    return limit_floor, float(seconds)


def episode(limit_floor, now, seconds, rate, **kinds):
    """The floor after each second of an episode."""
    kinds = {"mean": 2.0, "failing": False, **kinds}
    return [limit_floor.floor(now + n, rate, **kinds) for n in range(seconds)]


def test_the_first_floor_is_a_little_more_than_the_usual_load():
    limit_floor, now = usual()

    assert limit_floor.floor(now, 10, 2.0, failing=False) == pytest.approx(27.0, rel=0.01)


@table_test(("seconds", "known"), [(3, 0.102), (11, 0.448), (40, 1.0)])
def test_the_floor_trusts_half_a_minute_of_load_and_not_a_moment(seconds, known):
    limit_floor, now = usual(rate=10, in_flight=20, seconds=seconds)
    floor = limit_floor.floor(now, 10, 2.0, failing=False)

    assert floor == pytest.approx(1.25 * 20 * known + 2.0, rel=0.01)


def test_without_a_known_load_the_floor_stays_at_its_minimum():
    assert set(episode(LimitFloor(100.0), 50.0, 60, rate=0)) == {2.0}


def test_the_usual_load_follows_within_half_a_minute():
    limit_floor, now = usual(in_flight=20, seconds=1_000)
    for second in range(30):
        limit_floor.quiet(now + second, 10, 40)
    follows = 40 - 20 * exp(-30.0 / 30.0)

    assert limit_floor.floor(now + 30, 10, 2.0, failing=False) == pytest.approx(1.25 * follows + 2)


def test_the_first_observation_is_ignored():
    limit_floor = LimitFloor(1_000.0)
    limit_floor.quiet(100.0, 500, 500)

    assert limit_floor.floor(101.0, 500, 2.0, failing=False) == 2.0


@table_test("every", [0.5, 4.0])
def test_answers_are_counted_per_second_at_any_interval(every):
    limit_floor = LimitFloor(1_000.0)
    for look in range(1_000):
        limit_floor.quiet(every * look, int(10 * every), 20)
    now = every * 999
    floors = episode(limit_floor, now, 60, rate=9)
    assert floors[-1] == pytest.approx(floors[0])  # as many as usual

    limit_floor.quiet(now + 60, 0, 20)
    floors = episode(limit_floor, now + 60, 60, rate=5)
    assert floors[-1] > floors[0]  # fewer


def test_the_floor_stays_while_as_many_answers_come_as_usual():
    limit_floor, now = usual()
    floors = episode(limit_floor, now, 60, rate=9)

    assert floors[-1] == pytest.approx(floors[0])


def test_the_floor_grows_after_a_grace_period_with_fewer_answers():
    limit_floor, now = usual()
    floors = episode(limit_floor, now, 60, rate=3)

    assert floors[9] == floors[0] < floors[10]
    assert floors[39] / floors[29] == pytest.approx(2.0)  # doubled in ten seconds


def test_the_grace_period_is_three_times_the_usual_answer_time():
    limit_floor, now = usual()
    floors = episode(limit_floor, now, 60, rate=3, mean=15.0)

    assert floors[44] == floors[0] < floors[45]


def test_the_floor_shrinks_with_more_answers_than_usual():
    limit_floor, now = usual()
    floors = episode(limit_floor, now, 60, rate=30)

    assert floors[59] / floors[49] == pytest.approx(0.5)


def test_failures_remove_the_floor_for_the_episode():
    limit_floor, now = usual()
    episode(limit_floor, now, 5, rate=0)
    assert episode(limit_floor, now + 5, 1, rate=0, failing=True) == [0.0]
    assert set(episode(limit_floor, now + 6, 60, rate=0)) == {0.0}


def test_a_new_episode_has_a_new_floor():
    limit_floor, now = usual()
    episode(limit_floor, now, 60, rate=0, failing=True)
    limit_floor.quiet(now + 60, 10, 20)

    assert limit_floor.floor(now + 61, 10, 2.0, failing=False) > 20.0


@table_test("gap", [1.0, 1e6])
def test_the_floor_never_exceeds_its_maximum(gap):
    limit_floor, now = usual(most=256.0)
    floors = [limit_floor.floor(now + gap * n, 0, 2.0, failing=False) for n in range(200)]

    assert max(floors) == 256.0


def test_one_long_silence_multiplies_the_floor_by_1024_at_most():
    limit_floor, now = usual(most=1e9)
    floor = limit_floor.floor(now, 0, 2.0, failing=False)

    assert limit_floor.floor(now + 1e6, 0, 2.0, failing=False) == pytest.approx(2**10 * floor)


def test_observations_at_one_instant_are_ignored():
    limit_floor, now = usual()
    for _ in range(1_000):
        limit_floor.quiet(now - 1, 500, 500)

    assert limit_floor.floor(now - 1, 0, 2.0, failing=False) == pytest.approx(27.0, rel=0.01)
