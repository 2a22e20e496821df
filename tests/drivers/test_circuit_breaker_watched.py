"""Changes and metrics of a circuit breaker."""

import logging
import threading

import pytest
from circuits import breaker, fail, fail_until_open

from stormbreak import BreakerPolicy, CircuitOpenError
from stormbreak.core.breaker_policy import Mode, State
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, FailureRate, SlowRate
from stormbreak.drivers.circuit_breaker import BreakerMetrics


def test_listeners_run_outside_the_lock_and_cannot_fail_a_call(caplog):
    reported = []

    def listen(before, after):
        reported.append((before, after, circuit.retry_in))
        raise RuntimeError("broken listener")

    circuit = breaker(on_change=listen)
    with caplog.at_level(logging.ERROR, "stormbreak"):
        fail_until_open(circuit)
        circuit.time.now += 10.0
        circuit.call(lambda: 1)

    assert reported == [
        (State.CLOSED, State.OPEN, 10.0),
        (State.OPEN, State.HALF_OPEN, 60.0),
        (State.HALF_OPEN, State.CLOSED, 0.0),
    ]
    assert "broken listener" in caplog.text


def test_metrics_only_mode_counts_trips():
    circuit = breaker(
        BreakerPolicy(mode=Mode.METRICS_ONLY, trip=ConsecutiveFailures(failure_threshold=2))
    )
    for _ in range(5):
        with pytest.raises(ValueError):
            circuit.call(fail)

    assert (circuit.state, circuit.trips) == (State.CLOSED, 2)


def test_metrics_cover_the_window_of_the_rule():
    rules = (
        FailureRate(min_calls=10, window_seconds=10.0),
        SlowRate(slow_call_threshold=5.0, window_seconds=60.0),
    )
    circuit = breaker(BreakerPolicy(trip=AnyRule(rules=rules)))
    empty = BreakerMetrics(
        state=State.CLOSED, calls=0, failures=0, slow_calls=0, failure_rate=None,
        slow_call_rate=None, rejected=0, trips=0,
    )  # fmt: skip
    assert circuit.metrics == empty

    for _ in range(3):
        circuit.call(lambda: 1)
    with pytest.raises(ValueError):
        circuit.call(fail)
    with circuit.attempt():
        circuit.time.now += 6.0
    seen = circuit.metrics
    assert (seen.calls, seen.failures, seen.slow_calls) == (5, 1, 1)
    assert (seen.failure_rate, seen.slow_call_rate) == (0.2, 0.2)

    circuit.time.now += 30.0
    later = circuit.metrics
    assert (later.failures, later.failure_rate, later.slow_call_rate) == (0, None, 0.2)
    circuit.time.now += 60.0
    assert circuit.metrics == empty


def test_metrics_count_rejections_and_trips():
    circuit = fail_until_open(breaker())
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            circuit.call(fail)

    assert (circuit.metrics.rejected, circuit.metrics.trips) == (3, 1)


def test_metrics_of_consecutive_failures_count_the_run():
    circuit = breaker(BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=9)))
    for _ in range(4):
        with pytest.raises(ValueError):
            circuit.call(fail)

    seen = circuit.metrics
    assert (seen.calls, seen.failures, seen.failure_rate) == (4, 4, None)


def test_changes_are_delivered_in_order_and_one_at_a_time_across_threads():
    first, go = threading.Event(), threading.Event()
    seen = []

    def listen(before, after):
        seen.append((before, after))
        if len(seen) == 1:
            first.set()
            assert go.wait(10)

    circuit = breaker(on_change=listen)
    slow = threading.Thread(target=circuit.isolate)
    slow.start()
    assert first.wait(10)
    circuit.reset()  # the lock is free while the listener runs, and this does not overtake it
    circuit.isolate()
    assert seen == [(State.CLOSED, State.ISOLATED)]
    go.set()
    slow.join(10)

    assert seen == [
        (State.CLOSED, State.ISOLATED),
        (State.ISOLATED, State.CLOSED),
        (State.CLOSED, State.ISOLATED),
    ]


def test_a_change_by_a_listener_is_delivered_after_its_own():
    seen = []

    def listen(before, after):
        seen.append(("begins", after))
        if after is State.ISOLATED:
            circuit.reset()
        seen.append(("ends", after))

    circuit = breaker(on_change=listen)
    circuit.isolate()

    assert seen == [
        ("begins", State.ISOLATED),
        ("ends", State.ISOLATED),
        ("begins", State.CLOSED),
        ("ends", State.CLOSED),
    ]
