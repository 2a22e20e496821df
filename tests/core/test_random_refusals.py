from bisect import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.random_refusals import MAX_SHARE, MIN_SHARE, RandomRefusals


class RandomStorm:
    """A trial of random refusals, and seconds of traffic for it."""

    def __init__(self, share=0.3):
        self.found = []
        self.luck = RandomRefusals(self.found.append)
        self.now = 100.0
        self.luck.suppose(share, self.now)

    def play(self, seconds, sent, refused):
        """`seconds` with `sent` and `refused` in each; `refused` may be a list, one number a second."""
        for number in range(seconds):
            for _ in range(sent):
                self.luck.on_send(self.now)
            for _ in range(
                refused[number % len(refused)] if isinstance(refused, list) else refused
            ):
                self.luck.refused(self.now)
            self.now += 1.0
            self.luck.on_trial(self.now)
        return self

    def refuse(self, second, refused, sent=0):
        """Sends and refusals at `second`."""
        for _ in range(sent):
            self.luck.on_send(second)
        for _ in range(refused):
            self.luck.refused(second)


def most_explained(luck, sent):
    """How many of `sent` may be refused."""
    return bisect(range(sent), False, key=lambda refused: not luck.explains(sent, refused)) - 1


def test_the_same_share_at_a_lower_rate_is_random():
    draw = RandomStorm(0.3).play(30, 10, 3)

    assert len(draw.found) == 1
    assert draw.luck.holds(draw.now)
    assert not draw.luck.on_trial(draw.now)
    assert not draw.luck.is_limit


def test_fewer_refusals_at_a_lower_rate_show_a_limit():
    draw = RandomStorm(0.3).play(30, 10, [1, 0])

    assert (draw.found, draw.luck.on_trial(draw.now)) == ([], False)
    assert draw.luck.is_limit


def test_a_restart_forgets_what_was_sent():
    draw = RandomStorm(0.3).play(5, 10, 3)
    draw.luck.on_send(draw.now)
    assert draw.luck.sent_lately(draw.now) == 51
    draw.luck.restart()

    assert draw.luck.sent_lately(draw.now) == 0


def test_the_first_five_seconds_do_not_count():
    draw = RandomStorm(0.3).play(5, 1_000, 300)

    assert draw.found == []
    assert draw.luck.on_trial(draw.now)
    assert draw.play(1, 1_000, 300).found == [106.0]


@table_test("odds", [99.5, 100.5])
def test_odds_of_a_hundred_to_one_show_random_refusals(odds):
    """Four refused and one accepted: four times odds of 4 to 1 for it, and the fifth against it."""
    fifth = odds / 4**4  # = (1 - share) / (1 - share / 4)
    draw = RandomStorm((1 - fifth) / (1 - fifth / 4)).play(5, 0, 0).play(1, 5, 4)

    assert bool(draw.found) is (odds > 100)
    assert draw.luck.on_trial(draw.now) is (odds < 100)


@table_test("odds", [99.5, 100.5])
def test_odds_of_a_hundred_to_one_show_a_limit(odds):
    twenty = odds ** (-1 / 20)
    draw = RandomStorm((1 - twenty) / (1 - twenty / 4)).play(5, 0, 0).play(1, 20, 0)

    assert draw.found == []
    assert draw.luck.on_trial(draw.now) is (odds < 100)


def test_a_refusal_counts_in_its_own_second_also_without_a_send():
    draw = RandomStorm(0.3).play(4, 10, 0)
    draw.refuse(104.5, 0, sent=1)  # the last second that does not count
    draw.refuse(105.5, 4)

    assert not draw.luck.on_trial(106.0)


def test_a_second_counts_when_it_is_over():
    draw = RandomStorm(0.3).play(6, 0, 0)
    for _ in range(50):
        draw.luck.on_send(draw.now)
        draw.luck.refused(draw.now)
    assert draw.luck.on_trial(draw.now)

    assert not draw.luck.on_trial(draw.now + 1.0)


def test_silence_ends_a_trial_undecided():
    draw = RandomStorm(0.3).play(40, 0, 0)
    assert draw.luck.on_trial(draw.now)

    assert not draw.luck.on_trial(draw.now + 1.0)
    assert draw.found == []
    assert not draw.luck.is_limit


def test_indecisive_refusals_keep_a_trial_going():
    draw = RandomStorm(0.3).play(
        60, 6, 1
    )  # one in six is between three in ten and a quarter of that
    draw.refuse(160.0, 1)
    draw.now = 161.0  # its second is over

    assert draw.luck.on_trial(draw.now + 40.0)
    assert not draw.luck.on_trial(draw.now + 41.0)


def test_refusals_of_nearly_everything_are_not_random():
    assert not RandomStorm(MAX_SHARE + 0.01).luck.on_trial(100.0)
    draw = RandomStorm(0.5).play(30, 10, 10)

    assert (draw.found, draw.luck.on_trial(draw.now)) == ([], False)


def test_refusals_of_nine_in_ten_may_be_random():
    draw = RandomStorm(0.9)
    assert draw.luck.on_trial(100.0)

    assert draw.play(5, 0, 0).play(1, 10, 9).found


