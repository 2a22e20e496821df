from math import inf

import pytest
from stage import OK, SERVER_ERROR, THROTTLED, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.cooldown import Cooldown, CooldownNews, Pace
from stormbreak.core.retry import RetryPolicy
from stormbreak.types import CANCELLED, TREATMENTS, Verdict


class CooldownRig:
    def __init__(self, **values):
        self.changes = []
        self.cooldown = Cooldown(TREATMENTS, self.on_change, max_wait=900.0, **values)

    def on_change(self, *, now, until):
        self.changes.append((now, until))

    def answer(self, outcome, *, left, now, chance=0.0):
        self.cooldown.settle(left, outcome, now, chance)


def test_answers_without_a_time_start_no_cooldown():
    rig = CooldownRig()
    for outcome in (OK, THROTTLED, SERVER_ERROR, CANCELLED, retry_in(0.0)):
        rig.answer(outcome, left=0.0, now=1.0)

    assert rig.cooldown.ready_at(None, 1.0) == -inf
    assert rig.changes == []


def test_a_cooldown_is_stretched_by_the_configured_jitter():
    rig = CooldownRig(spread=0.0)
    rig.answer(retry_in(10.0), left=0.0, now=1.0, chance=1.0)
    assert rig.cooldown.ready_at(None, 1.0) == 11.0

    stage = Stage(policy(retry=RetryPolicy(retry_after_jitter=0.0)), chance=1.0)
    stage.start(max_attempts=1).step(retry_in(10.0))
    assert stage.state.cooldown.until == stage.now + 10.0


@table_test(("chance", "until"), [(0.0, 11.0), (0.5, 13.5), (1.0, 16.0)])
def test_a_cooldown_lasts_up_to_half_longer_than_the_named_time(chance, until):
    rig = CooldownRig()
    rig.answer(retry_in(10.0), left=0.0, now=1.0, chance=chance)

    assert until == rig.cooldown.ready_at(None, 1.0)
    assert until == rig.cooldown.ready_at(None, until - 0.01)
    assert -inf == rig.cooldown.ready_at(None, until)
    assert rig.changes == [(1.0, until)]


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
def test_only_some_verdicts_start_a_cooldown(verdict, holds):
    rig = CooldownRig()
    rig.answer(retry_in(10.0, verdict), left=0.0, now=0.0)

    assert holds == (rig.cooldown.ready_at(None, 0.0) > 0.0)


def test_a_later_time_extends_a_cooldown_and_an_earlier_one_does_not_shorten_it():
    rig = CooldownRig()
    rig.answer(retry_in(10.0), left=0.0, now=0.0, chance=0.5)
    rig.answer(retry_in(5.0), left=0.0, now=1.0)
    assert rig.cooldown.ready_at(None, 1.0) == 12.5
    rig.answer(retry_in(11.0), left=0.0, now=1.5, chance=0.5)  # 12.5: covered already
    assert rig.cooldown.ready_at(None, 2.0) == 12.5
    rig.answer(retry_in(11.0), left=0.0, now=2.0)
    assert rig.cooldown.ready_at(None, 2.0) == 13.0


@table_test("left", [3.0, 3.1])
def test_a_success_of_an_attempt_sent_no_earlier_lifts_the_cooldown(left):
    rig = CooldownRig()
    rig.answer(retry_in(10.0), left=rig.cooldown.take(None, 3.0), now=4.0)
    rig.answer(OK, left=2.9, now=5.0)
    assert rig.cooldown.ready_at(None, 5.0) == 14.0
    rig.answer(OK, left=left, now=6.0)
    assert rig.cooldown.ready_at(None, 6.0) == -inf
    assert rig.changes == [(4.0, 14.0), (6.0, None)]


def test_a_cooldown_learns_from_success():
    assert Cooldown.on_success  # else success would not lift it


def test_only_an_attempt_sent_after_the_latest_report_lifts_the_cooldown():
    rig = CooldownRig()
    rig.answer(retry_in(10.0), left=5.0, now=6.0)
    rig.answer(retry_in(20.0), left=1.0, now=7.0)
    rig.answer(OK, left=4.0, now=8.0)

    assert rig.cooldown.ready_at(None, 8.0) == 27.0


@table_test("now", [10.0, 11.0])
def test_an_answer_after_the_end_of_a_cooldown_reports_nothing(now):
    rig = CooldownRig()
    rig.answer(retry_in(10.0), left=0.0, now=0.0)
    rig.answer(OK, left=10.0, now=now)

    assert rig.changes == [(0.0, 10.0)]


def leaves(pace, now, *, until):
    """When calls leave, if many wait."""
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


def test_without_a_start_there_is_no_pace():
    assert len(leaves(Pace(), 0.0, until=1.0)) == 101


