"""The driver for threads: carries out what flows command by blocking the thread that calls.

Nothing here can stop a sender in the middle: it ends its attempt itself when `Send.timeout` has passed, and says so.
An exception that gets out of one, KeyboardInterrupt above all, closes the flow and goes on to the caller.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeAlias

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Ask, DeliverStream, Race, Send, Wait, WaitFor
from stormbreak.drivers.delivery import DRAINED, CallerDriven, Delivery, check_ticket
from stormbreak.drivers.flow_stepper import shared_stepper
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.types import Call, CallResult, Outcome

Sender: TypeAlias = Callable[[Send], Outcome]
Asker: TypeAlias = Callable[[Ask], Outcome | None]

FOREVER = threading.TIMEOUT_MAX


class Waiter(Protocol):
    """Where one thread waits, as in a `threading.Event`."""

    def wait(self, timeout: float, /) -> object:
        """Wait until it is set, or for so many seconds."""

    def set(self) -> None:
        """Let the waiting thread go, now or later; from any thread."""


class ParkedThread:
    """Parks one thread, once. An Event holds a plain lock meanwhile: a finalizer that sets it would wait for itself."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float, /) -> None:
        """Wait until it is set, or for so many seconds."""
        self._lock.acquire(timeout=timeout)

    def set(self) -> None:
        """Let the thread go, now or later; a second time does nothing."""
        with suppress(RuntimeError):  # it is free
            self._lock.release()


class ThreadDriver:
    """Runs calls on the thread that asks. Drivers of one engine step it by turns, whatever they run on.

    `clock` must run with what `parking` waits by. `chance` gives numbers in [0, 1).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        parking: Callable[[], Waiter] = ParkedThread,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self._stepper = shared_stepper(engine, clock=clock, chance=chance)
        self._parking = parking
        self._waits: set[Waiter] = set()
        self._draining = False
        reset_in_child(self._forget)

    def run(self, call: Call, sender: Sender, asker: Asker | None = None) -> CallResult:
        """Carry `call` to its end; `sender` makes one attempt; `asker` finds answers elsewhere, in the time it is given.

        An exception of either closes the flow: what it held is free, and counts neither as success nor as failure.
        """
        ended = self.open(call, sender, asker)
        assert isinstance(ended, CallResult), "a call that delivers is opened"
        return ended

    def open(self, call: Call, sender: Sender, asker: Asker | None = None) -> CallResult | Delivery:
        """Carry `call` to its end, or if it delivers to the first output of an attempt.

        Then `sender` answers with an outcome that is `committed`, and the rest, the deadline included, is up to
        whoever holds the delivery.
        """
        stepper = self._stepper
        flow, command = stepper.start(call)
        try:
            while not isinstance(command, CallResult):
                outcome: Outcome | None = None
                if isinstance(command, Send):
                    outcome = self._send(call, sender, command)
                elif isinstance(command, Ask):
                    outcome = None if asker is None else asker(command)
                elif isinstance(command, DeliverStream):
                    return Delivery(stepper, flow, command)
                elif self._draining or not self._wait(command):
                    return DRAINED
                command = stepper.step(flow, outcome)
        finally:
            if not isinstance(command, CallResult | DeliverStream):
                stepper.close(flow)
        return command

    def begin(self, call: Call) -> CallerDriven:
        """Begin `call`, whose attempts the holder makes; `wait_to_send` waits for each."""
        return CallerDriven(self._stepper, call)

    def wait_to_send(self, call: CallerDriven) -> Send | None:
        """Wait until an attempt may leave; None where there is none to come, and the command of the call says why.

        An exception, KeyboardInterrupt above all, closes the call.
        """
        command = call.command
        if isinstance(command, Send):  # at once, as nearly always
            return command
        try:
            while isinstance(command := call.command, Wait | WaitFor):
                if self._draining or not self._wait(command):
                    call.close()
                    call.command = DRAINED
                    return None
                call.answer(None)
        except BaseException:
            call.close()
            raise
        return command if isinstance(command, Send) else None

    def drain(self) -> None:
        """Let what was sent be answered; end every call that waits, now or later, as CANCELLED. From any thread."""
        self._draining = True
        for wait in tuple(self._waits):
            wait.set()

    def _forget(self) -> None:
        self._waits.clear()

    def _send(self, call: Call, sender: Sender, command: Send) -> Outcome:
        context_listener = self.engine.context_listener
        if context_listener is None:
            return sender(command)
        with context_listener.around(call.number, command):
            return sender(command)

    def _wait(self, command: Wait | WaitFor | Race) -> bool:
        """Carry out a wait; return False if the driver is drained meanwhile."""
        assert not isinstance(command, Race), "who cannot stop an attempt does not race"
        parking, seconds = self._parking(), command.until - self.clock()
        if isinstance(command, WaitFor):
            if not self._stepper.arm(command.ticket, parking.set):
                return True
            seconds = min(seconds, check_ticket(command.ticket))
        self._waits.add(parking)
        try:
            if not self._draining:  # since a moment ago
                parking.wait(min(max(0.0, seconds), FOREVER))
        finally:
            self._waits.discard(parking)
        return not self._draining
