import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.throughput_estimate import FirstOutputEstimate, RateEstimate


def test_first_outputs_prove_nothing_at_first():
    assert FirstOutputEstimate().at(100.0) == 0


def test_first_outputs_prove_the_peak_of_streams_in_service():
    proven = FirstOutputEstimate()
    for _ in range(3):
        proven.first(10.2)
    proven.ended(10.4)
    proven.first(10.6)
    proven.first(10.7)

    assert proven.at(10.9) == proven.serving == 4


def test_the_peak_of_first_outputs_is_remembered_for_five_seconds():
    proven = FirstOutputEstimate()
    for _ in range(6):
        proven.first(10.0)
    for _ in range(5):
        proven.ended(10.5)

    assert [proven.at(float(second)) for second in (10, 14, 15, 100)] == [6, 6, 1, 1]


def test_forget_keeps_the_last_two_seconds():
    proven = FirstOutputEstimate()
    for _ in range(6):
        proven.first(10.0)
    proven.ended(11.0)
    for _ in range(4):
        proven.ended(12.5)
    proven.forget(12.9)

    assert [proven.at(12.9), proven.at(13.0)] == [6, 6]
    proven.forget(14.0)
    assert proven.at(14.0) == 1


def test_forget_drops_ended_streams():
    proven = FirstOutputEstimate()
    proven.first(0.0)
    proven.ended(0.5)
    assert proven.at(3.0) == 1
    proven.forget(3.0)

    assert proven.at(3.0) == 0


def test_streams_in_service_stay_proven():
    proven = FirstOutputEstimate()
    proven.first(0.0)
    proven.first(0.0)

    assert proven.at(500.0) == 2


@given(st.lists(st.tuples(st.floats(0.0, 4.0), st.booleans()), max_size=100))
def test_first_outputs_prove_between_the_present_and_the_highest_service(steps):
    proven, now, most = FirstOutputEstimate(), 0.0, 0
    for pause, begins in steps:
        now += pause
        if begins:
            proven.first(now)
        elif proven.serving:
            proven.ended(now)
        most = max(most, proven.serving)

        assert proven.serving <= proven.at(now) <= most


def answered(rate, seconds, took, mean, proven=None, start=0.0):
    """Answers at a steady rate."""
    proven = proven or RateEstimate()
    for number in range(int(rate * seconds)):
        proven.answered(start + number / rate, took, mean)
    return proven


def test_a_rate_proves_nothing_at_first():
    assert RateEstimate().at(100.0, 2.0) == 0.0
    assert RateEstimate().at(100.0, None) == 0.0


@table_test(("rate", "mean"), [(10, 2.0), (100, 0.5), (4, 20.0)])
def test_a_rate_proves_by_littles_law(rate, mean):
    proven = answered(rate, 10 * mean, mean, mean)

    assert proven.at(10 * mean, mean) == pytest.approx(rate * mean, rel=0.05)


def test_the_shortest_answer_replaces_an_unknown_mean():
    proven = answered(10, 20, 2.0, None)
    assert proven.at(20.0, None) == pytest.approx(20.0, rel=0.05)
    proven.answered(20.0, 1.0, None)
    assert proven.at(20.0, None) == pytest.approx(10.0, rel=0.1)


def test_the_replacement_of_the_mean_grows_slowly_with_longer_answers():
    proven = RateEstimate()
    proven.answered(0.0, 1.0, None)
    proven.answered(0.0, 11.0, None)

    assert proven._min_duration == pytest.approx(1.2)


def test_the_best_two_slices_count_and_are_forgotten():
    proven = answered(50, 2, 2.0, 2.0)  # two slices of a second
    answered(10, 3, 2.0, 2.0, proven, start=2.0)
    assert proven.at(4.9, 2.0) == pytest.approx(100.0)
    answered(10, 5, 2.0, 2.0, proven, start=5.0)

    assert proven.at(9.9, 2.0) == pytest.approx(20.0)


def test_a_cut_answer_counts_for_its_duration():
    proven = RateEstimate()
    for took in (0.5, 1.0, 9.0):
        proven.cut(3.0, took, 2.0)

    assert proven.at(3.5, 2.0) == 2.0 * (0.25 + 0.5 + 1.0)


def test_a_single_slice_proves_its_rate():
    proven = RateEstimate()
    for _ in range(8):
        proven.answered(3.0, 2.0, 2.0)

    assert proven.at(3.5, 2.0) == 16.0


def test_a_rate_proves_nothing_after_a_long_silence():
    proven = answered(50, 10, 2.0, 2.0)

    assert proven.at(600.0, 2.0) == 0.0


@given(
    st.lists(
        st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 60.0), st.none() | st.floats(0.0, 60.0)),
        max_size=100,
    )
)
def test_a_rate_estimate_is_never_negative_and_its_memory_is_bounded(steps):
    proven, now = RateEstimate(), 0.0
    for pause, took, mean in steps:
        now += pause
        proven.answered(now, took, mean)

        assert proven.at(now, mean) >= 0.0
        assert len(proven._slices) <= 5
        assert now < proven._slices[-1].ends


def test_a_peak_lasts_to_the_end_of_its_attempt():
    proven = FirstOutputEstimate()
    proven.first(0.0)
    proven.ended(4.0)

    assert proven.at(8.5) == 1
    assert proven.at(9.5) == 0


def test_a_peak_within_a_second_is_kept():
    proven = FirstOutputEstimate()
    for _ in range(2):
        proven.first(7.1)
    for _ in range(2):
        proven.ended(7.2)
    proven.first(7.3)

    assert proven.at(7.4) == 2


def test_a_slice_is_half_the_usual_time_wide():
    proven = RateEstimate()
    for _ in range(8):
        proven.answered(0.0, 2.0, 8.0)

    assert proven.at(1.0, 8.0) == 8 / 4 * 8  # the first slice alone
    proven.answered(5.0, 2.0, 8.0)
    assert proven.at(5.0, 8.0) == (8 + 1) / (4 + 4) * 8


def test_a_silence_shorter_than_the_slices_forgets_nothing():
    proven = RateEstimate()
    for _ in range(8):
        proven.answered(0.0, 2.0, 8.0)

    assert proven.at(12.0, 8.0) == 8 / (4 + 4) * 8
