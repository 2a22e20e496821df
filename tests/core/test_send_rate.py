from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, THROTTLED, told
from table_test import table_test

from stormbreak.core.gate import READY
from stormbreak.core.send_rate import AdaptiveSendRate


def send_rate(on_random=lambda _: None, *, answered_sent_at=lambda: -inf):
    return AdaptiveSendRate(answered_sent_at, on_random)


def spent(sent, refused, now=100.0, seconds=9.0, outcome=THROTTLED, answered_sent_at=lambda: -inf):
    """A rate after so many sends in the last seconds, the last of which were refused."""
    rate = send_rate(answered_sent_at=answered_sent_at)
    if seconds == 9.0:
        rate.take(
            None, now - 10.0
        )  # busy for as long as it looks back; by now this one is forgotten
    for number in range(sent):
        rate.take(None, now - seconds + seconds * number / sent)
    for _ in range(refused):
        rate.settle(None, outcome, now, 0.5)
    return rate


def limited():
    """A rate whose first trial has found a limit: 18 a second, of which none is refused for ten seconds."""
    rate = spent(200, 20)
    left(rate, 100.0, 110.0)
    return rate


def test_nothing_is_learned_at_first():
    rate = send_rate()

    assert (rate.ready_at(None, 0.0), rate.rate_at(0.0), rate.in_force(0.0)) == (READY, inf, False)


@table_test(("sent", "refused"), [(1, 1), (200, 1), (200, 19)])
def test_stray_refusals_teach_nothing(sent, refused):
    assert not spent(sent, refused).in_force(100.0)


@table_test("outcome", [OK, SERVER_ERROR])
def test_nothing_but_429s_teaches(outcome):
    assert not spent(100, 100, outcome=outcome).in_force(100.0)


@table_test("outcome", [THROTTLED, told(3.0)])
def test_a_first_lesson_is_what_was_accepted(outcome):
    rate = spent(200, 20, outcome=outcome)

    assert rate.in_force(100.0)
    assert rate.rate_at(100.0) == pytest.approx(18.0)


@table_test(("refused_at", "powers"), [(115.0, 2.0), (120.0, 1.5)])
def test_after_the_trial_two_percent_more_each_second_and_faster_without_a_refusal(
    refused_at, powers
):
    """Ten seconds without a refusal count twice, five and five once and a half: what has grown stays."""
    rate = spent(200, 20)
    assert rate.rate_at(115.0) == pytest.approx(18.0)
    rate.settle(None, THROTTLED, refused_at, 0.5)  # one alone is no lesson

    assert rate.rate_at(125.0) == pytest.approx(18.0 * (1.02**10) ** powers)


def test_it_is_gone_after_two_minutes():
    rate = spent(200, 20)

    assert rate.in_force(219.9)
    assert not rate.in_force(220.0)
    assert (rate.rate_at(220.0), rate.ready_at(None, 220.0)) == (inf, READY)


def test_a_lesson_every_two_seconds():
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
def test_who_pauses_for_more_than_ten_seconds_begins_anew(pause, learned):
    rate = send_rate()
    rate.take(None, 0.0)
    for _ in range(9):
        rate.take(None, pause)
    for _ in range(9):
        rate.settle(None, THROTTLED, 12.0, 0.5)

    assert rate.in_force(12.0) is learned


def test_no_slower_than_what_was_served_though_nothing_is_accepted_any_more():
    rate = spent(10, 10)  # the second refusal taught: eight more were to come
    for _ in range(5):
        rate.settle(None, THROTTLED, 114.0, 0.5)
    assert rate.rate_at(114.0) == pytest.approx(0.8)


def test_half_of_what_was_sent_where_no_rate_was_known():
    assert spent(5, 5).rate_at(100.0) == pytest.approx(3 / 10)  # three were still out
    assert spent(4, 4).rate_at(100.0) == inf  # too few to learn from


def test_half_of_what_was_sent_where_all_of_it_was_refused():
    rate = send_rate()
    for second in range(6):
        rate.take(None, float(second))
        rate.settle(None, THROTTLED, float(second), 0.5)

    assert rate.rate_at(5.0) == pytest.approx(6 / 5 / 2)


