"""The asyncio driver: it executes the commands of flows on the caller's event loop.

One engine may serve several loops and threads: a grant on one loop wakes a ticket on another. A cancelled caller closes
its flow at once; the cancelled sender closes its connection.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias, cast

from stormbreak.core.engine import ContextListener, Engine
from stormbreak.core.flow import Ask, DeliverStream, Flow, Race, Send, Wait, WaitFor
from stormbreak.drivers.asyncio_tasks import (
    ActiveCalls,
    HedgeTasks,
    RejectedWhileClosingError,
    StreamCutError,
    wake,
)
from stormbreak.drivers.chance import draw
from stormbreak.drivers.delivery import CallerDriven, LoopDelivery, check_ticket
from stormbreak.drivers.flow_stepper import Driver, Stepper
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.timeouts import AnsweredError, Pulse, Timeout
from stormbreak.types import Call, CallResult, Outcome, Verdict

Sender: TypeAlias = Callable[[Send], Coroutine[Any, Any, Outcome]]
Asker: TypeAlias = Callable[[Ask], Coroutine[Any, Any, Outcome | None]]


def timed_out(seconds: float | None) -> Outcome:
    """Make the outcome of an attempt that was ended after `seconds`, without its frames, which hold the request."""
    error = TimeoutError(f"no answer in {seconds:g} s")
    return Outcome(Verdict.TIMEOUT, error=error, maybe_processed=True)


class AsyncioDriver(Driver):
    """Runs calls on the current event loop. `clock` must run at the rate of the loop's clock."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = draw,
    ) -> None:
        super().__init__(engine, clock, chance)
        self._active_calls = ActiveCalls(Pulse(engine.stalls, clock))
        reset_in_child(self._active_calls.forget)

    def open(
        self, call: Call, sender: Sender, asker: Asker | None = None
    ) -> Coroutine[Any, Any, CallResult | LoopDelivery]:
        """Run `call` to its end, or, if it delivers, to the first output of an attempt.

        In the latter case `sender` returns a `committed` outcome, and the owner of the delivery does the rest.
        """
        return self.run(call, sender, asker)

    async def run(self, call: Call, sender: Sender, asker: Asker | None = None) -> CallResult:
        """Run `call` to its end. `sender` makes one attempt and never raises unless cancelled; `asker` finds local answers.

        Cancelling closes the flow: its permits are freed, and count neither as success nor as failure.
        A call that delivers is opened, not run.
        """
        stepper: Stepper | HedgeTasks = self._stepper
        active, attempts = self._active_calls, 0
        if active.ending and active.closed_here():
            return active.ended_by_closing(attempts)
        context_listener = self.engine.context_listener
        if self.engine.races or context_listener is not None:
            stepper, sender = self._prepared(call, sender, context_listener)
        flow, command = stepper.start(call)
        try:
            while True:
                if isinstance(command, Send):
                    attempts = command.attempt
                    outcome: Outcome | None = await self._send(sender, command)
                elif isinstance(command, CallResult):
                    return command
                elif isinstance(command, DeliverStream):
                    delivery = LoopDelivery(self._stepper, flow, command)
                    active.reads(delivery)
                    return cast("CallResult", delivery)  # for `open`; saves a frame for other calls
                else:
                    outcome = await self._until_next(stepper, flow, command, asker)
                _, command = stepper.step(flow, outcome)
        except BaseException as error:
            _give_up(stepper, flow, error)
            if isinstance(error, StreamCutError):
                return error.ended
            if isinstance(error, RejectedWhileClosingError):
                return active.ended_by_closing(attempts)
            raise

    async def _until_next(
        self,
        stepper: Stepper | HedgeTasks,
        flow: Flow,
        command: Wait | WaitFor | Ask | Race,
        asker: Asker | None,
    ) -> Outcome | None:
        if isinstance(command, Ask):
            return await self._ask(asker, command)
        if isinstance(command, Race):
            assert isinstance(stepper, HedgeTasks), "only a call that may race does"
            try:
                return await stepper.until_first(command)
            except StreamCutError:  # raised by the first of them
                raise StreamCutError(command.sends[-1].attempt) from None
        await self._wait(flow, command)
        return None

    def _prepared(
        self, call: Call, sender: Sender, context_listener: ContextListener | None
    ) -> tuple[Stepper | HedgeTasks, Sender]:
        """Return the stepper and the sender of a call that may race."""
        if context_listener is not None:
            sender = in_context(sender, context_listener, call.number)
        if self.engine.races:
            return HedgeTasks(self._stepper, partial(self._send, sender)), sender
        return self._stepper, sender

    def begin(self, call: Call) -> CallerDriven:
        """Begin `call`. The holder makes its attempts, and waits for each with `wait_to_send`."""
        return CallerDriven(self._stepper, call)

    async def wait_to_send(self, call: CallerDriven) -> Send | None:
        """Wait until an attempt may leave; None if no attempt follows: the command of the call says why.

        The caller enforces the timeout of the attempt. A cancel closes the call.
        """
        command = call.command
        if isinstance(command, Send):  # it may leave at once, the usual case
            return command
        try:
            while isinstance(command := call.command, Wait | WaitFor):
                assert call.flow is not None
                await self._wait(call.flow, command)
                call.answer(None)
        except RejectedWhileClosingError:
            call.close()
            call.command = self._active_calls.ended_by_closing(0)
            return None
        except BaseException:
            call.close()
            raise
        return command if isinstance(command, Send) else None

    def drain(self) -> None:
        """Let attempts in flight finish; end every waiting call, now or later, as CANCELLED. Thread-safe."""
        self._active_calls.drain()

    def close(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """End every call on `loop`, or on every loop, now or later: waiting, in flight, or streaming.

        Thread-safe. On the running loop the calls have ended on return; on other loops soon after.
        """
        self._active_calls.close(loop)
        self._stepper.rest()

    def end_streams(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the streams that are read on `loop`; their permits are freed and not counted. Thread-safe."""
        self._active_calls.end_streams(loop)

    async def _send(self, sender: Sender, command: Send) -> Outcome:
        active = self._active_calls
        timeout = Timeout(command.timeout, active.timeouts)
        try:
            with timeout:
                if active.ending and active.closed_here():  # closed before this task was registered
                    raise StreamCutError(command.attempt)
                return await sender(command)
        except AnsweredError as answered:
            if timeout.alone:
                return answered.outcome
            raise
        except TimeoutError:  # do not keep it: its frames hold the request
            if active.ending and active.closed_here():
                raise StreamCutError(command.attempt) from None
            return timed_out(command.timeout)

    async def _ask(self, asker: Asker | None, command: Ask) -> Outcome | None:
        if asker is None:
            return None
        left = None if command.until is None else command.until - self.clock()
        active = self._active_calls
        try:
            with Timeout(left, active.timeouts):
                return await asker(command)
        except TimeoutError:
            if active.ending and active.closed_here():
                raise RejectedWhileClosingError from None
            return None

    async def _wait(self, flow: Flow, command: Wait | WaitFor) -> None:
        """Execute a wait; raise RejectedWhileClosingError if no call may wait any more."""
        active = self._active_calls
        active.may_wait()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        ticket = command.ticket if isinstance(command, WaitFor) else None
        waker = partial(_wake, self._stepper, flow, loop, future)
        if ticket is not None and not self._stepper.arm(ticket, waker):
            return
        timer, seconds = None, command.until - self.clock()
        if ticket is not None:
            seconds = min(seconds, check_ticket(ticket))
        if seconds != float("inf"):
            timer = loop.call_later(seconds, wake, future)
        try:
            await active.wait(future)
        finally:
            if timer is not None:
                timer.cancel()
        active.may_wait()


def _give_up(stepper: Stepper | HedgeTasks, flow: Flow, error: BaseException) -> None:
    if isinstance(error, AnsweredError):
        if not isinstance(stepper.step(flow, error.outcome)[1], CallResult):
            stepper.give_up(flow, error)
        raise error.cancel from None
    stepper.give_up(flow, error)


def in_context(sender: Sender, context_listener: ContextListener, number: int) -> Sender:
    """Wrap the sender in the context of the attempt."""

    async def send(command: Send) -> Outcome:
        with context_listener.around(number, command):
            return await sender(command)

    return send


def _wake(
    stepper: Stepper, flow: Flow, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]"
) -> None:
    """Wake one waiting flow, from any thread."""
    if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the public form raises
        wake(future)
        return
    try:
        loop.call_soon_threadsafe(wake, future)
    except RuntimeError:  # the loop is closed and its callers are gone: pass the grant on
        stepper.abandon(flow)
