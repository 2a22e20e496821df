from math import exp

import pytest
from table_test import table_test

from stormbreak.core.automatic_limit import LimitFloor


def usual(*, rate=10, in_flight=20, most=1_000.0, seconds=300):
    """A guard that has seen a steady load; and when."""
    guard = LimitFloor(most)
    for second in range(seconds):
        guard.quiet(float(second), rate, in_flight)
    return guard, float(seconds)


def episode(guard, now, seconds, rate, **kinds):
    """The floor after each second of an episode."""
    kinds = {"mean": 2.0, "failing": False, **kinds}
    return [guard.floor(now + n, rate, **kinds) for n in range(seconds)]


def test_at_first_it_is_a_little_more_than_was_usually_in_flight():
    guard, now = usual()

    assert guard.floor(now, 10, 2.0, failing=False) == pytest.approx(27.0, rel=0.01)


@table_test(("seconds", "known"), [(3, 0.102), (11, 0.448), (40, 1.0)])
def test_a_mean_of_half_a_minute_is_as_good_as_one_of_minutes_and_one_of_a_moment_is_none(
    seconds, known
):
    guard, now = usual(rate=10, in_flight=20, seconds=seconds)
    floor = guard.floor(now, 10, 2.0, failing=False)

    assert floor == pytest.approx(1.25 * 20 * known + 2.0, rel=0.01)


def test_who_knows_nothing_has_next_to_no_floor_and_it_stays_so():
    assert set(episode(LimitFloor(100.0), 50.0, 60, rate=0)) == {2.0}


def test_what_is_usual_follows_within_half_a_minute():
    guard, now = usual(in_flight=20, seconds=1_000)
    for second in range(30):
        guard.quiet(now + second, 10, 40)
    follows = 40 - 20 * exp(-30.0 / 30.0)

    assert guard.floor(now + 30, 10, 2.0, failing=False) == pytest.approx(1.25 * follows + 2)


def test_the_first_look_teaches_nothing():
    guard = LimitFloor(1_000.0)
    guard.quiet(100.0, 500, 500)

    assert guard.floor(101.0, 500, 2.0, failing=False) == 2.0


@table_test("every", [0.5, 4.0])
def test_answers_are_counted_by_the_second_however_often_it_is_fed(every):
    guard = LimitFloor(1_000.0)
    for look in range(1_000):
        guard.quiet(every * look, int(10 * every), 20)
    now = every * 999
    floors = episode(guard, now, 60, rate=9)
    assert floors[-1] == pytest.approx(floors[0])  # as many as usual

    guard.quiet(now + 60, 0, 20)
    floors = episode(guard, now + 60, 60, rate=5)
    assert floors[-1] > floors[0]  # fewer


def test_it_stays_while_as_many_answers_come_as_usual():
    guard, now = usual()
    floors = episode(guard, now, 60, rate=9)

    assert floors[-1] == pytest.approx(floors[0])


def test_with_fewer_answers_it_grows_after_a_grace():
    guard, now = usual()
    floors = episode(guard, now, 60, rate=3)

    assert floors[9] == floors[0] < floors[10]
    assert floors[39] / floors[29] == pytest.approx(2.0)  # doubled in ten seconds


def test_the_grace_is_three_times_the_usual_answer():
    guard, now = usual()
    floors = episode(guard, now, 60, rate=3, mean=15.0)

    assert floors[44] == floors[0] < floors[45]


def test_with_more_answers_than_usual_it_shrinks():
    guard, now = usual()
    floors = episode(guard, now, 60, rate=30)

    assert floors[59] / floors[49] == pytest.approx(0.5)


def test_failures_take_it_away_for_the_episode():
    guard, now = usual()
    episode(guard, now, 5, rate=0)
    assert episode(guard, now + 5, 1, rate=0, failing=True) == [0.0]
    assert set(episode(guard, now + 6, 60, rate=0)) == {0.0}


def test_a_new_episode_begins_anew():
    guard, now = usual()
    episode(guard, now, 60, rate=0, failing=True)
    guard.quiet(now + 60, 10, 20)

    assert guard.floor(now + 61, 10, 2.0, failing=False) > 20.0


@table_test("gap", [1.0, 1e6])
def test_it_never_exceeds_the_most(gap):
    guard, now = usual(most=256.0)
    floors = [guard.floor(now + gap * n, 0, 2.0, failing=False) for n in range(200)]

    assert max(floors) == 256.0


def test_one_long_silence_makes_it_a_thousand_times_as_much_and_no_more():
    guard, now = usual(most=1e9)
    floor = guard.floor(now, 0, 2.0, failing=False)

    assert guard.floor(now + 1e6, 0, 2.0, failing=False) == pytest.approx(2**10 * floor)


def test_a_clock_that_stands_still_teaches_nothing():
    guard, now = usual()
    for _ in range(1_000):
        guard.quiet(now - 1, 500, 500)

    assert guard.floor(now - 1, 0, 2.0, failing=False) == pytest.approx(27.0, rel=0.01)
