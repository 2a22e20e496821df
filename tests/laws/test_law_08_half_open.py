"""Law 8. Half-open: at most N probes, M at once, each with a lease, so that a hung probe cannot hold the
circuit; decided as soon as the outcome of the N is certain. The open time can grow, is jittered and may be set by the
server; half-open has a longest time. A permit carries the
epoch of the state that gave it: results of an earlier state move nothing. A probe later than its lease has lost
its place only, or a target slower than the lease would never be let back in. One that tells nothing gives its place
back, 3 N times at the most for answers and 10 N times for cancels (tests/issues/test_endless_half_open_period.py).
"""

from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, Stage, policy

from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.trip import ConsecutiveFailures

PROBES = st.integers(1, 8)
LEASE = 30.0


def half_open(probes, max_concurrent_probes, crowd=None, **changes):
    """A circuit whose open time is over, and a crowd of waiting calls."""
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1),
        open_duration=5.0,
        open_duration_jitter=0.0,
        probes=probes,
        max_concurrent_probes=min(max_concurrent_probes, probes),
        **{"probe_lease": LEASE, **changes},
    )
    stage = Stage(policy(breaker=breaker))
    stage.fail_until_open()
    crowd = [stage.start(fail_fast=False) for _ in range(crowd or 3 * probes)]
    stage.pass_time(5.0)
    return stage, crowd


def sending(crowd):
    return [run for run in crowd if run.sending]


@given(probes=PROBES, max_concurrent_probes=PROBES)
def test_no_more_than_max_concurrent_probes_leave_at_once(probes, max_concurrent_probes):
    stage, crowd = half_open(probes, max_concurrent_probes)

    assert len(sending(crowd)) == min(max_concurrent_probes, probes)
    assert stage.state.breaker.state is State.HALF_OPEN


@given(
    probes=PROBES,
    max_concurrent_probes=PROBES,
    success_ratio=st.floats(0.01, 1.0),
    answers=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_the_circuit_is_decided_as_soon_as_its_outcome_is_certain(
    probes, max_concurrent_probes, success_ratio, answers
):
    stage, crowd = half_open(probes, max_concurrent_probes, success_ratio=success_ratio)
    good = 0
    for sent, well in enumerate(answers[:probes], start=1):
        probe = sending(crowd)[0]
        crowd.remove(probe)
        probe.step(OK if well else SERVER_ERROR)
        probe.close()
        good += well
        may_close = good + (probes - sent) >= success_ratio * probes - 1e-9
        must_close = good >= success_ratio * probes - 1e-9
        if not may_close:
            assert stage.state.breaker.state is State.OPEN
            return
        if must_close:
            assert stage.state.breaker.state is State.CLOSED
            return
        assert stage.state.breaker.state is State.HALF_OPEN
        stage.settle()
        assert len(sending(crowd)) == min(max_concurrent_probes, probes - sent)
    raise AssertionError("N probes did not decide")


def test_a_dead_target_gets_no_more_than_its_probes_from_twenty_callers():
    stage = Stage(
        policy(
            breaker=BreakerPolicy(
                trip=ConsecutiveFailures(failure_threshold=1), open_duration_jitter=0.0
            )
        )
    )
    stage.fail_until_open()
    crowd = [stage.start(fail_fast=False) for _ in range(20)]
    for trial in (1, 2, 3):
        stage.pass_time(5.0)
        sent = 0
        while waiting := sending(crowd):
            sent += 1
            waiting[0].step(SERVER_ERROR).close()
            stage.settle()
        assert sent <= 3, f"in trial {trial}"
        assert stage.state.breaker.state is State.OPEN


def test_a_hung_probe_holds_the_circuit_until_its_lease_ends():
    stage, crowd = half_open(1, 1)
    (hung,) = sending(crowd)
    stage.pass_time(29.9)
    assert sending(crowd) == [hung]
    stage.pass_time(0.1)
    other = next(run for run in sending(crowd) if run is not hung)
    other.step(OK)

    assert stage.state.breaker.state is State.CLOSED
    hung.step(SERVER_ERROR)
    assert stage.state.breaker.state is State.CLOSED


@given(
    probes=PROBES,
    max_concurrent_probes=PROBES,
    success_ratio=st.floats(0.01, 1.0),
    latency=st.floats(0.0, 10 * LEASE),
    hangs=st.lists(st.booleans(), max_size=6),
)
def test_a_healthy_target_closes_its_circuit_however_slow_it_is(
    probes, max_concurrent_probes, success_ratio, latency, hangs
):
    """Some probes hang for ever; all others succeed, perhaps long after their lease."""
    stage, crowd = half_open(probes, max_concurrent_probes, crowd=200, success_ratio=success_ratio)
    began, fates, answer_at = stage.now, iter(hangs), {}
    needed = max(1, ceil(success_ratio * probes - 1e-9))
    closed_by = began + (sum(hangs) + needed - 1) * LEASE + latency
    while stage.state.breaker.state is State.HALF_OPEN:
        for run in sending(crowd):
            answer_at.setdefault(run, inf if next(fates, False) else stage.now + latency)
        run = min(answer_at, key=answer_at.get)
        stage.now = max(stage.now, min(stage._due_at(), answer_at[run]))
        assert stage.now <= closed_by + 1e-6
        if answer_at[run] <= stage.now:
            answer_at[run] = inf
            run.step(OK)
        stage.settle()

    assert stage.state.breaker.state is State.CLOSED


@given(late=st.lists(st.booleans(), max_size=10))
def test_late_results_change_nothing(late):
    """Attempts sent while closed end when the circuit is open, half-open, and closed again."""
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1),
        open_duration=5.0,
        open_duration_jitter=0.0,
        probes=1,
        max_concurrent_probes=1,
    )
    stage = Stage(policy(breaker=breaker))
    old = [stage.start() for _ in late]
    stage.fail_until_open()
    epoch = stage.state.breaker._epoch

    def come_back(place):
        for run, well in zip(old[place::3], late[place::3], strict=True):
            run.step(OK if well else SERVER_ERROR).close()

    come_back(0)
    assert (stage.state.breaker.state, stage.state.breaker._epoch) == (State.OPEN, epoch)
    stage.pass_time(5.0)
    probe = stage.start()
    come_back(1)
    trial = stage.state.breaker.trial
    assert (trial.succeeded, trial.failed, len(trial.probes)) == (0, 0, 1)
    probe.step(OK)
    come_back(2)
    assert stage.state.breaker.state is State.CLOSED