def test_never_slower_than_one_in_twenty_seconds():
    rate = send_rate()
    for second in range(6):
        rate.take(None, float(second))
        rate.settle(None, THROTTLED, float(second), 0.5)
    for step in range(20):
        rate.settle(None, THROTTLED, 10.0 + 2.1 * step, 0.5)
        rate.settle(None, THROTTLED, 10.0 + 2.1 * step, 0.5)

    assert rate.rate_at(10.0 + 2.1 * 19) == pytest.approx(0.05)


def test_until_a_trial_has_found_a_limit_it_is_no_lower_than_what_was_served():
    rate = spent(200, 20)  # 18 a second
    for refused_at in (*[101.0] * 50, *[102.1] * 30, *[104.2] * 30):
        rate.settle(None, THROTTLED, refused_at, 0.5)

    assert rate.rate_at(104.2) == pytest.approx(18.0)


def test_when_a_trial_has_found_a_limit_it_is_no_lower_than_half_of_what_was_served():
    rate = limited()
    for refused_at in (*[110.1] * 40, *[112.2] * 40, *[114.3] * 40):
        rate.settle(None, THROTTLED, refused_at, 0.5)
        assert rate.rate_at(refused_at) >= 8.0

    assert rate.rate_at(114.3) < 10.0


def first_burst(sent, refused):
    """A rate whose first `sent` leave in one instant, and half a second later so many are refused."""
    rate = send_rate()
    for _ in range(sent):
        rate.take(None, 10.0)
    for _ in range(refused):
        rate.settle(None, THROTTLED, 10.5, 0.5)
    return rate


@table_test(("sent", "refused"), [(100, 90), (19, 19)])
def test_a_first_burst_is_not_held_back_unless_nearly_all_of_at_least_twenty_are_refused(
    sent, refused
):
    assert not first_burst(sent, refused).in_force(10.5)


@table_test(("sent", "refused", "per_second"), [(100, 95, 5.0), (20, 20, 1.0)])
def test_until_a_first_lesson_a_brake_holds_sending_to_what_was_accepted(sent, refused, per_second):
    rate = first_burst(sent, refused)
    times = left(rate, 10.5, 12.4)

    assert rate.rate_at(10.5) == rate.rate_at(12.4) == pytest.approx(per_second)
    assert times[0] == pytest.approx(10.5 + 1 / per_second)
    assert len(times) == pytest.approx(1.9 * per_second, abs=1)


def test_a_brake_counts_what_was_accepted_in_all_the_seconds_so_far():
    rate = first_burst(100, 80)  # not yet nearly all
    for _ in range(12):
        rate.settle(None, THROTTLED, 12.0, 0.5)
    assert rate.rate_at(12.0) == pytest.approx(8 / 2)
    later = len(left(rate, 12.0, 13.9))
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


def test_a_brake_saves_up_nothing_and_what_is_earned_lasts_over_the_next():
    rate = first_burst(100, 100)  # one a second
    assert rate.ready_at(None, 10.5) == pytest.approx(11.5)
    for _ in range(50):
        rate.take(None, 10.5)
    rate.settle(None, THROTTLED, 11.0, 0.5)

    assert rate.rate_at(11.0) == pytest.approx(49.0)
    assert rate.ready_at(None, 11.0) == pytest.approx(11.0 + 0.5 / 49.0, abs=0.001)


def test_whoever_waits_knows_that_a_brake_will_end():
    rate = first_burst(100, 100)

    assert rate.time_to_send(100, 10.5) == pytest.approx(2.0)


def test_a_lesson_replaces_a_brake():
    rate = first_burst(100, 95)
    later = len(left(rate, 11.0, 12.4))
    rate.settle(None, THROTTLED, 12.4, 0.5)
    later += len(left(rate, 12.4, 14.3))
    for _ in range(2):
        rate.settle(None, THROTTLED, 15.0, 0.5)

    assert rate.rate_at(15.0) == pytest.approx((100 + later - 97) / 5, rel=0.15)
    assert rate.in_force(120.0)


def test_seconds_in_which_the_target_was_dead_do_not_count():
    rate = send_rate()
    for second in range(10):
        rate.take(None, float(second))  # a probe
    rate.restart(10.0)
    for number in range(100):
        rate.take(None, 10.0 + number / 20)
    for _ in range(20):
        rate.settle(None, THROTTLED, 15.0, 0.5)

    assert rate.rate_at(15.0) == pytest.approx(90 / 5, rel=0.1)  # the tenth taught


