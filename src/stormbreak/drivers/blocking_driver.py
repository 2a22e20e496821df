"""The driver for blocking clients: it runs calls on the calling thread, and the coroutines of their attempts, too.

Attempts may race: the thread waits for the sockets of all of them. Another thread may drain or close it.
"""

import random
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from math import inf
from typing import Any, TypeVar, cast

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Ask, DeliverStream, Flow, Race, Send, Wait, WaitFor
from stormbreak.drivers.asyncio_driver import Asker, Sender, in_context, timed_out
from stormbreak.drivers.asyncio_tasks import RejectedWhileClosingError, StreamCutError
from stormbreak.drivers.blocking import LateError, Strand, poll, run
from stormbreak.drivers.delivery import CLOSED, DRAINED, Delivery
from stormbreak.drivers.flow_stepper import Driver, Stepper
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.types import Call, CallResult, Outcome, Verdict

S = TypeVar("S")
T = TypeVar("T")

_LAST = (CallResult, DeliverStream)


class _Attempt:
    """One attempt under way."""

    __slots__ = ("_outcome", "_seconds", "strand")

    def __init__(self, strand: Strand[Outcome], seconds: float | None) -> None:
        self.strand = strand
        self._seconds = seconds
        self._outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None: it has not, or it raised."""
        return self._outcome or self.strand.result

    @property
    def has_succeeded(self) -> bool:
        outcome = self.outcome
        return outcome is not None and outcome.verdict is Verdict.OK

    def begin(self) -> None:
        self._go_on(self.strand.resume, None)

    def end_if_late(self, now: float) -> None:
        """End it at its timeout."""
        if now >= self.strand.until and not self.strand.over:
            self._go_on(self.strand.throw, CancelledError())

    def _go_on(self, go_on: Callable[[Any], None], value: object) -> None:
        try:
            go_on(value)
        except AnsweredError as answered:
            self._outcome = answered.outcome
        except CancelledError:
            self._outcome = timed_out(self._seconds)
        finally:
            del value  # an exception, whose traceback leads here


class BlockingDriver(Driver):
    """Runs calls on the calling thread."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, time.monotonic, random.random)
        self._threads = ThreadDriver(engine)
        self._attempts: set[Strand[Outcome]] = set()
        self._streams: LiveSet[BlockingDelivery] = LiveSet()
        self._closed = False
        reset_in_child(self._forget)

    def open(
        self, call: Call, sender: Sender, asker: Asker | None = None
    ) -> Coroutine[Any, Any, "CallResult | BlockingDelivery"]:
        """Run `call` to its end, or if it delivers, to the first output of an attempt.

        Then `sender` returns a `committed` outcome, and the owner of the delivery does the rest.
        """
        return self.run(call, sender, asker)

    async def run(self, call: Call, sender: Sender, asker: Asker | None = None) -> CallResult:
        """Run `call` to its end, as `AsyncioDriver.run` does. It never suspends: this thread blocks."""
        if self._closed:
            return self._rejected(0)
        context_listener = self.engine.context_listener
        if context_listener is not None:
            sender = in_context(sender, context_listener, call.number)
        if self.engine.races:
            call = call._replace(races=True)
        running = _RunningCall(self, sender, asker)
        flow, command = self._stepper.start(call)
        try:
            while not isinstance(command, _LAST):
                _, command = self._stepper.step(flow, running.execute(command))
                running.keep(command.sends if isinstance(command, Race) else ())
            if isinstance(command, DeliverStream):
                return cast("CallResult", self._delivery(flow, command))  # to `open`
        except BaseException as error:
            self._give_up(flow, error)
            running.keep(())
            if isinstance(error, StreamCutError):
                return error.ended
            if isinstance(error, RejectedWhileClosingError):
                return self._rejected(running.sent)
            raise
        return command

    def _rejected(self, attempts: int) -> CallResult:
        return (CLOSED if self._closed else DRAINED)._replace(attempts=attempts)

    def _delivery(self, flow: Flow, command: DeliverStream) -> "BlockingDelivery":
        delivery = BlockingDelivery(self._stepper, flow, command)
        self._streams.add(delivery)
        if self._closed:  # a moment ago, when it was not found
            delivery.cut_off()
        return delivery

    def drain(self) -> None:
        """Let attempts in flight finish; end every waiting call, now or later, as CANCELLED."""
        self._threads.drain()

    def close(self) -> None:
        """End every call, now or later: waiting, in flight, or streaming. From any thread."""
        self._closed = True
        self._threads.drain()
        for attempt in tuple(self._attempts):
            attempt.interrupt()
        for delivery in self._streams:
            delivery.cut_off()
        self._stepper.rest()

    def poll(self, attempts: "dict[Send, _Attempt]", until: float) -> None:
        """Go on with the attempts that can, until one is over, or until `until`.

        Raises:
            StreamCutError: the driver was closed.
        """
        strands = [attempt.strand for attempt in attempts.values()]
        self._attempts.update(strands)
        earliest = min([until, *[strand.until for strand in strands]])
        try:
            while not [strand for strand in strands if strand.over]:
                self._check_open(attempts)
                now = poll(strands, earliest)
                if now >= earliest:
                    for attempt in attempts.values():
                        attempt.end_if_late(now)
                    if now >= until:
                        return
        finally:
            self._attempts.difference_update(strands)
        if self._closed and not any(attempt.has_succeeded for attempt in attempts.values()):
            self._check_open(attempts)

    def begin(self, attempt: _Attempt) -> None:
        """Begin an attempt; `close` finds it."""
        self._attempts.add(attempt.strand)
        try:
            attempt.begin()
        finally:
            self._attempts.discard(attempt.strand)

    def _check_open(self, attempts: "dict[Send, _Attempt]") -> None:
        if self._closed:
            raise StreamCutError(max(send.attempt for send in attempts))

    def wait(self, command: Wait | WaitFor) -> None:
        """Execute a wait.

        Raises:
            RejectedWhileClosingError: no call may wait any more.
        """
        if not self._threads.wait(command) or self._closed:
            raise RejectedWhileClosingError

    def _give_up(self, flow: Flow, error: BaseException) -> None:
        # the coroutine was dropped: the garbage collector came
        if isinstance(error, GeneratorExit):
            self._stepper.drop(flow)
        else:
            self._stepper.close(flow)

    def _forget(self) -> None:
        self._attempts.clear()
        self._streams = LiveSet()


