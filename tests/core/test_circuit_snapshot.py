import json
from math import inf, nan

import pytest
from stage import OK, SERVER_ERROR
from table_test import table_test

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, Mode, State
from stormbreak.core.circuit_snapshot import CircuitSnapshot, parse_snapshot, parse_snapshots
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS


def fresh(**changes):
    rules = {
        "open_duration": 10.0,
        "open_duration_jitter": 0.0,
        "open_duration_factor": 2.0,
        "max_open_duration": 120.0,
        "probes": 2,
        "max_concurrent_probes": 2,
        "success_ratio": 0.5,
    }
    policy = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1), **{**rules, **changes})
    return Breaker(policy, TREATMENTS, lambda *_, **__: None)


def fail(breaker, now):
    breaker.settle(breaker.take(None, now), SERVER_ERROR, now, 0.5)


def restarted(breaker, now, *, at, elapsed=0.0, **changes):
    """The circuit in another process, whose clock reads `at`."""
    text = json.dumps(breaker.save(now).as_dict())
    other = fresh(**changes)
    other.restore(parse_snapshot(json.loads(text)), at, elapsed=elapsed)
    return other


def test_an_open_circuit_keeps_its_open_time_minus_the_time_that_passed():
    breaker = fresh()
    fail(breaker, 100.0)

    assert restarted(breaker, 103.0, at=5000.0).ready_at(None, 5000.0) == 5007.0
    assert restarted(breaker, 103.0, at=5000.0, elapsed=4.0).ready_at(None, 5000.0) == 5003.0
    assert restarted(breaker, 103.0, at=5000.0, elapsed=40.0).ready_at(None, 5000.0) == -inf


def test_half_open_is_saved_as_open_with_no_time_left():
    breaker = fresh()
    fail(breaker, 100.0)
    breaker.take(None, 110.0)
    breaker.take(None, 110.0)
    assert breaker.ready_at(None, 110.0) > 110.0  # no probe is free
    other = restarted(breaker, 110.0, at=0.0)

    assert (other.state, other.ready_at(None, 0.0)) == (State.OPEN, -inf)
    other.take(None, 0.0)
    assert other.state is State.HALF_OPEN


def test_an_ended_half_open_state_is_saved_as_the_open_time_after_it():
    breaker = fresh(max_half_open_duration=100.0)
    fail(breaker, 100.0)
    breaker.take(None, 110.0)  # half-open until 210, then open for twenty seconds

    assert restarted(breaker, 215.0, at=0.0).ready_at(None, 0.0) == 15.0


def test_a_circuit_that_closed_is_saved_without_grown_open_time():
    breaker = fresh()
    fail(breaker, 100.0)
    for outcome in (SERVER_ERROR, SERVER_ERROR, OK, OK):
        now = max(110.0, breaker.until)
        breaker.settle(breaker.take(None, now), outcome, now, 0.5)

    assert breaker.state is State.CLOSED
    assert breaker.save(140.0).open_for == 10.0


def test_the_open_time_grows_across_a_restart():
    breaker = fresh()
    fail(breaker, 100.0)
    for now in (110.0, 110.0):  # one of two may fail
        fail(breaker, now)
    other = restarted(breaker, 115.0, at=0.0)
    assert other.ready_at(None, 0.0) == 15.0
    fail(other, 15.0)
    fail(other, 15.0)
    assert other.until == 15.0 + 40.0


@table_test("by_hand", [True, False])
def test_closed_and_isolated_circuits_keep_their_state(by_hand):
    breaker = fresh()
    if by_hand:
        breaker.isolate(3.0)

    assert restarted(breaker, 9.0, at=0.0).state is breaker.state


def test_results_from_before_a_restore_change_nothing():
    breaker = fresh()
    token = breaker.take(None, 0.0)
    breaker.restore(breaker.save(1.0), 1.0)
    breaker.settle(token, SERVER_ERROR, 2.0, 0.5)
    assert breaker.state is State.CLOSED
    breaker.settle(breaker.take(None, 3.0), OK, 3.0, 0.5)
    assert breaker.state is State.CLOSED


@table_test("mode", [Mode.DISABLED, Mode.METRICS_ONLY, Mode.FORCED_OPEN])
def test_the_mode_overrides_the_saved_state(mode):
    breaker = fresh()
    fail(breaker, 100.0)
    other = restarted(breaker, 100.0, at=0.0, mode=mode)

    assert other.state is (State.ISOLATED if mode is Mode.FORCED_OPEN else State.CLOSED)


def test_a_circuit_that_is_not_open_is_saved_without_time_left():
    breaker = fresh()
    assert breaker.save(5.0) == CircuitSnapshot(state=State.CLOSED, open_left=0.0, open_for=10.0)
    breaker.isolate(5.0)
    assert breaker.save(5.0).open_left == 0.0


