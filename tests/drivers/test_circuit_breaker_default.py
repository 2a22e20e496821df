"""When a circuit breaker without a policy opens."""

import contextlib
import random

from circuits import breaker, fail
from table_test import table_test

from stormbreak import BreakerPolicy, CircuitOpenError
from stormbreak.core.breaker_policy import State


def call_each(circuit, outcomes, *, every=1.0):
    """Call once `every` few seconds, True is a success; return how many calls passed."""
    passed = 0
    for well in outcomes:
        circuit.time.now += every
        with contextlib.suppress(ValueError, CircuitOpenError), circuit.attempt():
            passed += 1
            if not well:
                fail()
    return passed


@table_test("successes", [0, 1, 100])
def test_a_dead_function_opens_the_circuit_after_eight_failures(successes):
    circuit = breaker(None)
    assert call_each(circuit, [True] * successes + [False] * 7) == successes + 7
    assert circuit.state is State.CLOSED
    call_each(circuit, [False])

    assert (circuit.state, circuit.trips) == (State.OPEN, 1)
    assert circuit.retry_in == 0.75


@table_test("seed", range(5))
@table_test(("share", "trips"), [(0.2, 0), (0.5, 2)])
def test_failures_beside_successes_hardly_ever_open_the_circuit(share, trips, seed):
    """One run in a thousand may be too long by chance."""
    chance = random.Random(seed)
    circuit = breaker(None)
    passed = call_each(circuit, (chance.random() >= share for _ in range(500)))

    assert circuit.trips <= trips
    assert passed >= 500 - 5 * trips


def test_the_circuit_stays_closed_while_every_second_call_fails():
    circuit = breaker(None)
    call_each(circuit, [False, True] * 250)

    assert (circuit.state, circuit.trips) == (State.CLOSED, 0)


def test_only_an_unusually_long_run_of_failures_opens_the_circuit():
    circuit = breaker(None)
    call_each(circuit, ([False] * 5 + [True]) * 100)
    assert call_each(circuit, [False] * 20) == 20
    assert circuit.state is State.CLOSED
    call_each(circuit, [False] * 40)

    assert circuit.trips == 1


def test_metrics_show_the_last_ten_seconds():
    circuit = breaker(None)
    call_each(circuit, [True, True, True, False])
    seen = circuit.metrics
    assert (seen.calls, seen.failures, seen.failure_rate) == (4, 1, 0.25)
    assert (seen.slow_calls, seen.slow_call_rate) == (0, None)
    circuit.time.now += 30.0

    assert circuit.metrics.failure_rate is None


@table_test("error", [None, ValueError()])
@table_test("probes", [1, 2])
def test_attempts_begun_before_the_circuit_opened_do_not_open_it_again(error, probes):
    """Twenty are in flight when it opens; they end while it is open, after it closed, or never."""
    circuit = breaker(BreakerPolicy(open_duration_jitter=0.0, success_ratio=probes / 3))
    call_each(circuit, [True] * 64)  # the usual time is known
    circuit.time.now += 1.0
    old = [circuit.attempt() for _ in range(20)]
    for attempt in old:
        attempt.__enter__()
    call_each(circuit, [False] * 8, every=0.01)
    assert circuit.state is State.OPEN
    for attempt in old[:10]:
        attempt.__exit__(type(error), error, None)
    call_each(circuit, [True] * probes)
    assert circuit.state is State.CLOSED
    for attempt in old[10:15]:
        attempt.__exit__(type(error), error, None)
    call_each(circuit, [False] * 7)

    assert (circuit.state, circuit.trips) == (State.CLOSED, 1)
