"""Timeouts of attempts on an event loop, at a fraction of what a timer for each would cost.

Nearly every timeout is cancelled, by an answer, long before its time; setting and cancelling a timer of the loop
then costs more than anything else on the way of a call. So long timeouts are rounded up to the next `GRAIN`, and
all that end with the same one share a timer, as aiohttp does it. Short ones are exact.

After a stall (ADR 78) a loop comes late to its timers, and to its sockets: uvloop to the timers first, and asyncio ends a
task whose answer it has just read. So a timer that comes late waits again, once, until the loop has read what came in time.

The owner of `Timeouts` can end all that runs within them early.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import NamedTuple
from weakref import ref

from stormbreak.core.stalls import BEAT, STALL, Stalls
from stormbreak.drivers.locks import LiveSet
from stormbreak.types import Outcome

EXACT = 60.0  # seconds; a shorter timeout has a timer of its own
GRAIN = 0.25  # seconds
LATE = 0.01  # seconds; what comes later than that comes after a stall

_CANCELLED = asyncio.CancelledError


class AnsweredError(asyncio.CancelledError):
    """Inside of a driver: a `cancel` met an attempt that had its whole answer and waited for no more than the end of its body.

    The call is settled by the `outcome`; a timeout then gives that, and any other cancel goes on.
    """

    def __init__(self, outcome: Outcome, cancel: asyncio.CancelledError) -> None:
        super().__init__()
        self.outcome = outcome
        self.cancel = cancel


class Pulse(NamedTuple):
    """Tells an engine that its event loops run, while attempts are in flight."""

    stalls: Stalls
    clock: Callable[[], float]


def call_at(
    loop: asyncio.AbstractEventLoop, at: float, do: Callable[[], object], grace: float = STALL
) -> asyncio.TimerHandle:
    """Call `do` at `at`; if that comes late, wait once for as long again, but at most `grace` seconds.

    While it waits again, cancelling has no effect: `do` must see that it is not wanted any more.
    """
    return loop.call_at(at, _ring, loop, at, do, grace)


def _ring(
    loop: asyncio.AbstractEventLoop, at: float, do: Callable[[], object], grace: float
) -> None:
    late = loop.time() - at
    if late > LATE:
        loop.call_later(min(late, grace), do)
    else:
        do()


class _Here(threading.local):
    last: "_OnLoop | None" = None  # of the loop that ran last in this thread


class Timeouts:
    """The timeouts of one driver, on any loop. With a `pulse`, loops beat while anything runs within one."""

    __slots__ = ("_all", "_pulse", "local")

    def __init__(self, pulse: Pulse | None = None) -> None:
        self._pulse = pulse
        self.local = _Here()
        self.forget()

    def forget(self) -> None:
        """Leave them all to the parent process."""
        self._all: LiveSet[_OnLoop] = LiveSet()

    def here(self) -> "_OnLoop":
        """Those of the running loop."""
        loop, here = asyncio.get_running_loop(), self.local.last
        if here is None or here.loop() is not loop:
            here = self.local.last = _OnLoop(loop, self._pulse)
            self._all.add(here)
        return here

    def end(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """End what runs within one of them on `loop`, or on any loop. From any thread."""
        for each in self._all:
            on_loop(each.loop(), loop, each.end)


_APART = Timeouts()


class Timeout:
    """Raises TimeoutError after `seconds`: `asyncio.timeout` without what is not needed here.

    With None it does so when it is ended, and else never. A cancel from outside goes before it.
    """

    __slots__ = ("__weakref__", "_among", "_cancelling", "_fired", "_handle", "_on", "_seconds", "_task", "_with", "alone")  # fmt: skip
    grace = STALL  # seconds that a short one waits again at most

    def __init__(self, seconds: float | None, among: Timeouts = _APART) -> None:
        self._seconds = seconds
        self._among = among
        self._fired = False
        self.alone = False  # afterwards: it fired, and there was no cancel from outside
        self._handle: asyncio.TimerHandle | None = None  # its own timer

    def __enter__(self) -> None:
        here, seconds = self._among.local.last, self._seconds
        loop = asyncio.get_running_loop()
        if here is None or here.loop() is not loop:
            here = self._among.here()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("an attempt with a timeout needs a task to run in")
        self._task = ref(task)  # weak: a loop that was closed silently takes its tasks along
        self._cancelling = task.cancelling()
        self._on = here  # which lives as long
        if seconds is not None and EXACT <= seconds < inf:
            grain = int((loop.time() + seconds) / GRAIN) + 1
            due = here.due.get(grain)
            self._with = here.new_grain(loop, grain) if due is None else due
            self._with.add(self)
        else:
            self._with = here.exact
            here.exact.add(self)
            if seconds is not None:
                self._handle = call_at(loop, loop.time() + seconds, self.fire, self.grace)
        if not here.beats:
            here.beat(loop)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._with.discard(self)
        if self._handle is not None:
            self._handle.cancel()
        if self._fired:
            self.alone = self._uncancel()
            if self.alone and kind is _CANCELLED:
                raise TimeoutError

    def fire(self) -> None:
        """End what runs within; a second time does nothing.

        What ends itself ends as soon as it waits: a cancel that meets no wait in here would meet one outside.
        """
        task = self._task()
        if task is None or self._fired or self not in self._with:
            return
        loop = task.get_loop()
        if task is asyncio.current_task(loop):
            loop.call_soon(self.fire)
            return
        self._fired = True
        task.cancel()

    def _uncancel(self) -> bool:
        """Take back the cancel that fired it; whether it was the only one."""
        task = self._task()
        return task is None or task.uncancel() <= self._cancelling


class _OnLoop:
    """Those of one loop: several that share a timer, and others apart."""

    __slots__ = ("__weakref__", "_pulse", "_runs", "beats", "due", "exact", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, pulse: Pulse | None) -> None:
        self.loop = ref(loop)  # weak: a thread keeps those of its last loop
        self._pulse = pulse
        self._runs = partial(_runs, ref(self))  # weak: the engine keeps it
        self.beats = pulse is None  # then there is nothing to begin
        self.exact: set[Timeout] = set()
        self.due: dict[int, set[Timeout]] = {}  # by the number of the grain they end with

    def new_grain(self, loop: asyncio.AbstractEventLoop, grain: int) -> set[Timeout]:
        """Fire at the end of this grain the timeouts that are then still in the returned set."""
        due = self.due[grain] = set()
        call_at(loop, grain * GRAIN, partial(self._fire, grain))
        return due

    def beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat until nothing runs within a timeout any more."""
        assert self._pulse is not None, "without a pulse nothing has to begin to beat"
        stalls, clock = self._pulse
        self.beats = bool(self.exact) or any(self.due.values())
        if self.beats:
            stalls.beat(clock(), self._runs)
            loop.call_later(BEAT, self.beat, loop)
        else:
            stalls.rest()

    def end(self) -> None:
        for timeout in [each for some in (self.exact, *self.due.values()) for each in some]:
            timeout.fire()

    def _fire(self, grain: int) -> None:
        for timeout in self.due.pop(grain):
            timeout.fire()


def _runs(known: "ref[_OnLoop]") -> bool:
    here = known()
    loop = None if here is None else here.loop()
    return loop is not None and loop.is_running()


def on_loop(
    home: asyncio.AbstractEventLoop | None,
    wanted: asyncio.AbstractEventLoop | None,
    do: Callable[[], None],
) -> None:
    """Do something on its `home` loop, if that is the wanted one; on the running one at once."""
    if home is None or wanted not in (None, home):
        return
    if asyncio._get_running_loop() is home:  # noqa: SLF001 - the public form raises
        do()
        return
    with suppress(RuntimeError):  # a loop that is closed
        home.call_soon_threadsafe(do)
