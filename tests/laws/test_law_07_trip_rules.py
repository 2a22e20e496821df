"""Law 7. Trip rules: consecutive failures, and a failure rate over a time window with a minimum of calls. The
default is a rate over a short window with jittered short open times, since five failures in a row are common
in a partial outage.
"""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, Stage, policy

from stormbreak.core.breaker import BreakerPolicy, State
from stormbreak.core.trip import ConsecutiveFailures, FailureRate

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
