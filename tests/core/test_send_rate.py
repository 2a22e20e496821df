"""The send rate learned from 429s: its first value, changes, brake, deaths and credit."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from send_rates import leave_times, rate_after, send_rate
from stage import OK, SERVER_ERROR, THROTTLED, retry_in
from table_test import table_test

from stormbreak.core.gate import READY


def limited():
    """A rate whose first trial has found a limit: 18 a second, none refused for ten seconds."""
    rate = rate_after(200, 20)
    leave_times(rate, 100.0, 110.0)
    return rate


def test_a_new_send_rate_holds_no_call():
    rate = send_rate()

    assert (rate.ready_at(None, 0.0), rate.rate_at(0.0), rate.in_force(0.0)) == (READY, inf, False)


@table_test(("sent", "refused"), [(1, 1), (200, 1), (200, 19)])
def test_stray_refusals_set_no_rate(sent, refused):
    assert not rate_after(sent, refused).in_force(100.0)


@table_test("outcome", [OK, SERVER_ERROR])
def test_only_429s_set_a_rate(outcome):
    assert not rate_after(100, 100, outcome=outcome).in_force(100.0)


@table_test("outcome", [THROTTLED, retry_in(3.0)])
def test_the_first_rate_is_what_was_accepted(outcome):
    rate = rate_after(200, 20, outcome=outcome)

    assert rate.in_force(100.0)
    assert rate.rate_at(100.0) == pytest.approx(18.0)


@table_test(("refused_at", "powers"), [(115.0, 2.0), (120.0, 1.5)])
def test_the_rate_grows_two_percent_a_second_after_the_trial_faster_without_refusals(
    refused_at, powers
):
    """Ten seconds without a refusal count twice, five and five one and a half times."""
    rate = rate_after(200, 20)
    assert rate.rate_at(115.0) == pytest.approx(18.0)
    rate.settle(None, THROTTLED, refused_at, 0.5)  # one refusal sets no rate

    assert rate.rate_at(125.0) == pytest.approx(18.0 * (1.02**10) ** powers)


def test_a_rate_ends_after_two_minutes():
    rate = rate_after(200, 20)

    assert rate.in_force(219.9)
    assert not rate.in_force(220.0)
    assert (rate.rate_at(220.0), rate.ready_at(None, 220.0)) == (inf, READY)


def test_the_rate_changes_every_two_seconds_at_most():
    rate = limited()
    for _ in range(100):
        rate.settle(None, THROTTLED, 110.0, 0.5)
    learned = rate.rate_at(110.0)
    for _ in range(100):
        rate.settle(None, THROTTLED, 111.9, 0.5)
    assert rate.rate_at(111.9) == learned
    rate.settle(None, THROTTLED, 112.0, 0.5)

    assert rate.rate_at(112.0) < learned


@table_test(("pause", "learned"), [(10.0, True), (10.1, False)])
def test_a_pause_of_more_than_ten_seconds_restarts_the_measurement(pause, learned):
    rate = send_rate()
    rate.take(None, 0.0)
    for _ in range(9):
        rate.take(None, pause)
    for _ in range(9):
        rate.settle(None, THROTTLED, 12.0, 0.5)

    assert rate.in_force(12.0) is learned


def test_the_rate_is_no_lower_than_what_was_served_before():
    rate = rate_after(10, 10)  # the second refusal set the rate: eight more were to come
    for _ in range(5):
        rate.settle(None, THROTTLED, 114.0, 0.5)
    assert rate.rate_at(114.0) == pytest.approx(0.8)


def test_an_unknown_rate_starts_at_half_of_what_was_sent():
    assert rate_after(5, 5).rate_at(100.0) == pytest.approx(3 / 10)  # three were still in flight
    assert rate_after(4, 4).rate_at(100.0) == inf  # too few to learn from


def test_the_rate_is_half_of_what_was_sent_if_all_was_refused():
    rate = send_rate()
    for second in range(6):
        rate.take(None, float(second))
        rate.settle(None, THROTTLED, float(second), 0.5)

    assert rate.rate_at(5.0) == pytest.approx(6 / 5 / 2)


def test_the_rate_is_at_least_one_in_twenty_seconds():
    rate = send_rate()
    for second in range(6):
        rate.take(None, float(second))
        rate.settle(None, THROTTLED, float(second), 0.5)
    for step in range(20):
        rate.settle(None, THROTTLED, 10.0 + 2.1 * step, 0.5)
        rate.settle(None, THROTTLED, 10.0 + 2.1 * step, 0.5)

    assert rate.rate_at(10.0 + 2.1 * 19) == pytest.approx(0.05)


def test_before_a_trial_finds_a_limit_the_rate_is_at_least_what_was_served():
    rate = rate_after(200, 20)  # 18 a second
    for refused_at in (*[101.0] * 50, *[102.1] * 30, *[104.2] * 30):
        rate.settle(None, THROTTLED, refused_at, 0.5)

    assert rate.rate_at(104.2) == pytest.approx(18.0)


def test_a_trial_that_finds_a_limit_lowers_the_floor_to_half():
    rate = limited()
    for refused_at in (*[110.1] * 40, *[112.2] * 40, *[114.3] * 40):
        rate.settle(None, THROTTLED, refused_at, 0.5)
        assert rate.rate_at(refused_at) >= 8.0

    assert rate.rate_at(114.3) < 10.0


def first_burst(sent, refused):
    """A rate whose first `sent` leave at once; half a second later `refused` of them are refused."""
    rate = send_rate()
    for _ in range(sent):
        rate.take(None, 10.0)
    for _ in range(refused):
        rate.settle(None, THROTTLED, 10.5, 0.5)
    return rate


@table_test(("sent", "refused"), [(100, 90), (19, 19)])
def test_a_first_burst_is_held_only_if_nearly_all_of_twenty_are_refused(sent, refused):
    assert not first_burst(sent, refused).in_force(10.5)


@table_test(("sent", "refused", "per_second"), [(100, 95, 5.0), (20, 20, 1.0)])
def test_a_brake_holds_sending_to_what_was_accepted_until_a_first_rate(sent, refused, per_second):
    rate = first_burst(sent, refused)
    times = leave_times(rate, 10.5, 12.4)

    assert rate.rate_at(10.5) == rate.rate_at(12.4) == pytest.approx(per_second)
    assert times[0] == pytest.approx(10.5 + 1 / per_second)
    assert len(times) == pytest.approx(1.9 * per_second, abs=1)


def test_a_brake_counts_what_was_accepted_since_the_first_send():
    rate = first_burst(100, 80)  # not yet nearly all
    for _ in range(12):
        rate.settle(None, THROTTLED, 12.0, 0.5)
    assert rate.rate_at(12.0) == pytest.approx(8 / 2)
    later = len(leave_times(rate, 12.0, 13.9))
    for _ in range(later):
        rate.settle(None, THROTTLED, 14.0, 0.5)

    assert later == pytest.approx(8, abs=1)
    assert rate.rate_at(14.0) == pytest.approx(8 / 4)


@table_test(("refused_at", "ends_at"), [((), 12.5), ((12.0,), 14.0), ((12.0, 13.5, 14.9), 16.9)])
def test_a_brake_ends_two_seconds_after_the_last_refusal(refused_at, ends_at):
    rate = first_burst(100, 95)
    for each in refused_at:
        rate.take(None, each)
        rate.settle(None, THROTTLED, each, 0.5)

    assert rate.in_force(ends_at - 0.1)
    assert (rate.in_force(ends_at), rate.ready_at(None, ends_at)) == (False, READY)


def test_a_brake_saves_no_credit_and_keeps_what_is_earned():
    rate = first_burst(100, 100)  # one a second
    assert rate.ready_at(None, 10.5) == pytest.approx(11.5)
    for _ in range(50):
        rate.take(None, 10.5)
    rate.settle(None, THROTTLED, 11.0, 0.5)

    assert rate.rate_at(11.0) == pytest.approx(49.0)
    assert rate.ready_at(None, 11.0) == pytest.approx(11.0 + 0.5 / 49.0, abs=0.001)


def test_time_to_send_knows_that_a_brake_will_end():
    rate = first_burst(100, 100)

    assert rate.time_to_send(100, 10.5) == pytest.approx(2.0)


def test_a_learned_rate_replaces_a_brake():
    rate = first_burst(100, 95)
    later = len(leave_times(rate, 11.0, 12.4))
    rate.settle(None, THROTTLED, 12.4, 0.5)
    later += len(leave_times(rate, 12.4, 14.3))
    for _ in range(2):
        rate.settle(None, THROTTLED, 15.0, 0.5)

    assert rate.rate_at(15.0) == pytest.approx((100 + later - 97) / 5, rel=0.15)
    assert rate.in_force(120.0)


def test_seconds_with_a_dead_target_do_not_count():
    rate = send_rate()
    for second in range(10):
        rate.take(None, float(second))  # a probe
    rate.restart(10.0)
    for number in range(100):
        rate.take(None, 10.0 + number / 20)
    for _ in range(20):
        rate.settle(None, THROTTLED, 15.0, 0.5)

    assert rate.rate_at(15.0) == pytest.approx(90 / 5, rel=0.1)  # the tenth refusal set the rate


def after_deaths(rate, *deaths):
    """Twenty a second left until 100.0, a few were refused; then the target was dead at `deaths`."""
    for number in range(400):
        rate.take(None, 80.0 + number / 20)
    for _ in range(9):
        rate.settle(None, THROTTLED, 98.0, 0.5)
    for death in deaths:
        rate.restart(death)
    return rate


@table_test(
    ("deaths", "refused", "now", "learned"),
    [
        ([100.0], 1, 106.0, False),  # earlier refusals do not count
        ([100.0], 3, 106.0, True),  # earlier sends do not count
        ([100.0], 3, 103.0, False),  # the first seconds set no rate
        ([100.0, 105.0], 3, 106.0, True),  # repeated deaths do not delay a rate
        ([100.0, 111.0], 3, 113.0, False),
    ],
)
def test_sends_and_refusals_count_from_zero_after_a_death(deaths, refused, now, learned):
    rate = after_deaths(send_rate(), *deaths)
    for _ in range(10):
        rate.take(None, now)
    for _ in range(refused):
        rate.settle(None, THROTTLED, now, 0.5)

    assert rate.in_force(now) is learned


def test_a_death_does_not_delay_a_change_of_a_rate_in_force():
    rate = rate_after(200, 20)
    leave_times(rate, 100.0, 130.0)
    rate.restart(130.0)
    before = rate.rate_at(132.0)
    for _ in range(10):
        rate.take(None, 132.0)
    for _ in range(5):
        rate.settle(None, THROTTLED, 132.0, 0.5)

    assert rate.rate_at(132.0) < before / 2


def test_calls_leave_at_the_rate():
    rate = rate_after(200, 20)  # 18 per second, and growing after 15 seconds
    times = leave_times(rate, 100.0, 115.0)
    assert len(times) == pytest.approx(18 * 15, abs=2)
    assert times[0] > 100.0
    times = leave_times(rate, 115.0, 125.0)

    assert len(times) == pytest.approx(
        sum(18 * 1.02 ** (n + n * n / 10) for n in range(10)), rel=0.03
    )


def test_at_most_one_idle_second_is_saved_up():
    rate = rate_after(200, 20)
    burst = [time for time in leave_times(rate, 150.0, 150.01) if time == 150.0]

    assert len(burst) == 18  # when the last was sent


def test_a_slow_rate_saves_up_one():
    rate = rate_after(5, 5)  # one in four seconds

    assert len(leave_times(rate, 160.0, 160.01)) == 1


def test_ready_at_is_exact_and_no_later_than_the_end_of_the_rate():
    rate = rate_after(200, 20)
    ready_at = rate.ready_at(None, 100.0)
    assert rate.ready_at(None, ready_at) == READY

    for second in range(116, 219):  # else it would grow too far
        rate.settle(None, THROTTLED, float(second), 0.5)
    rate.ends_at = 220.0
    leave_times(rate, 219.999, 219.9999)  # all credit
    assert rate.ready_at(None, 219.9999) == 220.0
    assert rate.ready_at(None, 220.0) == READY


def test_credit_from_before_a_change_was_earned_at_the_previous_rate():
    rate = limited()
    for _ in range(60):
        rate.settle(None, THROTTLED, 110.0, 0.5)
    before = rate.rate_at(110.0)
    leave_times(rate, 112.0 - 1.01 / before, 112.0 - 1 / before)  # all credit
    for refused_at in (*[111.95] * 100, 112.0):
        rate.settle(None, THROTTLED, refused_at, 0.5)

    assert rate.rate_at(112.0) < 0.9 * before  # at this rate the time since would not earn one
    assert rate.ready_at(None, 112.0) == READY


@given(
    st.lists(
        st.tuples(st.floats(0.0, 40.0), st.integers(0, 4), st.sampled_from([OK, THROTTLED])),
        max_size=60,
    )
)
def test_ready_at_changes_nothing_and_is_exact(steps):
    rate, now = send_rate(), 0.0
    for pause, count, outcome in steps:
        now += pause
        before = [getattr(rate, name) for name in ("_credit", "_earned_at", "_earning", "_rate")]
        ready_at = rate.ready_at(None, now)
        assert before == [
            getattr(rate, name) for name in ("_credit", "_earned_at", "_earning", "_rate")
        ]
        if ready_at > now:
            assert rate.ready_at(None, ready_at + 1e-6) == READY
            now = ready_at + 1e-6
        for _ in range(count):
            if rate.ready_at(None, now) == READY:
                rate.take(None, now)
        rate.settle(None, outcome, now, 0.5)
        assert rate.rate_at(now) >= 0.05


def test_time_to_send_follows_a_growing_rate():
    rate = rate_after(200, 20)
    assert send_rate().time_to_send(1000, 0.0) == 0.0
    leave_times(rate, 100.0, 115.0)  # from now on it grows
    assert len(leave_times(rate, 115.0, 115.0 + rate.time_to_send(100, 115.0))) == pytest.approx(
        100, abs=2
    )


@table_test(("since", "learned"), [(4.9, False), (5.0, True), (5.1, True)])
def test_no_rate_is_set_in_the_first_five_seconds_of_sending(since, learned):
    rate = rate_after(30, 15, seconds=since)

    assert rate.in_force(100.0) is learned
    if learned:  # it is measured over the seconds so far
        assert rate.rate_at(100.0) == pytest.approx(27 / since)  # the third refusal set the rate


@table_test("quiet", [0.0, 10.0, 30.0])
@table_test("sends", [10, 1_000, 10_000])
def test_time_to_send_many_calls_follows_the_growing_rate(quiet, sends):
    rate = rate_after(200, 20)
    now, sent, seconds = 115.0 + quiet, 0.0, 0.0
    while sent < sends:
        sent += 0.01 * rate.rate_at(now + seconds)
        seconds += 0.01

    assert rate.time_to_send(sends, now) == pytest.approx(seconds, rel=0.1, abs=0.1)
