"""Calls that their holder continues: all attempts (`CallerDriven`), or a stream after its first output (`Delivery`).

The driver does the waiting; the holder reports the outcome of an attempt or of the whole stream. A report never waits,
so it also works where nothing can be awaited, as at the end of a `with` block. If the holder drops a call, it is
closed, on whatever thread the garbage collector runs.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import ref

from stormbreak.core.flow import Command, DeliverStream, Flow
from stormbreak.core.queue_order import Ticket
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.drivers.timeouts import call_at
from stormbreak.errors import ENDED_BY_CLOSING
from stormbreak.types import (
    CANCELLED,
    CANCELLED_AFTER_SEND,
    Call,
    CallResult,
    Outcome,
    Rejection,
    Verdict,
)

# ---------------------------------------------------------------- shared by all waiting calls

LOOK_AGAIN = 5.0
"""A waiting call checks the queue by itself after one to two times this many seconds, since the timekeeper of the queue
may be on a busy or closed loop."""

DRAINED = CallResult(
    CANCELLED._replace(rejection=Rejection("drain", "the client is drained")), stopped="drained"
)

CLOSED = CallResult(
    CANCELLED._replace(rejection=Rejection(ENDED_BY_CLOSING, "the client is closed")),
    stopped=ENDED_BY_CLOSING,
)
"""Nothing was sent, or nothing is in flight any more."""

STREAM_CUT = CallResult(
    CANCELLED_AFTER_SEND._replace(detail="the client was closed"),
    stopped=ENDED_BY_CLOSING,
    maybe_processed=1,
)
"""An attempt was in flight, or a stream was being read."""


def check_ticket(ticket: Ticket) -> float:
    """Return the seconds until the owner of `ticket` checks by itself, with jitter."""
    return LOOK_AGAIN * (1 + ticket.call.number % 64 / 64)


# ---------------------------------------------------------------- attempts made by the holder


class CallerDriven:
    """One call in progress: `command` is the next command, and the `CallResult` at the end."""

    __slots__ = ("_stepper", "command", "flow")

    def __init__(self, stepper: Stepper, call: Call) -> None:
        self.flow: Flow | None = None
        self._stepper = stepper
        # Stored at once: an interrupt in between would leave the flow, and its slot, without an owner.
        self.flow, self.command = stepper.start(call)
        if isinstance(self.command, CallResult):
            self.flow = None

    def answer(self, outcome: Outcome | None) -> Command | CallResult:
        """Report the outcome of the command, and return the next one. After the call is closed, nothing changes."""
        if self.flow is not None:
            _, self.command = self._stepper.step(self.flow, outcome)
            if isinstance(self.command, CallResult):
                self.flow = None
        return self.command

    def forget(self) -> None:
        """Drop the result: an exception whose traceback refers to this call would form a cycle."""
        if isinstance(self.command, CallResult):
            outcome = self.command.outcome._replace(value=None, error=None)
            self.command = self.command._replace(outcome=outcome)

    def close(self) -> None:
        """Close the call: its permits are freed, and count neither as success nor as failure."""
        flow, self.flow = self.flow, None
        if flow is not None:
            try:
                self._stepper.close(flow)
            except BaseException:  # an interrupt: the next step closes the flow
                self._stepper.abandon(flow)
                raise

    def __del__(self) -> None:
        flow = getattr(self, "flow", None)  # an interrupt may come before it is set
        if flow is not None:
            self._stepper.drop(flow)


# ---------------------------------------------------------------- delivery


class Delivery:
    """The rest of a call after its first output. Its owner enforces the deadline, `command.until`.

    `cut` is called if the delivery ends before its reader is done, and must end the reading. An answer that is
    `complete` by then is a success.
    """

    def __init__(self, stepper: Stepper, flow: Flow, command: DeliverStream) -> None:
        self.command = command
        self.ended: CallResult | None = None
        self.cut: Callable[[], None] | None = None
        self.complete: Callable[[], Outcome | None] | None = None
        self._stepper = stepper
        self._flow: Flow | None = flow

    @property
    def over(self) -> bool:
        """Whether the delivery was ended or closed."""
        return self._flow is None

    def end(self, outcome: Outcome) -> CallResult | None:
        """End with the outcome of the stream; return the result of the call, or None if it was closed.

        Idempotent.
        """
        flow = self._take()
        if flow is not None:
            try:
                _, ended = self._stepper.step(flow, outcome)
            except BaseException:
                self._stepper.abandon(flow)
                raise
            assert isinstance(ended, CallResult), "nothing follows a delivery"
            self.ended = ended
        return self.ended

    def close(self) -> None:
        """Close it: its permits are freed, and count neither as success nor as failure."""
        flow = self._take()
        if flow is not None:
            try:
                self._stepper.close(flow)
            except BaseException:
                self._stepper.abandon(flow)
                raise

    def drop(self, outcome: Outcome | None = None) -> None:
        """Close it in a finalizer, on any thread; with an outcome, end it with that."""
        flow, self._flow = self._flow, None
        if flow is not None:
            self._stepper.drop(flow, outcome)

    def time_is_over(self, seconds: float) -> None:
        """End it at the call's deadline."""
        if self.over or self._ends_whole():
            return
        error = TimeoutError(f"no end within {seconds:g} s of its first output")
        self.end(Outcome(Verdict.TIMEOUT, error=error, maybe_processed=True))
        if self.cut is not None:
            self.cut()

    def cut_off(self) -> None:
        """End it because the client is closed: its permits are freed, and its reader gets an error."""
        if self.over or self._ends_whole():
            return
        flow = self._take()
        if flow is not None:
            done = self.command
            self.ended = STREAM_CUT._replace(
                attempts=done.attempts,
                waited=done.waited,
                maybe_processed=done.maybe_processed + 1,
            )
            self._stepper.close(flow)
            if self.cut is not None:
                self.cut()

    def __del__(self) -> None:
        # Python prints an interrupt that comes here, and does not raise it. The flow is closed at the latest with the
        # next step.
        if hasattr(self, "_flow"):  # an interrupt may have come before it was set
            self.drop()

    def _ends_whole(self) -> bool:
        """End it as a success if the answer is complete: only the end of its body is missing."""
        outcome = None if self.complete is None else self.complete()
        if outcome is None:
            return False
        self.end(outcome)
        if self.cut is not None:
            self.cut()
        return True

    def _take(self) -> Flow | None:
        flow, self._flow = self._flow, None
        return flow


class LoopDelivery(Delivery):
    """A delivery on the running loop, where a timer ends it at the deadline of the call."""

    def __init__(self, stepper: Stepper, flow: Flow, command: DeliverStream) -> None:
        super().__init__(stepper, flow, command)
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        if command.until is not None:
            left = command.until - stepper.clock()
            # The timer must not keep the delivery alive.
            over = partial(_time_is_over, ref(self), left)
            self._timer = call_at(self.loop, self.loop.time() + left, over)

    def drop(self, outcome: Outcome | None = None) -> None:
        open_, timer = not self.over, self._timer
        super().drop(outcome)
        if open_:
            with suppress(RuntimeError):  # the loop may be closed
                self.loop.call_soon_threadsafe(self._stepper.deliver_events)
                if timer is not None:
                    self.loop.call_soon_threadsafe(timer.cancel)

    def _take(self) -> Flow | None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return super()._take()


def _time_is_over(held: "ref[LoopDelivery]", seconds: float) -> None:
    delivery = held()
    if delivery is not None:
        delivery.time_is_over(seconds)