def died(rate, *deaths):
    """Twenty a second left until 100.0, of which a few were refused; then the target was dead at these times."""
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
        ([100.0], 1, 106.0, False),  # those of before do not count, ...
        ([100.0], 3, 106.0, True),  # ... nor what was sent
        ([100.0], 3, 103.0, False),  # the first seconds teach nothing
        ([100.0, 105.0], 3, 106.0, True),  # nor does one that dies again and again put off a lesson
        ([100.0, 111.0], 3, 113.0, False),
    ],
)
def test_after_a_death_sends_and_refusals_count_anew(deaths, refused, now, learned):
    rate = died(send_rate(), *deaths)
    for _ in range(10):
        rate.take(None, now)
    for _ in range(refused):
        rate.settle(None, THROTTLED, now, 0.5)

    assert rate.in_force(now) is learned


def test_a_death_puts_off_no_lesson_while_a_rate_is_in_force():
    rate = spent(200, 20)
    left(rate, 100.0, 130.0)
    rate.restart(130.0)
    before = rate.rate_at(132.0)
    for _ in range(10):
        rate.take(None, 132.0)
    for _ in range(5):
        rate.settle(None, THROTTLED, 132.0, 0.5)

    assert rate.rate_at(132.0) < before / 2


def test_a_limit_that_is_used_up_keeps_the_rate_for_two_minutes():
    rate = spent(200, 20)
    used_up(rate, 150.0)

    assert rate.in_force(150.0 + 119.9)
    assert not rate.in_force(150.0 + 120.0)


def used_up(rate, now):
    """Nothing was served in the last ten seconds; the lesson is the second, two seconds after the first."""
    for _ in range(20):
        rate.take(None, now - 6.0)
    for refused_at in (*[now - 2.1] * 200, now):
        rate.settle(None, THROTTLED, refused_at, 0.5)


def refused(rate, since, until):
    """When calls leave that all wait already, and are refused."""
    times, now = [], since
    while (now := max(now, rate.ready_at(None, now))) < until:
        rate.take(None, now)
        rate.settle(None, THROTTLED, now, 0.5)
        times.append(now)
        assert len(times) < 1_000, "it holds nobody back"
    return times


def test_a_limit_that_is_used_up_is_probed_until_an_answer_comes():
    answered = [-inf]
    rate = spent(200, 20, answered_sent_at=lambda: answered[0])  # 18 a second
    used_up(rate, 104.2)
    assert rate.rate_at(104.2) == 1.0
    assert 9 <= len(refused(rate, 104.2, 114.2)) <= 12
    answered[0] = 110.0

    assert rate.rate_at(114.2) >= 18.0


def test_a_probe_that_is_refused_brings_no_other_forward():
    """A lesson, every two seconds, let the next leave at the rate of before."""
    rate = spent(200, 20)
    used_up(rate, 104.2)
    times = refused(rate, 104.2, 130.0)

    assert min(after - before for before, after in pairwise(times)) >= 0.99


def test_answers_to_what_left_before_do_not_show_that_a_limit_is_no_longer_used_up():
    """Answers take up to minutes: each had ended it, and the next lesson had halved the floor."""
    answered = [-inf]
    rate = spent(200, 20, answered_sent_at=lambda: answered[0])
    for now in (104.2, 106.4, 108.6):
        used_up(rate, now)
        answered[0] = now - 10.0
        assert rate.rate_at(now) == 1.0
    answered[0] = 109.0

    assert rate.rate_at(109.0) == pytest.approx(18.0, rel=0.05)


def test_where_no_more_is_refused_a_limit_is_no_longer_used_up():
    """Answers take up to minutes, or are errors: one probe a second left for two minutes."""
    rate = spent(200, 20)
    used_up(rate, 104.2)
    refused(rate, 104.2, 110.0)
    assert rate.rate_at(112.0) == 1.0
    assert rate.rate_at(116.0) > 18.0
    rate.settle(None, THROTTLED, 120.0, 0.5)  # one stray refusal

    assert rate.rate_at(120.0) > 18.0


def test_who_has_never_been_answered_probes_no_slower_for_it():
    """The floor of a process that began in trouble is the least there is: a probe a minute left."""
    rate = send_rate()
    for tenth in range(73):  # lessons after 5 and 7 seconds
        rate.take(None, tenth / 10)
        rate.settle(None, THROTTLED, tenth / 10, 0.5)

    assert rate.rate_at(7.2) == pytest.approx(2.5 / 3, rel=0.1)