@given(cancelled=st.integers(1, 19))
def test_a_cancelled_probe_gives_its_place_to_the_next(cancelled):
    stage, crowd = half_open(7, 2)
    for _ in range(cancelled):
        sending(crowd)[0].close()
        stage.settle()
        assert len(sending(crowd)) == 2

    assert stage.state.breaker.state is State.HALF_OPEN


@given(
    growth=st.floats(1.0, 4.0),
    longest=st.floats(1.0, 200.0),
    jitter=st.just(0.0) | st.floats(0.001, 0.9),
    chance=st.floats(0.0, 0.999),
)
def test_the_open_time_grows_to_its_cap_and_is_jittered_after_it(growth, longest, jitter, chance):
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=5.0, open_duration_factor=growth, max_open_duration=longest,
        open_duration_jitter=jitter, probes=1, max_concurrent_probes=1,
    )  # fmt: skip
    stage = Stage(policy(breaker=breaker), chance=chance)
    stage.fail_until_open()
    expected = 5.0
    for _ in range(8):
        open_for = stage.state.breaker.until - stage.now
        assert open_for == pytest.approx(expected * (1 + jitter * (2 * chance - 1)))
        expected = min(expected * growth, max(longest, 5.0))
        stage.now = stage.state.breaker.until
        stage.start().step(SERVER_ERROR).close()


@given(named=st.floats(0.001, 2000.0), chance=st.floats(0.0, 0.999), respect=st.booleans())
def test_retry_after_sets_the_open_time_and_no_probe_leaves_earlier(named, chance, respect):
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), respect_retry_after=respect
    )
    stage = Stage(policy(breaker=breaker), chance=chance)
    stage.start().step(SERVER_ERROR._replace(retry_after=named)).close()
    open_for = stage.state.breaker.until - stage.now
    own = breaker.open_duration * (1 + breaker.open_duration_jitter * (2 * chance - 1))

    assert open_for == pytest.approx(max(own, respect * min(named, 900.0) * (1 + 0.5 * chance)))


def test_half_open_ends_after_its_longest_time_by_default():
    """All probes hang, also those that take their places."""
    stage, crowd = half_open(1, 1, crowd=40)
    stage.pass_time(899.0)
    assert stage.state.breaker.state is State.HALF_OPEN
    left = len(sending(crowd))
    stage.pass_time(1.0)
    assert len(sending(crowd)) == left
    stage.pass_time(5.0)  # the open time
    newest = next(run for run in reversed(stage.runs) if run.sending)
    newest.step(OK)
    assert stage.state.breaker.state is State.CLOSED


@given(late=st.lists(st.booleans(), min_size=1, max_size=5))
def test_probes_of_an_ended_trial_change_nothing(late):
    stage, crowd = half_open(5, 5, crowd=5, max_half_open_duration=20.0)
    stage.now += 20.0
    for well in late:
        sending(crowd)[0].step(OK if well else SERVER_ERROR).close()

    assert stage.state.breaker.state is State.OPEN
    assert stage.state.breaker.until == stage.now + 5.0


@given(late=st.lists(st.booleans(), min_size=1, max_size=5))
def test_probes_of_an_earlier_trial_do_not_count_in_the_next(late):
    """All probes of the first trial hang beyond its end; some end during the second."""
    stage, _ = half_open(5, 5, crowd=10, max_half_open_duration=20.0)
    hung = [run for run in stage.runs if run.sending]
    stage.pass_time(25.0)  # the rest of the trial, and the open time after it
    trial = stage.state.breaker.trial
    assert len(trial.probes) == 5
    for run, well in zip(hung, late, strict=False):
        run.step(OK if well else SERVER_ERROR).close()

    assert stage.state.breaker.trial is trial
    assert (trial.succeeded, trial.failed, len(trial.probes)) == (0, 0, 5)
