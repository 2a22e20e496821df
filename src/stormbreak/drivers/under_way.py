"""What is under way in one driver, on whichever event loops: who waits, who sends, who reads a stream; and how it is ended.

*Drained*: what was sent is answered, and who waits is sent away. *Closed*, on one loop or on all: who waits is sent
away, attempts are cancelled, streams end for their readers, and whoever comes later is refused. What a call held is free
then, and counts neither as success nor as failure.
"""

import asyncio
from functools import partial

from stormbreak.drivers.delivery import LoopDelivery
from stormbreak.drivers.locks import LiveSet
from stormbreak.drivers.timeouts import Timeouts, on_loop
from stormbreak.drivers.waiting import CLOSED, DRAINED, STREAM_CUT
from stormbreak.types import CallResult


class StreamCutError(Exception):
    """Inside of a driver: an attempt was cancelled because the client was closed. `ended` tells how its call ended."""

    def __init__(self, attempt: int) -> None:
        super().__init__()
        self.ended = STREAM_CUT._replace(attempts=attempt)


class RejectedWhileClosingError(Exception):
    """Inside of a driver: nobody may wait any more."""


class UnderWay:
    """Keeps track of it. Everything but what is said otherwise may be called from any thread."""

    __slots__ = ("__weakref__", "_closed", "_closed_on", "_drained", "_streams", "_waits", "ending", "timeouts")  # fmt: skip

    def __init__(self) -> None:
        self.timeouts = Timeouts()  # of attempts; all of them have one
        self._waits: set[asyncio.Future[None]] = set()
        self._streams: LiveSet[LoopDelivery] = LiveSet()
        self._drained = False
        self._closed = False
        self._closed_on: LiveSet[asyncio.AbstractEventLoop] = LiveSet()
        self.ending = False  # drained, or closed somewhere: else there is nothing to look at

    def closed_here(self) -> bool:
        """Whether it is closed on the running loop."""
        return self._closed or asyncio.get_running_loop() in self._closed_on

    def may_wait(self) -> None:
        """See whether one may wait on the running loop.

        Raises:
            SentAwayError: nobody may.
        """
        if self.ending and (self._drained or self.closed_here()):
            raise RejectedWhileClosingError

    def sent_away(self, attempts: int) -> CallResult:
        """How the call of someone ends who may not wait, or not begin, on the running loop, after so many attempts."""
        return (CLOSED if self.closed_here() else DRAINED)._replace(attempts=attempts)

    async def wait(self, waking: "asyncio.Future[None]") -> None:
        """Wait for what will be woken by whoever has it, or because nobody may wait any longer."""
        self._waits.add(waking)
        try:
            self.may_wait()  # that may have changed since a moment ago
            await waking
        finally:
            self._waits.discard(waking)

    def reads(self, delivery: LoopDelivery) -> None:
        """A stream has begun, on the running loop."""
        self._streams.add(delivery)
        if self.ending and self.closed_here():  # a moment ago, when it was not found
            delivery.call_off()

    def drain(self) -> None:
        """Send away who waits, now or later."""
        self.ending = self._drained = True
        self._wake(None)

    def close(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """End all there is on `loop`, or on every loop, now or later. A second time does nothing."""
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
            on_loop(delivery.loop, loop, delivery.call_off)

    def forget(self) -> None:
        """Leave all of it to the parent process."""
        self.timeouts.forget()
        self._waits.clear()
        self._streams = LiveSet()

    def _wake(self, loop: asyncio.AbstractEventLoop | None) -> None:
        for waking in tuple(self._waits):
            on_loop(waking.get_loop(), loop, partial(wake, waking))


def wake(waking: "asyncio.Future[None]") -> None:
    """Wake who waits; a second time does nothing. On its own loop."""
    if not waking.done():
        waking.set_result(None)