def test_counts_from_before_a_restore_are_forgotten():
    policy = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=2))
    breaker = Breaker(policy, TREATMENTS, lambda *_, **__: None)
    fail(breaker, 1.0)
    breaker.restore(breaker.save(1.0), 1.0)
    fail(breaker, 2.0)
    assert breaker.state is State.CLOSED
    fail(breaker, 2.0)
    assert breaker.state is State.OPEN


def test_restore_assumes_no_elapsed_time_by_default():
    breaker = fresh()
    fail(breaker, 100.0)
    other = fresh()
    other.restore(breaker.save(100.0), 0.0)
    assert other.until == 10.0


def test_the_policy_caps_a_restored_open_time():
    saved = CircuitSnapshot(state=State.OPEN, open_left=60.0, open_for=60.0)
    breaker = fresh(open_duration=0.5, max_open_duration=0.5, respect_retry_after=False)
    breaker.restore(saved, 7.0)
    assert breaker.until == 7.5


@table_test("forget", [Breaker.reset, lambda breaker, now: breaker.restore(
    CircuitSnapshot(state=State.CLOSED, open_left=0.0, open_for=10.0), now)])  # fmt: skip
def test_reset_and_restore_forget_a_named_time(forget):
    breaker = fresh()
    breaker.settle(breaker.take(None, 0.0), SERVER_ERROR._replace(retry_after=500.0), 0.0, 0.5)
    assert breaker.until > 500.0
    forget(breaker, 1.0)
    fail(breaker, 2.0)
    assert breaker.until == 12.0


BEYOND = "open_left must be a finite number, got"
GOOD = {"state": "open", "open_left": 1, "open_for": 5.0}


@table_test(
    ("key", "value", "message"),
    [
        ("state", "half_open", "state must be one of closed, open, isolated, got 'half_open'"),
        ("state", [], r"state must be one of closed, open, isolated, got \[\]"),
        ("state", 999 * "x", f"isolated, got '{59 * 'x'}[.]{{3}}$"),
        pytest.param(
            "state", 10**5000, "isolated, got a number of thousands of digits$", id="a digit state"
        ),
        ("open_left", -1, "open_left must not be negative, got -1"),
        ("open_left", nan, "open_left must be a finite number, got nan"),
        ("open_left", 1e300, "open_left must be at most 31622400 s, got 1e\\+300"),
        pytest.param("open_left", 10**400, f"{BEYOND} 1{59 * '0'}[.]{{3}}$", id="400 digits"),
        pytest.param(
            "open_left", 10**5000, f"{BEYOND} a number of thousands of digits$", id="5000 digits"
        ),
        ("open_for", 1e9, "open_for must be at most 31622400 s, got 1000000000.0"),
        ("open_for", 999 * "x", f"open_for must be a finite number, got '{59 * 'x'}[.]{{3}}$"),
        ("open_left", "1", "open_left must be a finite number, got '1'"),
        ("open_for", None, "open_for must be a finite number, got None"),
        ("open_for", 0, "open_for must be positive, got 0"),
        ("open_for", True, "open_for must be a finite number, got True"),
    ],
)
def test_an_invalid_saved_value_is_named(key, value, message):
    assert parse_snapshot(GOOD).open_left == 1.0
    with pytest.raises(ConfigurationError, match=message):
        parse_snapshot({**GOOD, key: value})


@table_test("values", [None, [], "open", 3])
def test_a_saved_circuit_must_be_a_table(values):
    with pytest.raises(ConfigurationError, match="a saved circuit must be a table, got "):
        parse_snapshot(values)


@table_test(
    ("changes", "left", "grown"),
    [
        ({}, 1350.0, 40.0),  # as long as a server may keep it open
        ({"open_duration_factor": 1.0}, 1350.0, 10.0),
        ({"open_duration_factor": 1.0, "respect_retry_after": False}, 10.0, 10.0),
        ({"respect_retry_after": False}, 40.0, 40.0),
        ({"respect_retry_after": False, "open_duration_jitter": 0.5}, 60.0, 40.0),
        ({"respect_retry_after": False, "max_open_duration": 5.0}, 10.0, 10.0),
    ],
)
def test_the_present_policy_caps_restored_times(changes, left, grown):
    breaker = fresh(**{"max_open_duration": 40.0, **changes})
    breaker.restore(
        CircuitSnapshot(state=State.OPEN, open_left=9e6, open_for=9e6, named_left=9e6), 100.0
    )
    assert breaker.ready_at(None, 100.0) == 100.0 + left
    now = breaker.until
    fail(breaker, now)
    fail(breaker, now)
    assert breaker.until == now + grown


def test_a_restored_open_time_is_at_least_that_of_the_policy():
    breaker = fresh()
    breaker.restore(CircuitSnapshot(state=State.OPEN, open_left=0.0, open_for=1e-9), 0.0)
    fail(breaker, 0.0)
    fail(breaker, 0.0)
    assert breaker.until == 20.0


