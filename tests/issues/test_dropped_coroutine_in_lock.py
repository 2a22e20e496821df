"""The garbage collector may drop a coroutine, and so release a probe, while the same thread holds the lock of the circuit.

A plain lock deadlocked there. The probe is settled when the lock is released.
"""

import gc

import pytest
from on_threads import within_time
from table_test import table_test

from stormbreak import BreakerPolicy, CircuitBreaker, CircuitOpenError
from stormbreak.core.breaker_policy import State
from stormbreak.core.trip import ConsecutiveFailures

ONE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1),
    open_duration=1.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
)


class Suspend:
    def __await__(self):
        yield


async def never():
    await Suspend()


def fail():
    raise ValueError


class Collecting:
    """A breaker whose clock, read under the lock, can collect garbage; it records the events of the listener."""

    def __init__(self):
        self.now, self.collects, self.events = 0.0, False, []
        self.breaker = CircuitBreaker(
            ONE, clock=self.clock, chance=self.chance, on_change=self.listen
        )

    def clock(self):
        if self.collects:
            gc.collect()
        return self.now

    def chance(self):
        self.clock()
        return 0.5

    def listen(self, before, after):
        free = self.breaker._lock.acquire(blocking=False)
        self.events.append((after, free and not self.breaker._busy))
        self.breaker._lock.release()

    def leave_behind(self):
        """Start a probe in a reference cycle that only the garbage collector frees."""
        self.now += 10.0
        caller = self.breaker.async_call(never)
        caller.send(None)
        ring = [caller]
        ring.append(ring)

    def open(self):
        with pytest.raises(ValueError):
            self.breaker.call(fail)

    def in_the_middle(self, turn):
        """Take a turn in which the probe is dropped. Return whether the circuit permitted this turn."""
        gc.disable()
        try:
            self.open()
            self.leave_behind()
            self.collects = True
            turn(self.breaker)
        except CircuitOpenError:
            return False
        else:
            return True
        finally:
            self.collects = False
            gc.enable()


TURNS = {
    "call": lambda breaker: breaker.call(lambda: 1),
    "retry_in": lambda breaker: breaker.retry_in,
    "isolate": lambda breaker: breaker.isolate(),
    "reset": lambda breaker: breaker.reset(),
    "save": lambda breaker: breaker.save(),
}


@table_test("turn", TURNS)
def test_a_probe_dropped_under_the_lock_does_not_deadlock(turn):
    scene = Collecting()
    breaker = scene.breaker

    passed = []

    def drop_in_the_middle():
        passed.append(scene.in_the_middle(TURNS[turn]))

    assert within_time(drop_in_the_middle), "deadlock"
    assert passed == [turn != "call"]  # its slot is released after the check
    assert not breaker._postponed
    assert all(unlocked for _, unlocked in scene.events)
    if breaker.state is State.HALF_OPEN:
        assert breaker.retry_in == 0.0


def test_a_dropped_probe_is_settled_after_the_current_turn():
    """The probe that asks is rejected and must not see a half-finished change."""
    scene = Collecting()
    refused = []

    def drop_in_the_middle():
        if not scene.in_the_middle(lambda breaker: breaker.call(lambda: 1)):
            refused.append(scene.breaker.retry_in)

    assert within_time(drop_in_the_middle), "deadlock"
    assert refused == [0.0]


def test_a_nested_turn_of_the_same_thread_does_not_deadlock():
    """For example a clock that reads the circuit, or a finalizer that calls through it."""
    looked = []

    def clock():
        if not looked:
            looked.append(None)
            looked.append(circuit.retry_in)
            assert circuit._busy
        return 0.0

    circuit = CircuitBreaker(ONE, clock=clock)
    assert within_time(circuit.reset), "deadlock"
    assert looked == [None, 0.0]
    assert not circuit._busy
