"""Law 7. Trip rules: consecutive failures; a failure rate, or a rate of slow calls, over a count window or over a
time window with a minimum of calls; a dead target; combinable. The default opens when nothing has been answered for longer than chance
explains, for jittered short open times, since five failures in a row are common in a partial outage.
"""

from functools import partial
from math import ceil, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, TIMEOUT, Stage, policy
from table_test import table_test

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, DeadTarget, FailureRate, SlowRate
from stormbreak.drivers.virtual_time import Timeline
from stormbreak.types import TREATMENTS

OUTCOMES = st.lists(st.booleans(), max_size=80)
UNASKED = Diagnosis(TREATMENTS)  # for rules with their own counts


@given(outcomes=OUTCOMES, threshold=st.integers(1, 6))
def test_consecutive_failures_open_at_the_first_run_of_the_threshold(outcomes, threshold):
    machine = ConsecutiveFailures(failure_threshold=threshold).counter(UNASKED)
    opened = [machine.record(0.0, failed=failed, took=0.0) for failed in outcomes]
    rows = [
        len(outcomes[: i + 1]) >= threshold and all(outcomes[i + 1 - threshold : i + 1])
        for i in range(len(outcomes))
    ]

    assert rows == opened


@given(outcomes=OUTCOMES, percent=st.integers(1, 100), calls=st.integers(1, 20))
def test_a_failure_rate_opens_at_a_failure_with_enough_calls_and_failures(outcomes, percent, calls):
    machine = FailureRate(ratio=percent / 100, min_calls=calls, window_seconds=10.0).counter(
        UNASKED
    )
    opened = [machine.record(5.0, failed=failed, took=0.0) for failed in outcomes]
    due = [
        outcomes[i] and i + 1 >= calls and 100 * sum(outcomes[: i + 1]) >= percent * (i + 1)
        for i in range(len(outcomes))
    ]

    assert due == opened


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60))
def test_a_failure_rate_forgets_calls_older_than_its_window(pauses):
    machine = FailureRate(ratio=1.0, min_calls=5, window_seconds=10.0).counter(UNASKED)
    now, failures = 0.0, []
    for pause in pauses:
        now += pause
        failures.append(now)
        if machine.record(now, failed=True, took=0.0):
            assert len([at for at in failures if at > now - 10.0]) >= 5


@given(
    outcomes=OUTCOMES,
    percent=st.integers(1, 100),
    calls=st.integers(1, 20),
    more=st.integers(0, 20),
)
def test_a_count_window_covers_the_last_calls(outcomes, percent, calls, more):
    last = calls + more
    machine = FailureRate(ratio=percent / 100, min_calls=calls, window_calls=last).counter(UNASKED)
    opened = [machine.record(i * 1e3, failed=failed, took=0.0) for i, failed in enumerate(outcomes)]
    windows = [outcomes[max(0, i + 1 - last) : i + 1] for i in range(len(outcomes))]
    due = [
        seen[-1] and len(seen) >= calls and 100 * sum(seen) >= percent * len(seen)
        for seen in windows
    ]

    assert due == opened


SPANS = st.lists(st.sampled_from([1.0, 4.9, 5.0, 60.0]), max_size=60)


@given(spans=SPANS, percent=st.integers(1, 100), calls=st.integers(1, 20), failed=st.booleans())
def test_slow_calls_open_like_failures_whatever_their_outcome(spans, percent, calls, failed):
    slow = [took >= 5.0 for took in spans]
    share = percent / 100
    for rule, like in (
        (
            SlowRate(ratio=share, slow_call_threshold=5.0, min_calls=calls, window_seconds=10.0),
            FailureRate,
        ),
        (
            SlowRate(ratio=share, slow_call_threshold=5.0, min_calls=calls, window_calls=50),
            partial(FailureRate, window_calls=50),
        ),
    ):
        machine, other = rule.counter(UNASKED), like(ratio=share, min_calls=calls).counter(UNASKED)
        for took, is_slow in zip(spans, slow, strict=True):
            assert machine.record(5.0, failed=failed, took=took) == other.record(
                5.0, failed=is_slow, took=0.0
            )


