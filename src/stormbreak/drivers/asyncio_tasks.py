"""Tasks of the asyncio driver: the attempts of one call that run at the same time, and all active calls."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

from stormbreak.core.flow import Command, Flow, Race, Send
from stormbreak.drivers.delivery import CLOSED, DRAINED, STREAM_CUT, LoopDelivery
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.drivers.locks import LiveSet
from stormbreak.drivers.timeouts import Pulse, Timeouts, call_at, on_loop
from stormbreak.types import Call, CallResult, Outcome

_cancelled_tasks: set["asyncio.Task[Outcome]"] = set()
"""Cancelled tasks that have not ended yet: a loop keeps only weak references."""


class HedgeTasks:
    """Steps the flow of one call that may race, and executes its races; `send` makes one attempt."""

    def __init__(self, stepper: Stepper, send: Callable[[Send], Awaitable[Outcome]]) -> None:
        self._stepper = stepper
        self._send = send
        self._tasks: dict[Send, asyncio.Task[Outcome]] = {}
        self._ended: list[Send] = []  # in the order of their ends
        self._wake: asyncio.Future[None] | None = None

    def start(self, call: Call) -> tuple[Flow, Command | CallResult]:
        """Start the flow of `call`, and allow it to race."""
        return self._stepper.start(call._replace(races=True))

    def step(self, flow: Flow, outcome: Outcome | None) -> tuple[Flow, Command | CallResult]:
        """Resume `flow`; cancel attempts that its next command does not name."""
        _, command = self._stepper.step(flow, outcome)
        self._keep(command.sends if isinstance(command, Race) else ())
        return flow, command

    def give_up(self, flow: Flow, error: BaseException) -> None:
        """Close `flow`, and cancel all attempts."""
        self._stepper.give_up(flow, error)
        self._keep(())

    async def until_first(self, race: Race) -> Outcome | None:
        """Run all of `race` until the first ends; return its outcome, or None if the race's time is over before."""
        loop = asyncio.get_running_loop()
        for send in race.sends:
            if send not in self._tasks:
                self._tasks[send] = loop.create_task(self._attempt(send))
        if not self._ended:
            await self._until(race.until)
        if not self._ended:
            return None
        race.first = self._ended.pop(0)
        return self._tasks.pop(race.first).result()

    async def _until(self, until: float) -> None:
        loop, timer = asyncio.get_running_loop(), None
        self._wake = loop.create_future()
        if until != inf:
            at = loop.time() + until - self._stepper.clock()
            timer = call_at(loop, at, partial(wake, self._wake))
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    async def _attempt(self, send: Send) -> Outcome:
        try:
            return await self._send(send)
        finally:
            self._ended.append(send)
            self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _keep(self, sends: tuple[Send, ...]) -> None:
        for send in [send for send in self._tasks if send not in sends]:
            task = self._tasks.pop(send)
            _cancelled_tasks.add(task)
            task.add_done_callback(_close_result)
            task.cancel()
        self._ended = [send for send in self._ended if send in self._tasks]


def _close_result(task: "asyncio.Task[Outcome]") -> None:
    """Close the response of an attempt that was answered in the instant in which it was cancelled."""
    _cancelled_tasks.discard(task)
    if not task.cancelled() and task.exception() is None and task.result().committed:
        task.result().value.close()


# ---------------------------------------------------------------- active calls
# The waiting, sending and streaming calls of one driver, on any event loop. *Drained*: attempts in flight finish,
# queued calls are rejected. *Closed*, on one loop or on all: queued calls are rejected, attempts are cancelled, streams
# end for their readers, and later calls are rejected. Permits are freed, and count neither as success nor as failure.


class StreamCutError(Exception):
    """Internal to drivers: an attempt was cancelled because the client was closed. `ended` is the result of its call."""

    def __init__(self, attempt: int) -> None:
        super().__init__()
        self.ended = STREAM_CUT._replace(attempts=attempt)


class RejectedWhileClosingError(Exception):
    """Internal to drivers: no call may wait any more."""


class ActiveCalls:
    """Keeps track of the active calls. Methods may be called from any thread unless they say otherwise."""

    __slots__ = ("__weakref__", "_closed", "_closed_on", "_drained", "_streams", "_waits", "ending", "timeouts")  # fmt: skip

    def __init__(self, pulse: Pulse | None = None) -> None:
        self.timeouts = Timeouts(pulse)  # of all attempts
        self._waits: set[asyncio.Future[None]] = set()
        self._streams: LiveSet[LoopDelivery] = LiveSet()
        self._drained = False
        self._closed = False
        self._closed_on: LiveSet[asyncio.AbstractEventLoop] = LiveSet()
        self.ending = False  # drained, or closed on some loop

    def closed_here(self) -> bool:
        return self._closed or asyncio.get_running_loop() in self._closed_on

    def may_wait(self) -> None:
        """Check whether a call may wait on the running loop.

        Raises:
            RejectedWhileClosingError: it may not wait.
        """
        if self.ending and (self._drained or self.closed_here()):
            raise RejectedWhileClosingError

    def ended_by_closing(self, attempts: int) -> CallResult:
        """Return the result of a call that may not wait or begin on the running loop, after `attempts`."""
        return (CLOSED if self.closed_here() else DRAINED)._replace(attempts=attempts)

    async def wait(self, waking: "asyncio.Future[None]") -> None:
        """Wait until `waking` is set, or until no call may wait any longer."""
        self._waits.add(waking)
        try:
            self.may_wait()  # this may just have changed
            await waking
        finally:
            self._waits.discard(waking)

    def reads(self, delivery: LoopDelivery) -> None:
        """Record that a stream has begun on the running loop."""
        self._streams.add(delivery)
        if self.ending and self.closed_here():  # closed before the stream was registered
            delivery.cut_off()

    def drain(self) -> None:
        self.ending = self._drained = True
        self._wake(None)

    def close(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """End all calls on `loop`, or on every loop, now and later. Idempotent."""
        if loop is None:
            self._closed = True
        else:
            self._closed_on.add(loop)
        self.ending = True
        self._wake(loop)
        self.timeouts.end(loop)
        self.end_streams(loop)

    def end_streams(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """End the streams that are read on `loop`, or on any."""
        for delivery in self._streams:
            on_loop(delivery.loop, loop, delivery.cut_off)

    def forget(self) -> None:
        self.timeouts.forget()
        self._waits.clear()
        self._streams = LiveSet()

    def _wake(self, loop: asyncio.AbstractEventLoop | None) -> None:
        for waking in tuple(self._waits):
            on_loop(waking.get_loop(), loop, partial(wake, waking))


def wake(waking: "asyncio.Future[None]") -> None:
    """Wake waiting calls, on the loop. Idempotent."""
    if not waking.done():
        waking.set_result(None)
