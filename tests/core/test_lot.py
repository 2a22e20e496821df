import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.core.lot import DOUBT, FEWEST, LASTS, MOST, SETTLING, SILENT, Lot


class Draw:
    """A lot on trial, and seconds that are played to it."""

    def __init__(self, share=0.3):
        self.found = []
        self.lot = Lot(self.found.append)
        self.now = 100.0
        self.lot.suppose(share, self.now)

    def play(self, seconds, sent, refused):
        """So many seconds with so many sent and refused in each; for a list, one number each."""
        for number in range(seconds):
            for _ in range(sent):
                self.lot.sent(self.now)
            for _ in range(
                refused[number % len(refused)] if isinstance(refused, list) else refused
            ):
                self.lot.refused(self.now)
            self.now += 1.0
        self.lot.on_trial(self.now)
        return self


def test_the_same_share_although_less_is_sent_is_a_lot():
    draw = Draw(0.3).play(30, 10, 3)

    assert len(draw.found) == 1
    assert draw.lot.holds(draw.now)
    assert not draw.lot.on_trial(draw.now)


def test_refusals_that_become_few_are_a_limit():
    draw = Draw(0.3).play(30, 10, [1, 0])

    assert (draw.found, draw.lot.on_trial(draw.now)) == ([], False)


def test_the_first_seconds_do_not_count():
    draw = Draw(0.3).play(int(SETTLING), 1_000, 300)

    assert draw.found == []
    assert draw.lot.on_trial(draw.now)


def test_a_second_counts_when_it_is_over():
    draw = Draw(0.3).play(6, 0, 0)
    for _ in range(50):
        draw.lot.sent(draw.now)
        draw.lot.refused(draw.now)
    assert draw.lot.on_trial(draw.now)

    assert not draw.lot.on_trial(draw.now + 1.0)


def test_silence_ends_a_trial_undecided():
    draw = Draw(0.3).play(int(SILENT), 0, 0)
    assert draw.lot.on_trial(draw.now)

    assert not draw.lot.on_trial(draw.now + 1.0)
    assert draw.found == []


def test_where_nearly_everything_is_refused_there_is_no_lot():
    assert not Draw(MOST + 0.01).lot.on_trial(100.0)
    draw = Draw(0.5).play(30, 10, 10)

    assert (draw.found, draw.lot.on_trial(draw.now)) == ([], False)


def test_it_lasts_for_ten_minutes():
    draw = Draw(0.3).play(12, 10, 3)
    (found_at,) = draw.found

    assert draw.lot.holds(found_at + LASTS - 0.1)
    assert not draw.lot.holds(found_at + LASTS)


@pytest.mark.parametrize(
    ("refused", "explained"), [(30, True), (44, True), (46, False), (70, False)]
)
def test_chance_explains_so_much_and_no_more(refused, explained):
    draw = Draw(0.3).play(100, 10, 3)

    assert draw.lot.explains(100, refused) is explained


def test_the_share_is_followed():
    draw = Draw(0.3).play(60, 10, 3)
    assert not draw.lot.explains(1_000, 600)
    for _ in range(6):
        draw.play(60, 10, 6)

    assert draw.lot.explains(1_000, 600)


def test_a_share_of_next_to_nothing_is_forgotten():
    draw = Draw(0.3).play(60, 10, 3)
    draw.play(500, 10, 0)

    assert not draw.lot.holds(draw.now)
    assert FEWEST > 0


def test_after_an_error_the_next_trial_waits_and_each_time_twice_as_long():
    draw = Draw(0.3)
    for doubt in (DOUBT, 2 * DOUBT, 4 * DOUBT):
        draw.lot.suppose(0.3, draw.now)
        draw.play(20, 10, 3)
        assert draw.lot.holds(draw.now)
        draw.lot.revoke(draw.now)
        assert not draw.lot.holds(draw.now)
        draw.now += doubt - 0.1
        draw.lot.suppose(0.3, draw.now)
        assert not draw.lot.on_trial(draw.now)
        draw.now += 0.1


def test_a_trial_is_not_begun_anew_while_it_runs():
    draw = Draw(0.3).play(int(SETTLING), 10, 3)
    draw.lot.suppose(0.3, draw.now)
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
def test_whatever_comes_the_share_is_one_and_it_never_fails(steps):
    """Answers may belong to sends of long ago: more may be refused than was sent."""
    draw = Draw(0.5)
    for pause, sent, refused, share in steps:
        draw.now += pause
        draw.play(1, sent, refused)
        draw.lot.suppose(share, draw.now)
        assert 0.0 <= draw.lot._share <= MOST
        if draw.lot.holds(draw.now):
            draw.lot.explains(sent, refused)