def test_half_open_is_no_valid_saved_state():
    with pytest.raises(ConfigurationError, match="state must be one of closed, open, isolated"):
        CircuitSnapshot(state=State.HALF_OPEN, open_left=0.0, open_for=5.0)


def test_the_shortest_open_times_are_valid():
    assert parse_snapshot({**GOOD, "open_left": 0, "open_for": 0.1}).open_for == 0.1


def test_a_very_long_open_time_can_be_saved_and_read():
    breaker = fresh(open_duration=1e12, max_open_duration=1e12)
    fail(breaker, 0.0)
    assert restarted(breaker, 0.0, at=0.0).state is State.OPEN


def test_a_restored_open_time_is_capped_by_the_present_policy():
    breaker = fresh(open_duration=600.0)
    fail(breaker, 100.0)

    assert (
        restarted(breaker, 100.0, at=0.0, open_duration=5.0, open_duration_factor=1.0).ready_at(
            None, 0.0
        )
        == 5.0
    )


def test_a_retry_after_longer_than_any_open_time_survives_restarts():
    breaker = fresh()
    token = breaker.take(None, 100.0)
    breaker.settle(token, SERVER_ERROR._replace(retry_after=600.0), 100.0, 0.0)
    second = restarted(breaker, 110.0, at=0.0, elapsed=5.0)

    assert second.ready_at(None, 0.0) == 585.0
    assert restarted(second, 5.0, at=0.0).ready_at(None, 0.0) == 580.0
    assert (
        restarted(
            breaker, 110.0, at=0.0, respect_retry_after=False, open_duration_factor=1.0
        ).ready_at(None, 0.0)
        == 10.0
    )
    nearly_over = second.save(584.5)
    assert (nearly_over.open_left, nearly_over.named_left) == (0.5, 0.5)
    assert (
        second.save(600.0).named_left == restarted(second, 0.0, at=0.0, elapsed=600.0).until == 0.0
    )
    third = fresh(respect_retry_after=False)
    third.restore(nearly_over, 0.0)
    assert (third.until, third.save(0.0).named_left) == (0.5, 0.0)


def test_restore_ends_an_isolation_by_hand():
    saved = CircuitSnapshot(state=State.OPEN, open_left=5.0, open_for=10.0)
    breaker = fresh()
    breaker.isolate(0.0, duration=60.0)
    breaker.restore(saved, 1.0)
    assert breaker.save(1.0) == saved


def test_the_last_half_second_of_an_isolation_survives_a_restart():
    breaker = fresh()
    breaker.isolate(0.0, duration=10.0)
    assert restarted(breaker, 0.0, at=0.0, elapsed=9.5).state is State.ISOLATED


def test_a_saved_circuit_without_named_left_can_be_read():
    values = {"state": "open", "open_left": 3.0, "open_for": 5.0}

    assert parse_snapshot(values) == CircuitSnapshot(state=State.OPEN, open_left=3.0, open_for=5.0)


@table_test("mode", Mode)
def test_an_isolation_by_hand_survives_a_restart_in_every_mode(mode):
    breaker = fresh(mode=mode)
    breaker.isolate(100.0)
    other = restarted(breaker, 110.0, at=0.0)
    assert other.ready_at(None, 0.0) == inf

    other.isolate(0.0, duration=30.0)
    third = restarted(other, 10.0, at=0.0, elapsed=5.0, mode=Mode.NORMAL)
    assert (third.state, third.ready_at(None, 0.0)) == (State.ISOLATED, 15.0)
    assert (
        restarted(other, 10.0, at=0.0, elapsed=50.0, mode=Mode.NORMAL).ready_at(None, 0.0) == -inf
    )


def test_a_forced_open_circuit_is_not_isolated_in_another_mode():
    forced = fresh(mode=Mode.FORCED_OPEN)

    assert restarted(forced, 100.0, at=0.0).state is State.CLOSED
    assert restarted(forced, 100.0, at=0.0, mode=Mode.FORCED_OPEN).ready_at(None, 0.0) == inf
    forced.isolate(100.0)
    assert restarted(forced, 100.0, at=0.0).state is State.ISOLATED
    forced.reset(100.0)
    assert restarted(forced, 100.0, at=0.0).state is State.CLOSED


def test_circuits_of_several_models_are_read_and_an_invalid_one_is_named():
    saved = CircuitSnapshot(state=State.OPEN, open_left=3.0, open_for=5.0)
    circuits = {"large": saved.as_dict(), "small": saved.as_dict()}
    assert parse_snapshots({"circuits": circuits}) == {"large": saved, "small": saved}
    for wrong, message in (
        ([], "saved circuits must be"),
        ({"circuits": []}, "circuits must be"),
        ({"circuits": {"": saved.as_dict()}}, "circuits must have names of models"),
        ({"circuits": {1: saved.as_dict()}}, "circuits must have names of models"),
        ({"circuits": {"large": {}}}, "circuits of 'large'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            parse_snapshots(wrong)
