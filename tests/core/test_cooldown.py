from math import inf

import pytest
from stage import OK, SERVER_ERROR, THROTTLED, Stage, policy, told
from table_test import table_test

from stormbreak.core.cooldown import Cooldown, CooldownNews, Pace
from stormbreak.core.retry import RetryPolicy
from stormbreak.types import CANCELLED, TREATMENTS, Verdict


class Rest:
    def __init__(self, **values):
        self.told = []
        self.cooldown = Cooldown(TREATMENTS, self.on_change, max_wait=900.0, **values)

    def on_change(self, *, now, until):
        self.told.append((now, until))

    def answer(self, outcome, *, left, now, chance=0.0):
        self.cooldown.settle(left, outcome, now, chance)


def test_open_until_reset():
    rest = Rest()
    for outcome in (OK, THROTTLED, SERVER_ERROR, CANCELLED, told(0.0)):
        rest.answer(outcome, left=0.0, now=1.0)

    assert rest.cooldown.ready_at(None, 1.0) == -inf
    assert rest.told == []


def test_it_is_stretched_as_the_policy_says():
    rest = Rest(spread=0.0)
    rest.answer(told(10.0), left=0.0, now=1.0, chance=1.0)
    assert rest.cooldown.ready_at(None, 1.0) == 11.0

    stage = Stage(policy(retry=RetryPolicy(retry_after_jitter=0.0)), chance=1.0)
    stage.start(max_attempts=1).step(told(10.0))
    assert stage.state.cooldown.until == stage.now + 10.0


@table_test(("chance", "until"), [(0.0, 11.0), (0.5, 13.5), (1.0, 16.0)])
def test_holds_until_a_moment_between_the_named_time_and_half_as_much_again(chance, until):
    rest = Rest()
    rest.answer(told(10.0), left=0.0, now=1.0, chance=chance)

    assert until == rest.cooldown.ready_at(None, 1.0)
    assert until == rest.cooldown.ready_at(None, until - 0.01)
    assert -inf == rest.cooldown.ready_at(None, until)
    assert rest.told == [(1.0, until)]


@table_test(
    ("verdict", "holds"),
    [
        (Verdict.THROTTLED, True),
        (Verdict.OVERLOADED, True),
        (Verdict.SERVER_ERROR, True),
        (Verdict.TIMEOUT, False),
        (Verdict.BILLING, False),
        (Verdict.INVALID, False),
    ],
)
def test_only_verdicts_that_cool_start_it(verdict, holds):
    rest = Rest()
    rest.answer(told(10.0, verdict), left=0.0, now=0.0)

    assert holds == (rest.cooldown.ready_at(None, 0.0) > 0.0)


def test_a_later_time_extends_an_earlier_one_does_not_shorten():
    rest = Rest()
    rest.answer(told(10.0), left=0.0, now=0.0, chance=0.5)
    rest.answer(told(5.0), left=0.0, now=1.0)
    assert rest.cooldown.ready_at(None, 1.0) == 12.5
    rest.answer(told(11.0), left=0.0, now=1.5, chance=0.5)  # 12.5: covered already
    assert rest.cooldown.ready_at(None, 2.0) == 12.5
    rest.answer(told(11.0), left=0.0, now=2.0)
    assert rest.cooldown.ready_at(None, 2.0) == 13.0


@table_test("left", [3.0, 3.1])
def test_an_answer_to_an_attempt_that_left_no_earlier_lifts_it(left):
    rest = Rest()
    rest.answer(told(10.0), left=rest.cooldown.take(None, 3.0), now=4.0)
    rest.answer(OK, left=2.9, now=5.0)
    assert rest.cooldown.ready_at(None, 5.0) == 14.0
    rest.answer(OK, left=left, now=6.0)
    assert rest.cooldown.ready_at(None, 6.0) == -inf
    assert rest.told == [(4.0, 14.0), (6.0, None)]


def test_success_matters_to_a_cooldown():
    assert Cooldown.on_success  # or nobody would tell it


def test_the_latest_report_counts():
    rest = Rest()
    rest.answer(told(10.0), left=5.0, now=6.0)
    rest.answer(told(20.0), left=1.0, now=7.0)
    rest.answer(OK, left=4.0, now=8.0)

    assert rest.cooldown.ready_at(None, 8.0) == 27.0


@table_test("now", [10.0, 11.0])
def test_an_answer_after_its_end_says_nothing(now):
    rest = Rest()
    rest.answer(told(10.0), left=0.0, now=0.0)
    rest.answer(OK, left=10.0, now=now)

    assert rest.told == [(0.0, 10.0)]


def leaves(pace, now, *, until):
    """When calls leave, if as many as may want to."""
    times = []
    while now < until:
        ready_at = pace.ready_at(None, now)
        if ready_at > now:
            now = ready_at
            continue
        pace.take(None, now)
        times.append(now)
        if len(times) > 100:
            return times
    return times