def test_no_call_leaves_before_the_pace_starts():
    pace = Pace()
    pace.start(5.0, 1.0, 4)

    assert pace.ready_at(None, 0.0) == 5.0
    assert pace.ready_at(None, 5.0) == -inf


def test_calls_leave_in_even_groups_up_to_the_allowed_number():
    pace = Pace()
    pace.start(5.0, 1.0, 8)
    times = leaves(pace, 0.0, until=7.0)

    assert times[:8] == [5.0] * 4 + [5.5] * 4
    assert times[8:] == [6.0] * (len(times) - 8)  # over: everything leaves


def test_a_late_start_does_not_release_two_groups():
    pace = Pace()
    pace.start(5.0, 1.0, 8)

    assert leaves(pace, 5.4, until=6.0) == pytest.approx([5.4] * 4 + [5.9] * 4)


def test_a_second_start_does_not_cut_a_pace_short():
    pace = Pace()
    pace.start(5.0, 2.0, 8)
    pace.start(1.0, 1.0, 8)
    assert leaves(pace, 0.0, until=7.0) == [5.0] * 4 + [6.0] * 4

    pace = Pace()
    pace.start(1.0, 4.0, 8)
    pace.start(3.0, 1.0, 8)
    assert leaves(pace, 0.0, until=5.0) == [3.0] * 4 + [4.0] * 4


def released(pace, *, at, calls, refused_of, outcome=retry_in(5.0)):  # noqa: B008
    """Start a pace, let one group leave, refuse some of it; return the size of the group."""
    pace.start(at, 1.0, calls)
    tokens = []
    while pace.ready_at(None, at) <= at:
        tokens.append(pace.take(None, at))
    for index, token in enumerate(tokens):
        pace.settle(token, outcome if index < refused_of(len(tokens)) else OK, at, 0.0)
    return len(tokens)


def test_groups_grow_while_most_calls_are_served():
    pace = Pace()
    sizes = [
        released(pace, at=10.0 * n, calls=64, refused_of=lambda size: size // 3)
        for n in range(1, 7)
    ]

    assert sizes == [4, 8, 16, 32, 64, 64]


def test_groups_shrink_while_most_calls_are_refused_but_never_below_four():
    pace = Pace()
    for n in range(1, 5):
        released(pace, at=10.0 * n, calls=64, refused_of=lambda _: 0)
    sizes = [
        released(pace, at=10.0 * n, calls=64, refused_of=lambda size: size) for n in range(5, 10)
    ]

    assert sizes == [64, 32, 16, 8, 4]


def test_the_last_release_alone_sets_the_size_of_the_next_group():
    pace = Pace()
    for n in range(1, 9):
        released(pace, at=10.0 * n, calls=16, refused_of=lambda _: 0)
    sizes = [
        released(pace, at=10.0 * n, calls=16, refused_of=lambda size: size) for n in range(9, 12)
    ]

    assert sizes == [16, 8, 4]


def test_failures_without_a_named_time_do_not_shrink_groups():
    pace = Pace()
    sizes = [
        released(pace, at=10.0 * n, calls=64, refused_of=lambda size: size, outcome=SERVER_ERROR)
        for n in range(1, 4)
    ]

    assert sizes == [4, 8, 16]


def test_late_results_of_an_earlier_release_do_not_count():
    pace = Pace()
    pace.start(10.0, 1.0, 64)
    token = pace.take(None, 10.0)
    pace.start(20.0, 1.0, 64)
    late = [pace.take(None, 20.0) for _ in range(2)]
    pace.settle(token, retry_in(5.0), 21.0, 0.0)
    pace.settle(late[0], retry_in(5.0), 21.0, 0.0)
    pace.start(30.0, 1.0, 64)
    group = 0
    while pace.ready_at(None, 30.0) <= 30.0:
        pace.take(None, 30.0)
        group += 1

    assert group == 16  # 4, then 8 since the one refusal came late, then 16: one of two


def test_stop_lets_all_calls_leave():
    pace = Pace()
    pace.start(5.0, 1.0, 4)
    pace.stop()

    assert pace.ready_at(None, 0.0) == -inf


def test_news_report_the_cooldown_of_this_process_only():
    rig = CooldownRig(spread=0.5)
    rig.cooldown.hold(3.0, 1.0)  # by another process
    assert (rig.cooldown.news, rig.cooldown.asked, rig.cooldown.until) == (None, 2.0, 3.0)
    rig.answer(retry_in(10.0), left=0.5, now=1.0, chance=1.0)
    assert (rig.cooldown.news, rig.cooldown.asked) == (CooldownNews(0.5, 11.0), 10.0)
    rig.answer(OK, left=0.5, now=2.0)
    assert rig.cooldown.news == CooldownNews(0.5, None)