@given(outcomes=st.lists(st.tuples(st.booleans(), st.sampled_from([1.0, 9.0])), max_size=60))
def test_combined_rules_open_when_one_of_them_does(outcomes):
    rules = (
        ConsecutiveFailures(failure_threshold=4),
        FailureRate(ratio=0.5, min_calls=6, window_calls=9),
        SlowRate(ratio=0.7, slow_call_threshold=5.0, min_calls=3, window_calls=5),
    )
    together, alone = (
        AnyRule(rules=rules).counter(UNASKED),
        [rule.counter(UNASKED) for rule in rules],
    )
    for failed, took in outcomes:
        due = [machine.record(0.0, failed=failed, took=took) for machine in alone]
        assert any(due) == together.record(0.0, failed=failed, took=took)


@given(failing=st.integers(0, 100))
def test_a_cold_start_waits_for_the_slow_answers(failing):
    """A hundred calls leave at once; `failing` of them fail at once, the others are answered later."""
    stage = Stage(policy(breaker=BreakerPolicy()))
    runs = [stage.start() for _ in range(100)]
    for run in runs[:failing]:
        run.step(SERVER_ERROR).close()

    assert (stage.state.breaker.state is State.OPEN) == (failing >= 80)


class OpenLoop:
    """Calls arrive at a steady rate at a cold circuit; `fate` gives the duration and outcome of each."""

    def __init__(self, rate, fate, *, seconds, burst=0, seed=0):
        self.breaker = Breaker(BreakerPolicy(), TREATMENTS, self.on_change)
        self.timeline, self.chance, self.fate = Timeline(), Random(seed), fate
        self.sent = self.rejected = 0
        self.opened_at = None
        for place in range(burst):
            self.timeline.at(0.0, partial(self.arrive, place))
        for place in range(int(rate * seconds)):
            self.timeline.at(place / rate, partial(self.arrive, place))
        self.timeline.run(seconds)

    def on_change(self, before, after, *, now, until):
        if after is State.OPEN and self.opened_at is None:
            self.opened_at, self.sent_by_then = now, self.sent

    def arrive(self, place):
        now = self.timeline.now
        if self.breaker.ready_at(None, now) > now:
            self.rejected += 1
            return
        self.sent += 1
        token = self.breaker.take(None, now)
        took, outcome = self.fate(place, self.chance)
        self.timeline.at(now + took, partial(self.end, token, outcome))

    def end(self, token, outcome):
        self.breaker.settle(token, outcome, self.timeline.now, self.chance.random())


def fails_after(seconds):
    return lambda place, chance: (seconds, TIMEOUT)


def fails_after_about(seconds):
    return lambda place, chance: (seconds * chance.uniform(0.4, 1.6), SERVER_ERROR)


def fails_at_once_or_hangs(seconds):
    return lambda place, chance: (0.05, SERVER_ERROR) if place % 2 else (seconds, TIMEOUT)


@table_test("rate", [2.0, 5.0, 20.0, 100.0])
@table_test("seconds", [0.01, 1.0, 5.0, 30.0])
def test_a_dead_target_opens_a_cold_circuit_after_eight_failures(rate, seconds):
    played = OpenLoop(rate, fails_after(seconds), seconds=seconds + 9 / rate)

    assert played.opened_at == pytest.approx(seconds + 7 / rate)


@table_test("rate", [2.0, 5.0, 20.0])
@table_test("seconds", [1.0, 5.0, 30.0])
def test_a_dead_target_with_uneven_failure_times_opens_a_cold_circuit(rate, seconds):
    played = OpenLoop(rate, fails_after_about(seconds), seconds=3 * seconds + 20 / rate)

    assert played.opened_at is not None