def test_random_refusals_are_assumed_for_ten_minutes():
    draw = RandomStorm(0.3).play(12, 10, 3)
    (found_at,) = draw.found

    assert draw.luck.holds(found_at + 599.9)
    assert not draw.luck.holds(found_at + 600.0)


@table_test(("refused", "explained"), [(30, True), (44, True), (46, False), (70, False)])
def test_chance_explains_refusals_up_to_three_deviations(refused, explained):
    draw = RandomStorm(0.3).play(100, 10, 3)

    assert draw.luck.explains(100, refused) is explained


def test_the_share_is_what_was_refused_during_the_trial():
    draw = RandomStorm(0.3).play(8, 10, 3)

    assert draw.found == [108.0]
    # of 100: 30, and three deviations of a count of 100 and of a share from 30, sqrt(0.21 * (100 + 100**2 / 30))
    assert most_explained(draw.luck, 100) == 58


def test_a_send_at_the_start_of_a_second_counts_in_it():
    draw = RandomStorm(0.3)
    for second in range(100, 108):
        draw.refuse(float(second), 3, sent=10)

    assert not draw.luck.on_trial(108.0)
    assert most_explained(draw.luck, 100) == 58  # as before: three in ten


def test_no_refusal_of_no_send_needs_no_explanation():
    assert RandomStorm(0.3).play(10, 10, 3).luck.explains(0, 0)


def test_the_share_is_that_of_the_last_thousand_sends():
    draw = RandomStorm(0.3).play(200, 10, 3)
    draw.play(1, 10, 10)  # moves it by seven in a thousand

    # three deviations of a count of a million and of a share from a thousand
    deviation = (0.307 * 0.693 * (1e6 + 1e12 / 1e3)) ** 0.5
    assert most_explained(draw.luck, 1_000_000) == int(307_000 + 3 * deviation)


def test_the_share_follows_a_slow_change():
    draw = RandomStorm(0.3).play(60, 10, 3)
    assert not draw.luck.explains(1_000, 600)
    for _ in range(6):
        draw.play(60, 10, 6)

    assert draw.luck.explains(1_000, 600)


def test_a_share_near_zero_is_forgotten():
    draw = RandomStorm(0.3).play(60, 10, 3)
    draw.play(500, 10, 0)

    assert not draw.luck.holds(draw.now)
    assert MIN_SHARE > 0


def test_each_revoked_finding_doubles_the_wait_for_the_next_trial():
    draw = RandomStorm(0.3)
    for doubt in (30.0, 60.0, 120.0):
        draw.luck.suppose(0.3, draw.now)
        draw.play(20, 10, 3)
        assert draw.luck.holds(draw.now)
        draw.luck.revoke(draw.now)
        assert not draw.luck.holds(draw.now)
        draw.now += doubt - 0.1
        draw.luck.suppose(0.3, draw.now)
        assert not draw.luck.on_trial(draw.now)
        draw.now += 0.1


def test_a_running_trial_is_not_restarted():
    draw = RandomStorm(0.3).play(5, 10, 3)
    draw.luck.suppose(0.3, draw.now)
    draw.play(5, 10, 3)

    assert draw.found


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 20.0), st.integers(0, 20), st.integers(0, 20), st.floats(0.0, 1.0)
        ),
        max_size=60,
    )
)
def test_the_share_stays_within_bounds_for_any_input(steps):
    """Refusals may belong to earlier sends: more may be refused than was sent."""
    draw = RandomStorm(0.5)
    for pause, sent, refused, share in steps:
        draw.now += pause
        draw.play(1, sent, refused)
        draw.luck.suppose(share, draw.now)
        assert 0.0 <= draw.luck._share <= MAX_SHARE
        if draw.luck.holds(draw.now):
            draw.luck.explains(sent, refused)


def test_refusals_in_a_second_without_sends_count_for_the_share():
    """One call every two seconds; its answer, a refusal half the time, comes within the next second."""
    draw = RandomStorm(0.5).play(60, 10, 5)
    share = most_explained(draw.luck, 1_000)
    for number in range(600):
        draw.luck.on_send(draw.now)
        draw.now += 1.0
        if number % 2:
            draw.luck.refused(draw.now)
        draw.now += 1.0
        draw.luck.on_trial(draw.now)
        if number == 250:
            break

    assert most_explained(draw.luck, 1_000) == pytest.approx(share, rel=0.05)


@table_test(
    ("before", "after", "holds"),
    [(2, 5, True), (2, 6, False), (5, 8, True), (5, 9, False), (8, 9, True), (8, 10, False)],
)
def test_a_share_that_climbs_to_four_times_the_odds_is_no_longer_random(before, after, holds):
    """Of ten: from odds of 1 to 4 up to 1 to 1, or from 1 to 1 up to 4 to 1."""
    draw = RandomStorm(before / 10).play(30, 10, before)
    for each in range(before, after):
        draw.play(30, 10, [each, each + 1])
    draw.play(300, 10, after)

    assert draw.luck.holds(draw.now) is holds
    assert draw.luck.is_limit is not holds
