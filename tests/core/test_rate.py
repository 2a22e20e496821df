from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, told

from stormbreak.core.gate import OPEN
from stormbreak.core.rate import LearnedRate


def spent(sent, refused, now=100.0, seconds=9.0, outcome=THROTTLED):
    """A rate after so many sends in the last seconds, the last of which were refused."""
    rate = LearnedRate()
    for number in range(sent):
        rate.take(now - seconds + seconds * number / sent)
    for _ in range(refused):
        rate.settle(None, outcome, now, 0.5)
    return rate


def test_nothing_is_learned_at_first():
    rate = LearnedRate()

    assert (rate.ready_at(0.0), rate.rate_at(0.0), rate.in_force(0.0)) == (OPEN, inf, False)


@pytest.mark.parametrize(("sent", "refused"), [(1, 1), (200, 1), (200, 19)])
def test_stray_refusals_teach_nothing(sent, refused):
    assert not spent(sent, refused).in_force(100.0)


@pytest.mark.parametrize("outcome", [OK, SERVER_ERROR])
def test_nothing_but_429s_teaches(outcome):
    assert not spent(100, 100, outcome=outcome).in_force(100.0)


@pytest.mark.parametrize("outcome", [THROTTLED, told(3.0)])
def test_nine_tenths_of_what_was_accepted(outcome):
    rate = spent(200, 20, outcome=outcome)

    assert rate.in_force(100.0)
    assert rate.rate_at(100.0) == pytest.approx(0.9 * 18.0)


def test_two_percent_more_each_second_and_gone_after_two_minutes():
    rate = spent(200, 20)

    assert rate.rate_at(110.0) == pytest.approx(0.9 * 18.0 * 1.02**10)
    assert rate.in_force(219.9)
    assert not rate.in_force(220.0)
    assert (rate.rate_at(220.0), rate.ready_at(220.0)) == (inf, OPEN)


def test_a_lesson_every_two_seconds():
    rate = spent(200, 20)
    for _ in range(100):
        rate.settle(None, THROTTLED, 101.9, 0.5)
    assert rate.rate_at(100.0) == pytest.approx(0.9 * 18.0)
    rate.settle(None, THROTTLED, 102.0, 0.5)

    assert rate.rate_at(102.0) < 10.0


def test_half_where_nothing_was_accepted():
    rate = spent(10, 10)  # the second refusal taught: eight more were to come
    assert rate.rate_at(100.0) == pytest.approx(0.9 * 0.8)
    for _ in range(5):
        rate.settle(None, THROTTLED, 104.0, 0.5)
    assert rate.rate_at(104.0) == pytest.approx(0.9 * 0.8 * 1.02**4 / 2)


def test_half_of_what_was_sent_where_no_rate_was_known():
    assert spent(2, 2).rate_at(100.0) == pytest.approx(0.1)


def test_never_slower_than_one_in_twenty_seconds():
    rate = spent(2, 2)
    for step in range(20):
        rate.settle(None, THROTTLED, 100.0 + 2.1 * step, 0.5)
        rate.settle(None, THROTTLED, 100.0 + 2.1 * step, 0.5)

    assert rate.rate_at(100.0 + 2.1 * 19) == pytest.approx(0.05)


def left(rate, since, until):
    """When calls leave that all wait already."""
    times, now = [], since
    while now < until:
        ready_at = rate.ready_at(now)
        if ready_at == OPEN:
            rate.take(now)
            times.append(now)
        else:
            now = max(ready_at, now + 1e-6)
    return times


def test_calls_leave_at_the_rate():
    rate = spent(200, 20)  # 16.2 per second, and growing
    times = left(rate, 100.0, 110.0)

    assert len(times) == pytest.approx(sum(16.2 * 1.02**n for n in range(10)), rel=0.03)
    assert times[0] > 100.0


def test_an_idle_second_and_no_more_is_saved_up():
    rate = spent(200, 20)
    burst = [time for time in left(rate, 150.0, 150.01) if time == 150.0]

    assert len(burst) == 16  # of 16.2 per second, when the last was sent


@given(
    st.lists(
        st.tuples(st.floats(0.0, 40.0), st.integers(0, 4), st.sampled_from([OK, THROTTLED])),
        max_size=60,
    )
)
def test_looking_changes_nothing_and_it_opens_when_it_said(steps):
    rate, now = LearnedRate(), 0.0
    for pause, count, outcome in steps:
        now += pause
        before = [getattr(rate, name) for name in ("_credit", "_earned_at", "_earning", "_rate")]
        ready_at = rate.ready_at(now)
        assert before == [
            getattr(rate, name) for name in ("_credit", "_earned_at", "_earning", "_rate")
        ]
        if ready_at > now:
            assert rate.ready_at(ready_at + 1e-6) == OPEN
            now = ready_at + 1e-6
        for _ in range(count):
            if rate.ready_at(now) == OPEN:
                rate.take(now)
        rate.settle(None, outcome, now, 0.5)
        assert rate.rate_at(now) >= 0.05


def test_forgotten_where_the_target_serves_while_it_refuses():
    rate = spent(200, 40)
    rate.forget()
    assert (rate.in_force(100.0), rate.ready_at(100.0)) == (False, OPEN)
    rate.settle(None, THROTTLED, 103.0, 0.5)

    assert not rate.in_force(103.0)  # what was refused before does not count any more
