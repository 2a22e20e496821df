"""A standalone circuit breaker with a manual clock."""

import pytest

from stormbreak import BreakerPolicy, CircuitBreaker
from stormbreak.core.breaker_policy import State
from stormbreak.core.trip import ConsecutiveFailures

FRAGILE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=2),
    open_duration=10.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def breaker(policy=FRAGILE, **changes):
    clock = Clock()
    circuit = CircuitBreaker(
        policy, **{"clock": clock, "wall_clock": clock, "chance": lambda: 0.5, **changes}
    )
    circuit.time = clock
    return circuit


def fail():
    raise ValueError


def fail_until_open(circuit):
    while circuit.state is State.CLOSED:
        with pytest.raises(ValueError):
            circuit.call(fail)
    return circuit
