"""The driver for threads that make the attempts of a call themselves: it blocks one until an attempt may leave.

It cannot stop an attempt: the thread ends it after `Send.timeout`, and closes the call after an exception.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send, Wait, WaitFor
from stormbreak.drivers.chance import draw
from stormbreak.drivers.delivery import DRAINED, CallerDriven, check_ticket
from stormbreak.drivers.flow_stepper import Driver
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.types import Call

FOREVER = threading.TIMEOUT_MAX


class Waiter(Protocol):
    """A place where one thread waits, like a `threading.Event`."""

    def wait(self, timeout: float, /) -> object:
        """Wait until it is set, or for `timeout` seconds."""

    def set(self) -> None:
        """Release the waiting thread, now or later. Thread-safe."""


class ParkedThread:
    """Parks one thread, once. An Event has a plain lock: a finalizer that sets it on the same thread would deadlock."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float, /) -> None:
        self._lock.acquire(timeout=timeout)

    def set(self) -> None:
        """Release the thread, now or later. Idempotent."""
        with suppress(RuntimeError):  # the lock is free already
            self._lock.release()


class ThreadDriver(Driver):
    """Waits on the calling thread. `clock` must run at the rate of `parking`'s clock."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = draw,
        parking: Callable[[], Waiter] = ParkedThread,
    ) -> None:
        super().__init__(engine, clock, chance)
        self._parking = parking
        self._waits: set[Waiter] = set()
        self._draining = False
        reset_in_child(self._forget)

    def begin(self, call: Call) -> CallerDriven:
        """Begin `call`. The holder makes its attempts, and waits for each with `wait_to_send`."""
        return CallerDriven(self._stepper, call)

    def wait_to_send(self, call: CallerDriven) -> Send | None:
        """Wait until an attempt may leave; None if no attempt follows: the command of the call says why.

        An exception, such as KeyboardInterrupt, closes the call.
        """
        command = call.command
        if isinstance(command, Send):  # it may leave at once, the usual case
            return command
        try:
            while isinstance(command := call.command, Wait | WaitFor):
                if self._draining or not self.wait(command):
                    call.close()
                    call.command = DRAINED
                    return None
                call.answer(None)
        except BaseException:
            call.close()
            raise
        return command if isinstance(command, Send) else None

    def wait(self, command: Wait | WaitFor) -> bool:
        """Execute a wait; return False if the driver was drained before its end."""
        parking, seconds = self._parking(), command.until - self.clock()
        if isinstance(command, WaitFor):
            if not self._stepper.arm(command.ticket, parking.set):
                return True
            seconds = min(seconds, check_ticket(command.ticket))
        self._waits.add(parking)
        try:
            if not self._draining:  # it may just have begun to drain
                parking.wait(min(max(0.0, seconds), FOREVER))
        finally:
            self._waits.discard(parking)
        return not self._draining

    def drain(self) -> None:
        """Let attempts in flight finish; end every waiting call, now or later, as CANCELLED. Thread-safe."""
        self._draining = True
        for wait in tuple(self._waits):
            wait.set()

    def _forget(self) -> None:
        self._waits.clear()