def test_no_pace_unless_started():
    assert len(leaves(Pace(), 0.0, until=1.0)) == 101


def test_nothing_leaves_before_it_starts():
    pace = Pace()
    pace.start(5.0, 1.0, 4)

    assert pace.ready_at(None, 0.0) == 5.0
    assert pace.ready_at(None, 5.0) == -inf


def test_groups_leave_evenly_and_no_more_than_allowed():
    pace = Pace()
    pace.start(5.0, 1.0, 8)
    times = leaves(pace, 0.0, until=7.0)

    assert times[:8] == [5.0] * 4 + [5.5] * 4
    assert times[8:] == [6.0] * (len(times) - 8)  # over: everything leaves


def test_who_comes_late_does_not_bring_two_groups():
    pace = Pace()
    pace.start(5.0, 1.0, 8)

    assert leaves(pace, 5.4, until=6.0) == pytest.approx([5.4] * 4 + [5.9] * 4)


def test_a_pace_is_not_cut_short_by_another():
    pace = Pace()
    pace.start(5.0, 2.0, 8)
    pace.start(1.0, 1.0, 8)
    assert leaves(pace, 0.0, until=7.0) == [5.0] * 4 + [6.0] * 4

    pace = Pace()
    pace.start(1.0, 4.0, 8)
    pace.start(3.0, 1.0, 8)
    assert leaves(pace, 0.0, until=5.0) == [3.0] * 4 + [4.0] * 4


def released(pace, *, at, calls, ended_by_closing, outcome=told(5.0)):  # noqa: B008
    """Start a pace, let one group leave, and have some of it sent away again; return the group's size."""
    pace.start(at, 1.0, calls)
    tokens = []
    while pace.ready_at(None, at) <= at:
        tokens.append(pace.take(None, at))
    for index, token in enumerate(tokens):
        pace.settle(token, outcome if index < ended_by_closing(len(tokens)) else OK, at, 0.0)
    return len(tokens)


def test_groups_grow_while_most_are_served():
    pace = Pace()
    sizes = [
        released(pace, at=10.0 * n, calls=64, ended_by_closing=lambda size: size // 3)
        for n in range(1, 7)
    ]

    assert sizes == [4, 8, 16, 32, 64, 64]


def test_groups_shrink_while_most_are_sent_away_but_never_to_one():
    pace = Pace()
    for n in range(1, 5):
        released(pace, at=10.0 * n, calls=64, ended_by_closing=lambda _: 0)
    sizes = [
        released(pace, at=10.0 * n, calls=64, ended_by_closing=lambda size: size)
        for n in range(5, 10)
    ]

    assert sizes == [64, 32, 16, 8, 4]


def test_only_the_last_release_says_how_the_next_group_will_fare():
    pace = Pace()
    for n in range(1, 9):
        released(pace, at=10.0 * n, calls=16, ended_by_closing=lambda _: 0)
    sizes = [
        released(pace, at=10.0 * n, calls=16, ended_by_closing=lambda size: size)
        for n in range(9, 12)
    ]

    assert sizes == [16, 8, 4]


def test_failures_that_name_no_time_do_not_send_away():
    pace = Pace()
    sizes = [
        released(
            pace, at=10.0 * n, calls=64, ended_by_closing=lambda size: size, outcome=SERVER_ERROR
        )
        for n in range(1, 4)
    ]

    assert sizes == [4, 8, 16]


def test_late_results_of_an_earlier_release_count_for_nothing():
    pace = Pace()
    pace.start(10.0, 1.0, 64)
    token = pace.take(None, 10.0)
    pace.start(20.0, 1.0, 64)
    late = [pace.take(None, 20.0) for _ in range(2)]
    pace.settle(token, told(5.0), 21.0, 0.0)
    pace.settle(late[0], told(5.0), 21.0, 0.0)
    pace.start(30.0, 1.0, 64)
    group = 0
    while pace.ready_at(None, 30.0) <= 30.0:
        pace.take(None, 30.0)
        group += 1

    assert group == 16  # 4, then 8 since one of one was not sent away in time, then 16: one of two


def test_stop_lets_everything_leave():
    pace = Pace()
    pace.start(5.0, 1.0, 4)
    pace.stop()

    assert pace.ready_at(None, 0.0) == -inf


def test_news_say_what_an_attempt_of_this_process_was_told():
    rest = Rest(spread=0.5)
    rest.cooldown.hold(3.0, 1.0)  # by another process
    assert (rest.cooldown.news, rest.cooldown.asked, rest.cooldown.until) == (None, 2.0, 3.0)
    rest.answer(told(10.0), left=0.5, now=1.0, chance=1.0)
    assert (rest.cooldown.news, rest.cooldown.asked) == (CooldownNews(0.5, 11.0), 10.0)
    rest.answer(OK, left=0.5, now=2.0)
    assert rest.cooldown.news == CooldownNews(0.5, None)
