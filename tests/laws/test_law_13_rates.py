"""Law 13, its part that is built. After 429s that pile up a send rate is learned: a little below what was
accepted. It grows, and fades. A stray 429 teaches nothing, nor do refusals that are bad luck, for which sending less
is no help.
"""

from hypothesis import given
from hypothesis import strategies as st
from stage import OK, THROTTLED, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import RetryPolicy


def scene():
    return Stage(
        policy(
            adaptive_rate=True,
            retry=RetryPolicy(max_attempts=1, backoff=Backoff(kind="constant", initial_delay=0.0)),
        )
    )


def offered(stage, seconds, rate, capacity):
    """Offer `rate` calls a second to a target that takes `capacity`; return how many were sent in each second."""
    sent = []
    for _ in range(seconds):
        room, count = capacity, 0
        for _ in range(rate):
            stage.start()
            stage.pass_time(1 / rate)
            for run in [run for run in stage.runs if run.sending]:
                run.step(OK if room > 0 else THROTTLED)
                room -= 1
                count += 1
            stage.runs = [run for run in stage.runs if not run.over]
        sent.append(count)
    return sent


@table_test("capacity", [5, 12, 30])
def test_a_target_that_refuses_most_calls_gets_little_more_than_it_accepts(capacity):
    stage = scene()
    offered(stage, 12, capacity, capacity)
    sent = offered(stage, 25, 60, capacity)

    assert sum(sent[10:]) <= 1.3 * capacity * len(sent[10:])
    assert sum(sent[10:]) >= 0.6 * capacity * len(sent[10:])


@given(good=st.lists(st.integers(10, 40), min_size=1, max_size=20))
def test_a_stray_429_sets_no_rate(good):
    stage = scene()
    for count in good:
        for _ in range(count):
            stage.start().step(OK)
            stage.tick(0.05)
        stage.start().step(THROTTLED)

    assert stage.start().sending
    assert not stage.state.rate.in_force(stage.now)


def test_a_learned_rate_ends_after_two_minutes_and_waiting_calls_leave():
    stage = scene()
    for number in range(30):
        stage.start().step(OK if number % 2 else THROTTLED)
        stage.tick(0.2)
    waiting = [stage.start() for _ in range(30)]
    assert stage.state.rate.in_force(stage.now)
    assert any(run.queued for run in waiting)
    stage.pass_time(118.0)
    assert stage.state.rate.in_force(stage.now)
    stage.pass_time(2.1)

    assert not stage.state.rate.in_force(stage.now)
    assert not any(run.queued for run in waiting)


@table_test("refusal", [THROTTLED, retry_in(1.0)])
@table_test("of_ten", [2, 3, 5])
def test_random_refusals_do_not_slow_sending_for_long(refusal, of_ten):
    stage, refused = scene(), {0: 0, 1: 0}
    for number in range(20 * 90):
        stage.start()
        stage.pass_time(0.05)
        for run in [run for run in stage.runs if run.sending]:
            late = number >= 20 * 60
            refused[late] += 1
            run.step(refusal if (refused[0] + refused[1]) * of_ten % 10 < of_ten else OK)
        stage.runs = [run for run in stage.runs if not run.over]

    assert refused[1] >= 20 * 30  # every call of the last thirty seconds, at once
    assert stage.state.is_random(stage.now)
    assert not stage.state.rate.in_force(stage.now)
