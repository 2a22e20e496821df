"""The driver for blocking clients: it runs calls, and the coroutines of their attempts, on the calling thread.

Attempts may race: the thread waits for the sockets of all of them. Another thread may drain or close it.
"""

import socket
import time
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from math import inf
from typing import Any, TypeVar, cast

from stormbreak.core.engine import Engine
from stormbreak.core.flow import Ask, DeliverStream, Flow, Race, Send, Wait, WaitFor
from stormbreak.core.stalls import STALL
from stormbreak.drivers.asyncio_driver import Asker, Sender, in_context, timed_out
from stormbreak.drivers.asyncio_tasks import RejectedWhileClosingError, StreamCutError
from stormbreak.drivers.blocking import LateError, Strand, poll, run
from stormbreak.drivers.chance import draw
from stormbreak.drivers.delivery import CLOSED, DRAINED, Delivery
from stormbreak.drivers.flow_stepper import Driver, Stepper
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.types import Call, CallResult, Outcome, Verdict

T = TypeVar("T")

_LAST = (CallResult, DeliverStream)


class _Attempt(Strand[Outcome]):
    """One attempt in flight; after its end, `result` is its outcome, unless it raised."""

    __slots__ = ("_seconds",)

    def __init__(
        self,
        attempt: Coroutine[Any, Any, Outcome],
        seconds: float | None,
        until: float,
        context: Context | None,
    ) -> None:
        super().__init__(attempt, until, context)
        self._seconds = seconds

    @property
    def has_succeeded(self) -> bool:
        return self.result is not None and self.result.verdict is Verdict.OK

    def resume(self, ready: list[socket.socket] | None, error: BaseException | None = None) -> None:
        try:
            super().resume(ready, error)
        except AnsweredError as answered:
            self.result = answered.outcome
        except CancelledError:
            self.result = timed_out(self._seconds)
        finally:
            del error  # its traceback refers to this frame


class BlockingDriver(Driver):
    """Runs calls on the calling thread."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(engine, clock, draw)
        self._threads = ThreadDriver(engine)
        self.attempts: set[_Attempt] = set()  # `close` interrupts them
        self._streams: LiveSet[BlockingDelivery] = LiveSet()
        self._closed = False
        reset_in_child(self._forget)

    def open(
        self, call: Call, sender: Sender, asker: Asker | None = None
    ) -> Coroutine[Any, Any, "CallResult | BlockingDelivery"]:
        """Run `call` to its end, or, if it delivers, to the first output of an attempt.

        In the latter case `sender` returns a `committed` outcome, and the owner of the delivery does the rest.
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
                if running.attempts:
                    running.keep(command.sends if isinstance(command, Race) else ())
            if isinstance(command, DeliverStream):
                return cast("CallResult", self._delivery(flow, command))  # for `open`
        except BaseException as error:
            self._stepper.give_up(flow, error)
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
        if self._closed:  # closed before the delivery was registered
            delivery.cut_off()
        return delivery

    def drain(self) -> None:
        """Let attempts in flight finish; end every waiting call, now or later, as CANCELLED."""
        self._threads.drain()

    def close(self) -> None:
        """End every call, now or later: waiting, in flight, or streaming. From any thread."""
        self._closed = True
        self._threads.drain()
        for attempt in tuple(self.attempts):
            attempt.interrupt()
        for delivery in self._streams:
            delivery.cut_off()
        self._stepper.rest()

    def poll(self, attempts: "dict[Send, _Attempt]", until: float) -> None:
        """Run the attempts that can continue, until one ends, or until `until`.

        Raises:
            StreamCutError: the driver was closed.
        """
        running = tuple(attempts.values())
        self.attempts.update(running)
        try:
            while not [attempt for attempt in running if attempt.over]:
                self._check_open(attempts)
                earliest = min([until, *[attempt.until for attempt in running]])
                now = poll(running, earliest)
                if now >= earliest:
                    for attempt in running:
                        late = now >= attempt.until and not attempt.over
                        if late and not attempt.try_extend(now):
                            attempt.resume(None, CancelledError())
                    if now >= until:
                        return
        finally:
            self.attempts.difference_update(running)
        if self._closed and not any(attempt.has_succeeded for attempt in running):
            self._check_open(attempts)

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

    def _forget(self) -> None:
        self.attempts.clear()
        self._streams = LiveSet()


class _RunningCall:
    """One call, and its attempts in flight."""

    def __init__(self, driver: BlockingDriver, sender: Sender, asker: Asker | None) -> None:
        self._driver = driver
        self._sender = sender
        self._asker = asker
        self.attempts: dict[Send, _Attempt] = {}
        self.sent = 0  # the number of the last attempt

    def execute(self, command: Send | Race | Ask | Wait | WaitFor) -> Outcome | None:
        """Execute a command of the flow, and return its outcome."""
        if isinstance(command, Send):
            attempt = self._begin(command, None)
            if not attempt.has_succeeded:
                self._driver.poll(self.attempts, inf)
            del self.attempts[command]
            return attempt.result
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
            return run(self._asker(command), until)
        except LateError:
            return None

    def _first_of(self, race: Race) -> Outcome | None:
        """Run all of `race` until the first ends; return its outcome, or None if the race's time is over before."""
        for send in race.sends:
            if send not in self.attempts:
                self._begin(send, copy_context())
        self._driver.poll(self.attempts, race.until)
        for send, attempt in self.attempts.items():
            if attempt.over:
                race.first = send
                del self.attempts[send]
                return attempt.result
        return None

    def keep(self, sends: tuple[Send, ...]) -> None:
        """Cancel all attempts except these."""
        for send in [each for each in self.attempts if each not in sends]:
            attempt = self.attempts.pop(send)
            outcome = attempt.result
            if not attempt.over:
                attempt.close()
            elif outcome is not None and outcome.committed:  # answered just when it was cancelled
                outcome.value.close()

    def _begin(self, send: Send, context: Context | None) -> _Attempt:
        self.sent, driver = send.attempt, self._driver
        until = inf if send.timeout is None else driver.clock() + send.timeout
        attempt = _Attempt(self._sender(send), send.timeout, until, context)
        self.attempts[send] = attempt
        driver.attempts.add(attempt)
        try:
            attempt.resume(None)
        finally:
            driver.attempts.discard(attempt)
        return attempt


class BlockingDelivery(Delivery):
    """A delivery that a thread reads: its deadline ends it during a read, or at the next read."""

    def __init__(self, stepper: Stepper, flow: Flow, command: DeliverStream) -> None:
        super().__init__(stepper, flow, command)
        self._began = stepper.clock()
        self._last = inf  # no read may begin after this

    def read(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a read of the stream on this thread."""
        until, now = self.command.until, self._stepper.clock()
        if until is not None and now >= until:  # allow a moment for data that came during a stall
            self._last = min(self._last, now + STALL)
            if now >= self._last:
                self._end_late()
        return run(coroutine, inf if until is None else until, at_until=self._end_late)

    def _end_late(self) -> None:
        assert self.command.until is not None
        self.time_is_over(self.command.until - self._began)