def test_slow_probes_are_a_third_of_the_rate():
    rate = spent(20, 2)  # 1.8 a second
    used_up(rate, 104.2)

    assert rate.rate_at(104.2) == pytest.approx(1.8 / 3)


def test_a_limit_used_up_again_within_half_a_minute_bears_half():
    """A bucket that refused requests empty, too, would be used up again each time."""
    answered = [-inf]
    rate = spent(200, 20, answered_sent_at=lambda: answered[0])
    for now, floor in ((104.2, 18.0), (120.0, 9.0), (149.0, 4.5), (180.0, 4.5)):
        used_up(rate, now)
        assert rate.rate_at(now) == 1.0
        answered[0] = now
        assert rate.rate_at(now) == pytest.approx(floor)


def test_a_few_refusals_do_not_show_that_a_limit_is_used_up():
    rate = spent(40, 4)  # 3.6 a second
    for refused_at in [112.0] * 19:
        rate.take(None, 111.0)
        rate.settle(None, THROTTLED, refused_at, 0.5)

    assert rate.rate_at(112.0) == pytest.approx(3.6)


def test_a_trial_takes_the_floor_down_by_half_at_most():
    rate = spent(200, 20)
    for second in range(10):
        rate.take(None, 145.0 + second)
    for _ in range(5):  # the first trial has ended in silence
        rate.settle(None, THROTTLED, 154.5, 0.5)

    assert rate.rate_at(154.5) == 9.0


def left(rate, since, until):
    """When calls leave that all wait already."""
    times, now = [], since
    while now < until:
        ready_at = rate.ready_at(None, now)
        if ready_at == READY:
            rate.take(None, now)
            times.append(now)
            assert len(times) < 10_000, "it holds nobody back"
        else:
            now = max(ready_at, now + 1e-6)
    return times


def test_calls_leave_at_the_rate():
    rate = spent(200, 20)  # 18 per second, and growing after 15 seconds
    times = left(rate, 100.0, 115.0)
    assert len(times) == pytest.approx(18 * 15, abs=2)
    assert times[0] > 100.0
    times = left(rate, 115.0, 125.0)

    assert len(times) == pytest.approx(
        sum(18 * 1.02 ** (n + n * n / 10) for n in range(10)), rel=0.03
    )


def test_an_idle_second_and_no_more_is_saved_up():
    rate = spent(200, 20)
    burst = [time for time in left(rate, 150.0, 150.01) if time == 150.0]

    assert len(burst) == 18  # when the last was sent


def test_at_a_slow_rate_one_is_saved_up():
    rate = spent(5, 5)  # one in four seconds

    assert len(left(rate, 160.0, 160.01)) == 1


def test_it_opens_exactly_when_it_said_and_when_the_rate_is_gone():
    rate = spent(200, 20)
    ready_at = rate.ready_at(None, 100.0)
    assert rate.ready_at(None, ready_at) == READY

    for second in range(116, 219):  # or it would grow out of sight
        rate.settle(None, THROTTLED, float(second), 0.5)
    rate.ends_at = 220.0
    left(rate, 219.999, 219.9999)  # all that was earned
    assert rate.ready_at(None, 219.9999) == 220.0
    assert rate.ready_at(None, 220.0) == READY


def test_what_was_earned_before_a_lesson_was_earned_at_the_rate_of_then():
    rate = limited()
    for _ in range(60):
        rate.settle(None, THROTTLED, 110.0, 0.5)
    before = rate.rate_at(110.0)
    left(rate, 112.0 - 1.01 / before, 112.0 - 1 / before)  # all that was earned
    for refused_at in (*[111.95] * 100, 112.0):
        rate.settle(None, THROTTLED, refused_at, 0.5)

    assert rate.rate_at(112.0) < 0.9 * before  # at which the time since would not earn one
    assert rate.ready_at(None, 112.0) == READY


@given(
    st.lists(
        st.tuples(st.floats(0.0, 40.0), st.integers(0, 4), st.sampled_from([OK, THROTTLED])),
        max_size=60,
    )
)
def test_looking_changes_nothing_and_it_opens_when_it_said(steps):
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