class _RunningCall:
    """One call, and its attempts that are under way."""

    def __init__(self, driver: BlockingDriver, sender: Sender, asker: Asker | None) -> None:
        self._driver = driver
        self._sender = sender
        self._asker = asker
        self._running: dict[Send, _Attempt] = {}
        self.sent = 0  # the number of the last attempt

    def execute(self, command: Send | Race | Ask | Wait | WaitFor) -> Outcome | None:
        """Do what the flow asks for, and return what came of it."""
        if isinstance(command, Send):
            self._begin(command, None)
            self._driver.poll(self._running, inf)
            return self._running.pop(command).outcome
        if isinstance(command, Race):
            return self._first_of(command)
        if isinstance(command, Ask):
            return self._ask(command)
        self._driver.wait(command)
        return None

    def _ask(self, command: Ask) -> Outcome | None:
        if self._asker is None:
            return None
        until = inf if command.until is None else command.until
        try:
            return run(_awaited(self._asker, command), until)
        except LateError:
            return None

    def _first_of(self, race: Race) -> Outcome | None:
        """Run all of `race` until the first ends, with its outcome, or until its time, with None."""
        for send in race.sends:
            if send not in self._running:
                self._begin(send, copy_context())
        self._driver.poll(self._running, race.until)
        for send, attempt in self._running.items():
            if attempt.strand.over:
                race.first = send
                del self._running[send]
                return attempt.outcome
        return None

    def keep(self, sends: tuple[Send, ...]) -> None:
        """Cancel all attempts but these."""
        for send in [each for each in self._running if each not in sends]:
            attempt = self._running.pop(send)
            outcome = attempt.outcome
            if not attempt.strand.over:
                attempt.strand.close()
            elif outcome is not None and outcome.committed:  # just when it was given up
                outcome.value.close()

    def _begin(self, send: Send, context: Context | None) -> None:
        self.sent = send.attempt
        until = inf if send.timeout is None else self._driver.clock() + send.timeout
        strand = Strand(_awaited(self._sender, send), until, context)
        attempt = self._running[send] = _Attempt(strand, send.timeout)
        self._driver.begin(attempt)


async def _awaited(sender: Callable[[S], Awaitable[T]], command: S) -> T:
    return await sender(command)


class BlockingDelivery(Delivery):
    """A delivery that a thread reads: it ends at its deadline while it is read, or when it is read next."""

    def __init__(self, stepper: Stepper, flow: Flow, command: DeliverStream) -> None:
        super().__init__(stepper, flow, command)
        self._began = stepper.clock()

    def read(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run what reads the stream, on this thread."""
        until = self.command.until
        return run(coroutine, inf if until is None else until, at_until=self._end_late)

    def _end_late(self) -> None:
        assert self.command.until is not None
        self.time_is_over(self.command.until - self._began)
