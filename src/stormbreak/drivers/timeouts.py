"""Timeouts of attempts on an event loop, at a fraction of what a timer for each would cost.

Nearly every timeout is cancelled, by an answer, long before its time; setting and cancelling a timer of the loop
then costs more than anything else on the way of a call. So long timeouts are rounded up to the next `GRAIN`, and
all that end with the same one share a timer, as aiohttp does it. Short ones are exact.
"""

import asyncio
import threading

EXACT = 60.0  # seconds; a shorter timeout has a timer of its own
GRAIN = 0.25  # seconds

_CANCELLED = asyncio.CancelledError


class Timeout:
    """Raises TimeoutError after so many seconds: `asyncio.timeout` without what is not needed here.

    With None it does so when it is fired, and else never. A cancel by somebody else goes before it.
    """

    __slots__ = ("__weakref__", "_cancelling", "_due", "_fired", "_handle", "_seconds", "_task")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._fired = False
        self._due: set[Timeout] | None = None  # those it shares a timer with
        self._handle: asyncio.TimerHandle | None = None  # its own timer

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an attempt with a timeout needs a task to run in")
        self._task = task
        self._cancelling = task.cancelling()
        seconds = self._seconds
        if seconds is None:
            return
        loop = task.get_loop()
        if seconds < EXACT:
            self._handle = loop.call_later(seconds, self.fire)
        else:
            self._due = _shared_on(loop).add(self, seconds)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._due is not None:
            self._due.discard(self)
        elif self._handle is not None:
            self._handle.cancel()
        if self._fired and self._task.uncancel() <= self._cancelling and kind is _CANCELLED:
            raise TimeoutError

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """That of the task in it."""
        return self._task.get_loop()

    def fire(self) -> None:
        """End what runs within."""
        self._fired = True
        self._task.cancel()


class _Shared:
    """The timers of one loop that several timeouts share."""

    __slots__ = ("_due", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[int, set[Timeout]] = {}  # by the number of the grain they end with

    def add(self, timeout: Timeout, seconds: float) -> set[Timeout]:
        """Fire `timeout` in so many seconds, or up to a grain later, if it is still in the set then."""
        grain = int((self.loop.time() + seconds) / GRAIN) + 1
        due = self._due.get(grain)
        if due is None:
            due = self._due[grain] = set()
            self.loop.call_at(grain * GRAIN, self._fire, grain)
        due.add(timeout)
        return due

    def _fire(self, grain: int) -> None:
        for timeout in self._due.pop(grain):
            timeout.fire()


class _Here(threading.local):
    shared: _Shared | None = None  # of the loop that ran last in this thread


_here = _Here()


def _shared_on(loop: asyncio.AbstractEventLoop) -> _Shared:
    shared = _here.shared
    if shared is None or shared.loop is not loop:
        shared = _here.shared = _Shared(loop)
    return shared