def test_the_time_for_sends_at_a_rate_that_grows():
    rate = spent(200, 20)
    assert send_rate().time_to_send(1000, 0.0) == 0.0
    left(rate, 100.0, 115.0)  # from now on it grows
    assert len(left(rate, 115.0, 115.0 + rate.time_to_send(100, 115.0))) == pytest.approx(
        100, abs=2
    )


def of_a_second(rate, second, outcomes):
    """Send one after the other within that second, as far as the rate lets them; how many left."""
    left = 0
    for number, outcome in enumerate(outcomes):
        now = second + number / len(outcomes)
        if rate.ready_at(None, now) == READY:
            rate.take(None, now)
            rate.settle(None, outcome, now + 0.02, 0.5)
            left += 1
    return left


def at_random(number):
    """Three in ten are refused, ever."""
    return THROTTLED if number % 10 in (2, 5, 9) else OK


def test_refusals_at_random_slow_it_down_for_a_while_and_then_no_more():
    found = []
    rate, calls = send_rate(found.append), iter(range(10**6))
    sent = [
        of_a_second(rate, second, [at_random(next(calls)) for _ in range(20)])
        for second in range(120)
    ]

    assert found
    assert found[0] < 40.0
    assert rate.is_random(120.0)
    assert not rate.in_force(120.0)
    assert min(sent[45:]) == 20
    assert min(sent) >= 14 - 4  # what was served, even during the trial


def test_during_a_trial_the_rate_stands_still_and_then_grows():
    rate = send_rate()
    for second in range(6):
        of_a_second(rate, second, [at_random(number) for number in range(20)])
    learned = rate.rate_at(6.0)

    assert rate.rate_at(5.12 + 15.0) == learned  # the first lesson was at 5.12
    assert rate.rate_at(5.12 + 16.0) == pytest.approx(1.02**1.1 * learned)


@table_test("refused_at", [[2.0, 2.0, 2.0, 4.0, 5.0], [2.0, 2.0, 2.0, 2.0, 5.0]])
def test_a_lesson_begins_a_trial_however_its_refusals_are_spread_over_the_seconds(refused_at):
    rate = send_rate()
    for number in range(11):
        now = number / 2
        rate.take(None, now)
        for _ in range(refused_at.count(now)):
            rate.settle(None, THROTTLED, now, 0.5)

    assert rate.in_force(5.0)
    assert rate.rate_at(15.0) == rate.rate_at(5.0)  # it stands still


def test_a_limit_is_no_bad_luck():
    rate, found = send_rate(lambda now: pytest.fail("no luck")), []
    for second in range(300):
        room = 10
        for number in range(40):
            now = second + number / 40
            if rate.ready_at(None, now) == READY:
                rate.take(None, now)
                rate.settle(None, OK if room > 0 else THROTTLED, now + 0.02, 0.5)
                room -= 1
        found.append(10 - room)

    assert max(found[20:]) <= 16
    assert not rate.is_random(300.0)


def test_bad_luck_that_becomes_an_outage_teaches_a_rate_again():
    rate, calls = send_rate(), iter(range(10**6))
    for second in range(60):
        of_a_second(rate, second, [at_random(next(calls)) for _ in range(20)])
    assert rate.is_random(60.0)
    for second in range(60, 75):
        of_a_second(rate, second, [THROTTLED] * 20)

    assert not rate.is_random(75.0)
    assert rate.in_force(75.0)


@table_test(("since", "learned"), [(4.9, False), (5.0, True), (5.1, True)])
def test_nothing_is_learned_in_the_first_seconds_of_sending(since, learned):
    rate = spent(30, 15, seconds=since)

    assert rate.in_force(100.0) is learned
    if learned:  # and then it is measured over the seconds there were
        assert rate.rate_at(100.0) == pytest.approx(27 / since)  # the third refusal taught


@table_test("quiet", [0.0, 10.0, 30.0])
@table_test("sends", [10, 1_000, 10_000])
def test_how_long_so_many_sends_take_follows_the_growing_rate(quiet, sends):
    rate = spent(200, 20)
    now, sent, seconds = 115.0 + quiet, 0.0, 0.0
    while sent < sends:
        sent += 0.01 * rate.rate_at(now + seconds)
        seconds += 0.01

    assert rate.time_to_send(sends, now) == pytest.approx(seconds, rel=0.1, abs=0.1)
