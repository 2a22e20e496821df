from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.window import CountWindow, DecayingMean, TimeWindow


def counted(window, now):
    window.roll(now)
    return window.calls, window.failures


def test_a_window_counts_calls_and_failures():
    window = TimeWindow(10.0)
    for failed in (True, False, True):
        window.add(5.0, failed=failed)

    assert counted(window, 5.0) == (3, 2)


def test_a_slice_expires_as_a_whole():
    window = TimeWindow(10.0, buckets=10)
    window.add(0.9, failed=True)
    window.add(1.1, failed=False)

    assert counted(window, 9.99) == (2, 1)
    assert counted(window, 10.0) == (1, 0)
    assert counted(window, 11.0) == (0, 0)


def test_a_long_silence_empties_a_window():
    window = TimeWindow(10.0)
    window.add(0.0, failed=True)

    assert counted(window, 1e6) == (0, 0)


def test_a_late_result_goes_into_the_newest_slice():
    window = TimeWindow(10.0)
    window.add(50.0, failed=False)
    window.add(45.0, failed=True)

    assert counted(window, 59.0) == (2, 1)
    assert counted(window, 60.0) == (0, 0)


def test_clear_forgets_all_results():
    window = TimeWindow(10.0)
    window.add(0.0, failed=True)
    window.clear()

    assert counted(window, 0.0) == (0, 0)


@given(st.lists(st.tuples(st.floats(0.0, 9.0), st.booleans()), max_size=60))
def test_a_window_holds_no_older_results_and_misses_a_slice_at_most(steps):
    window, seconds, now, seen = TimeWindow(10.0), 10.0, 0.0, []
    for pause, failed in steps:
        now += pause
        window.add(now, failed=failed)
        seen.append((now, failed))
        surely = [f for at, f in seen if at > now - 0.9 * seconds + 1e-6]
        at_most = [f for at, f in seen if at > now - seconds - 1e-6]

        assert len(surely) <= window.calls <= len(at_most)
        assert sum(surely) <= window.failures <= sum(at_most)


def test_a_window_has_ten_slices_by_default():
    window = TimeWindow(10.0)
    window.add(0.95, failed=True)

    assert counted(window, 9.99) == (1, 1)
    assert counted(window, 10.0) == (0, 0)


def test_slices_may_be_wider_than_a_second():
    window = TimeWindow(40.0)
    window.add(3.9, failed=False)
    window.add(4.1, failed=True)

    assert counted(window, 39.9) == (2, 1)
    assert counted(window, 40.0) == (1, 1)
    assert counted(window, 44.0) == (0, 0)


def test_a_clock_may_start_before_zero():
    window = TimeWindow(10.0)
    window.add(-1e6, failed=True)

    assert counted(window, -1e6 + 5) == (1, 1)
    assert counted(window, -1e6 + 11) == (0, 0)


def test_the_end_of_a_slice_belongs_to_the_next():
    window = TimeWindow(10.0)
    window.add(0.5, failed=False)
    window.add(1.0, failed=True)

    assert counted(window, 10.5) == (1, 1)


@table_test("silence", range(10, 30))
def test_no_slice_survives_a_silence(silence):
    window = TimeWindow(10.0)
    window.add(3.5, failed=True)

    assert counted(window, 3.5 + silence) == (0, 0)


def test_slices_may_be_narrow():
    window = TimeWindow(1.0)
    window.add(0.05, failed=False)
    window.add(0.55, failed=True)

    assert counted(window, 1.02) == (1, 1)
    assert counted(window, 1.52) == (0, 0)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 8))
def test_a_count_window_holds_the_last_results(outcomes, last):
    window = CountWindow(last)
    for number, failed in enumerate(outcomes, start=1):
        window.add(0.0, failed=failed)
        held = outcomes[:number][-last:]
        assert (window.calls, window.failures) == (len(held), sum(held))
    window.clear()
    assert (window.calls, window.failures) == (0, 0)


def test_a_cleared_count_window_forgets_earlier_results():
    window = CountWindow(2)
    for failed in (True, True, True):
        window.add(0.0, failed=failed)
    window.clear()
    window.add(0.0, failed=False)

    assert (window.calls, window.failures) == (1, 0)


def test_a_mean_is_weighted_by_duration_and_unbiased_at_its_start():
    mean = DecayingMean(30.0)
    assert mean.mean() == 0.0
    mean.add(5.0, 1.0)
    assert mean.mean() == pytest.approx(5.0)
    mean.add(9.0, 3.0)
    assert 8.0 < mean.mean() < 8.2
    mean.add(1.0, 300.0)
    assert mean.mean() == pytest.approx(1.0, rel=0.01)


def test_weight_missing_to_the_minimum_counts_as_zero():
    mean = DecayingMean(30.0)
    mean.add(8.0, 30.0)

    assert mean.mean(min_weight=0.5) == pytest.approx(8.0)
    assert mean.mean(min_weight=1.0) == pytest.approx(8.0 * (1 - exp(-1.0)))


def test_a_span_without_length_does_not_count():
    mean = DecayingMean(30.0)
    mean.add(inf, 1e-308)

    assert mean.mean() == 0.0
