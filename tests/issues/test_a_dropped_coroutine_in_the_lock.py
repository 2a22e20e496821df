"""The garbage collector may drop a coroutine, and so leave a circuit, in the middle of a turn of the very same thread.

A plain lock stood still for ever there. What was dropped is settled when the turn is over.
"""

import gc
import threading

import pytest

from stormbreak import BreakerPolicy, CircuitBreaker, CircuitOpenError
from stormbreak.core.circuit import State
from stormbreak.core.trip import ConsecutiveFailures

ONE = BreakerPolicy(
    trip=ConsecutiveFailures(threshold=1), open_for=1.0, jitter=0.0, probes=1, at_once=1
)


class Suspend:
    def __await__(self):
        yield


async def never():
    await Suspend()


def fail():
    raise ValueError


class Collecting:
    """A breaker whose clock, read under the lock, collects garbage when told to; and who was told of what."""

    def __init__(self):
        self.now, self.collects, self.told = 0.0, False, []
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
        self.told.append((after, free and not self.breaker._busy))
        self.breaker._lock.release()

    def leave_behind(self):
        """A probe under way, in a cycle that only the collector will find."""
        self.now += 10.0
        caller = self.breaker.async_call(never)
        caller.send(None)
        ring = [caller]
        ring.append(ring)

    def open(self):
        with pytest.raises(ValueError):
            self.breaker.call(fail)


def within_time(scene):
    thread = threading.Thread(target=scene, daemon=True)
    thread.start()
    thread.join(20.0)
    return not thread.is_alive()


TURNS = {
    "call": lambda breaker: breaker.call(lambda: 1),
    "retry_in": lambda breaker: breaker.retry_in,
    "isolate": lambda breaker: breaker.isolate(),
    "reset": lambda breaker: breaker.reset(),
    "save": lambda breaker: breaker.save(),
}


@pytest.mark.parametrize("turn", TURNS)
def test_no_turn_stands_still(turn):
    scene = Collecting()
    breaker = scene.breaker

    def drop_in_the_middle():
        gc.disable()
        try:
            scene.open()
            scene.leave_behind()
            scene.collects = True
            try:
                TURNS[turn](breaker)
            except CircuitOpenError:
                assert turn == "call"  # the place came free a moment too late
        finally:
            scene.collects = False
            gc.enable()

    assert within_time(drop_in_the_middle), "deadlock"
    assert not breaker._postponed
    assert all(unlocked for _, unlocked in scene.told)
    if breaker.state is State.HALF_OPEN:
        assert breaker.retry_in == 0.0


def test_a_turn_is_over_before_a_dropped_probe_gives_its_place_back():
    """The probe that asks is refused: it must not see half of what happens meanwhile."""
    scene = Collecting()
    refused = []

    def drop_in_the_middle():
        gc.disable()
        try:
            scene.open()
            scene.leave_behind()
            scene.collects = True
            try:
                scene.breaker.call(lambda: 1)
            except CircuitOpenError:
                refused.append(scene.breaker.retry_in)
        finally:
            scene.collects = False
            gc.enable()

    assert within_time(drop_in_the_middle), "deadlock"
    assert refused == [0.0]


def test_a_turn_within_a_turn_is_a_part_of_it():
    """Such as a clock that looks at the circuit, or a finalizer that calls through it."""
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
