"""Law 7. Trip rules: consecutive failures; a failure rate, or a rate of slow calls, over a count window or over a
time window with a minimum of calls; combinable. The default is a rate over a short window with jittered short open
times, since five failures in a row are common in a partial outage.
"""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, Stage, policy

from stormbreak.core.circuit import BreakerPolicy, State
from stormbreak.core.trip import (
    AnyRule,
    ConsecutiveFailures,
    FailureRate,
    FailureRateOfLast,
    SlowRate,
    SlowRateOfLast,
)

OUTCOMES = st.lists(st.booleans(), max_size=80)


@given(outcomes=OUTCOMES, threshold=st.integers(1, 6))
def test_consecutive_opens_at_the_first_row_that_is_long_enough(outcomes, threshold):
    machine = ConsecutiveFailures(threshold=threshold).machine()
    opened = [machine.record(0.0, failed=failed) for failed in outcomes]
    rows = [
        len(outcomes[: i + 1]) >= threshold and all(outcomes[i + 1 - threshold : i + 1])
        for i in range(len(outcomes))
    ]

    assert rows == opened


@given(outcomes=OUTCOMES, percent=st.integers(1, 100), calls=st.integers(1, 20))
def test_rate_opens_at_a_failure_with_enough_calls_and_share(outcomes, percent, calls):
    machine = FailureRate(share=percent / 100, calls=calls, seconds=10.0).machine()
    opened = [machine.record(5.0, failed=failed) for failed in outcomes]
    due = [
        outcomes[i] and i + 1 >= calls and 100 * sum(outcomes[: i + 1]) >= percent * (i + 1)
        for i in range(len(outcomes))
    ]

    assert due == opened


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60))
def test_rate_forgets_what_is_older_than_its_window(pauses):
    machine = FailureRate(share=1.0, calls=5, seconds=10.0).machine()
    now, failures = 0.0, []
    for pause in pauses:
        now += pause
        failures.append(now)
        if machine.record(now, failed=True):
            assert len([at for at in failures if at > now - 10.0]) >= 5


@given(
    outcomes=OUTCOMES,
    percent=st.integers(1, 100),
    calls=st.integers(1, 20),
    more=st.integers(0, 20),
)
def test_a_count_window_looks_back_on_the_last_so_many(outcomes, percent, calls, more):
    last = calls + more
    machine = FailureRateOfLast(share=percent / 100, calls=calls, last=last).machine()
    opened = [machine.record(i * 1e3, failed=failed) for i, failed in enumerate(outcomes)]
    windows = [outcomes[max(0, i + 1 - last) : i + 1] for i in range(len(outcomes))]
    due = [
        seen[-1] and len(seen) >= calls and 100 * sum(seen) >= percent * len(seen)
        for seen in windows
    ]

    assert due == opened


SPANS = st.lists(st.sampled_from([1.0, 4.9, 5.0, 60.0]), max_size=60)


@given(spans=SPANS, percent=st.integers(1, 100), calls=st.integers(1, 20), failed=st.booleans())
def test_slow_calls_open_like_failures_whatever_came_of_them(spans, percent, calls, failed):
    slow = [took >= 5.0 for took in spans]
    share = percent / 100
    for rule, like in (
        (SlowRate(share=share, slower_than=5.0, calls=calls, seconds=10.0), FailureRate),
        (SlowRateOfLast(share=share, slower_than=5.0, calls=calls, last=50), FailureRateOfLast),
    ):
        machine, other = rule.machine(), like(share=share, calls=calls).machine()
        for took, is_slow in zip(spans, slow, strict=True):
            assert machine.record(5.0, failed=failed, took=took) == other.record(
                5.0, failed=is_slow
            )


@given(outcomes=st.lists(st.tuples(st.booleans(), st.sampled_from([1.0, 9.0])), max_size=60))
def test_combined_rules_open_when_one_of_them_does(outcomes):
    rules = (
        ConsecutiveFailures(threshold=4),
        FailureRateOfLast(share=0.5, calls=6, last=9),
        SlowRateOfLast(share=0.7, slower_than=5.0, calls=3, last=5),
    )
    together, alone = AnyRule(rules=rules).machine(), [rule.machine() for rule in rules]
    for failed, took in outcomes:
        due = [machine.record(0.0, failed=failed, took=took) for machine in alone]
        assert any(due) == together.record(0.0, failed=failed, took=took)


@given(ill=st.integers(0, 100))
def test_a_cold_start_waits_for_the_slow_answers(ill):
    """A hundred leave at once; so many fail at once, and the others answer well, later."""
    stage = Stage(policy(breaker=BreakerPolicy()))
    runs = [stage.start() for _ in range(100)]
    for run in runs[:ill]:
        run.step(SERVER_ERROR).close()

    assert (stage.lane.breaker.state is State.OPEN) == (ill >= 80)


def opened_in_a_partial_outage(trip, *, share, seed):
    chance = Random(seed)
    stage = Stage(policy(breaker=BreakerPolicy(trip=trip)))
    for _ in range(600):
        stage.now += 0.1
        run = stage.start()
        if not run.sending:
            return True
        run.step(SERVER_ERROR if chance.random() < share else OK)
        run.close()
    return False


def test_the_default_stands_a_partial_outage_in_which_five_in_a_row_are_common():
    assert not any(
        opened_in_a_partial_outage(FailureRate(), share=0.4, seed=seed) for seed in range(10)
    )
    assert all(
        opened_in_a_partial_outage(ConsecutiveFailures(), share=0.4, seed=seed)
        for seed in range(10)
    )


@given(chance=st.floats(0.0, 1.0, exclude_max=True))
def test_the_default_opens_shortly_for_a_jittered_time(chance):
    stage = Stage(policy(breaker=BreakerPolicy()), chance=chance)
    stage.fail_until_open()

    assert stage.lane.breaker.state is State.OPEN
    assert 2.5 <= stage.lane.breaker.until - stage.now <= 7.5