@table_test("rate", [2.0, 5.0, 20.0, 100.0])
@table_test("seconds", [5.0, 10.0, 30.0])
def test_a_target_that_refuses_half_and_hangs_otherwise_opens_a_cold_circuit(rate, seconds):
    played = OpenLoop(rate, fails_at_once_or_hangs(seconds), seconds=3 * seconds + 20 / rate)

    assert played.opened_at is not None


def test_a_target_that_dies_after_its_circuit_closed_opens_it_again():
    alive = range(20, 45)  # calls during the trial

    def fate(place, chance):
        return (0.1, OK) if place in alive else (5.0, TIMEOUT)

    played = OpenLoop(2.0, fate, seconds=600.0)

    assert played.breaker.trips >= 2
    assert (
        played.sent < 250
    )  # of 1,200: three probes in ten seconds, the longest open time and their timeout


@table_test("answer", [0.5, 5.0, 50.0])
@table_test("failure", [0.01, 4.0])
@table_test("rate", [2.0, 20.0])
def test_a_quarter_of_failures_does_not_open_a_cold_circuit(answer, failure, rate):
    """A quarter fails, before or after the others are answered."""

    def fate(place, chance):
        if chance.random() < 0.25:
            return (min(failure, 0.9 * answer) * chance.uniform(0.5, 1.5), SERVER_ERROR)
        return (answer * chance.uniform(0.7, 1.0), OK)

    for seed in range(2):
        for burst in (0, 100):
            played = OpenLoop(rate, fate, seconds=1.2 * answer + 5, burst=burst, seed=seed)
            assert played.opened_at is None, (seed, burst)


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


def test_the_default_rule_rarely_opens_in_a_partial_outage():
    seeds = range(20)
    opened = {
        trip.kind: sum(opened_in_a_partial_outage(trip, share=0.4, seed=seed) for seed in seeds)
        for trip in (DeadTarget(), FailureRate(), ConsecutiveFailures())
    }

    assert opened["dead_target"] <= 5  # one run in a thousand is too long by chance
    assert opened["failure_rate"] == 0
    assert opened["consecutive"] >= 18


def failed_until_open(stage):
    """Fail calls, one a second, until the circuit opens; return how many."""
    for failures in range(1, 100):
        stage.now += 1.0
        stage.start().step(SERVER_ERROR).close()
        if stage.state.breaker.state is State.OPEN:
            return failures
    return None


@table_test("usual", range(8))
def test_the_default_rule_opens_when_failures_exceed_chance(usual):
    """Before it dies, there are `usual` failures for each answer."""
    stage = Stage(policy(breaker=BreakerPolicy()))
    for _ in range(100):
        for outcome in [SERVER_ERROR] * usual + [OK]:
            stage.now += 1.0
            stage.start().step(outcome).close()
    share = min(0.85, max(0.4, usual / (usual + 1)))

    assert stage.state.breaker.trips == 0
    assert failed_until_open(stage) == ceil(log(0.001) / log(share))


@table_test(("answered", "state"), [(-1, State.CLOSED), (0, State.OPEN)])
def test_the_default_rule_counts_failures_sent_after_the_last_answered_attempt(answered, state):
    stage = Stage(policy(breaker=BreakerPolicy()))
    runs = []
    for _ in range(50):
        stage.now += 0.01
        runs.append(stage.start())
    stage.now += 1.0
    runs.pop(answered).step(OK)
    for run in runs:
        run.step(SERVER_ERROR).close()

    assert stage.state.breaker.state is state


@given(chance=st.floats(0.0, 1.0, exclude_max=True))
def test_the_default_rule_opens_for_a_short_jittered_time(chance):
    stage = Stage(policy(breaker=BreakerPolicy()), chance=chance)
    stage.fail_until_open()

    assert stage.state.breaker.state is State.OPEN
    assert 0.5 <= stage.state.breaker.until - stage.now < 1.0
