"""Timeouts of attempts on an event loop, at a fraction of the cost of a timer for each.

An answer cancels nearly every timeout long before its time. Setting and cancelling a timer of the loop would then cost
more than anything else in a call. So long timeouts are rounded up to the next `GRAIN`, and all timeouts that end with
the same grain share a timer, as in aiohttp. Short timeouts are exact.

After a stall (ADR 78) a loop is late for its timers and its sockets. uvloop runs the timers first, and asyncio ends a
task whose answer it has just read. So a late timer waits again, once, until the loop has read the data that came in
time.

The owner of `Timeouts` can end all code that runs within them early.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, NamedTuple
from weakref import ref

import msgspec

from stormbreak.core.stalls import BEAT, STALL, Stalls
from stormbreak.drivers.locks import LiveSet
from stormbreak.types import Outcome

EXACT = 60.0  # seconds; a shorter timeout has a separate timer
GRAIN = 0.25  # seconds
LATE = 0.01  # seconds; a timer that is later than this comes after a stall

_CANCELLED = asyncio.CancelledError


class AnsweredError(asyncio.CancelledError):
    """Internal to drivers: a `cancel` met an attempt with a complete answer that waited only for the end of its body.

    The `outcome` settles the call. A timeout then returns it; any other cancel continues.
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
    """Call `do` at `at`; if the timer is late, wait once more for as long as it was late, at most `grace` seconds.

    During the second wait, cancelling has no effect: `do` must check whether it is still wanted.
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
    last: "_OnLoop | None" = None  # of the last loop that ran in this thread


class Timeouts:
    """The timeouts of one driver, on any loop. With a `pulse`, a loop beats while code runs within a timeout."""

    __slots__ = ("_all", "_pulse", "local")

    def __init__(self, pulse: Pulse | None = None) -> None:
        self._pulse = pulse
        self.local = _Here()
        self.forget()

    def forget(self) -> None:
        """Forget all timeouts in a child process: they belong to the parent."""
        self._all: LiveSet[_OnLoop] = LiveSet()

    def here(self) -> "_OnLoop":
        """The timeouts of the running loop."""
        loop, here = asyncio.get_running_loop(), self.local.last
        if here is None or here.loop() is not loop:
            here = self.local.last = _OnLoop(loop, self._pulse)
            self._all.add(here)
        return here

    def end(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """End all code that runs within a timeout on `loop`, or on any loop. From any thread."""
        for each in self._all:
            on_loop(each.loop(), loop, each.end)


_APART = Timeouts()


class Timeout(msgspec.Struct, eq=False, weakref=True):  # its constructor is not written in Python
    """Raises TimeoutError after `seconds`: a reduced `asyncio.timeout`.

    With None it does so only when `Timeouts.end` ends it. A cancel from outside has precedence.
    """

    seconds: float | None
    among: Timeouts = _APART
    alone: bool = False  # afterwards: it fired without a cancel from outside
    _fired: bool = False
    _handle: asyncio.TimerHandle | None = None  # the separate timer of a short timeout
    # Set on entry.
    _task: Any = None  # weak: a loop that is dropped takes its tasks along
    _cancelling: int = 0
    _on: Any = None  # lives as long as the timeout
    _with: Any = None  # the set of timeouts that fire together

    grace = STALL  # maximum seconds that a short timeout waits again
    __repr__ = object.__repr__
    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def __enter__(self) -> None:
        here, seconds = self.among.local.last, self.seconds
        loop = asyncio.get_running_loop()
        if here is None or here.loop() is not loop:
            here = self.among.here()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("an attempt with a timeout needs a task to run in")
        self._task = ref(task)
        self._cancelling = task.cancelling()
        self._on = here
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
        """End the code that runs within. Idempotent.

        If the code ends itself, it ends at its next wait: a cancel that meets no wait in here would hit one outside.
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
        """Take back our cancel; return whether it was the only one."""
        task = self._task()
        return task is None or task.uncancel() <= self._cancelling


class _OnLoop:
    """The timeouts of one loop: groups that share a timer, and exact ones."""

    __slots__ = ("__weakref__", "_pulse", "_runs", "beats", "due", "exact", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, pulse: Pulse | None) -> None:
        self.loop = ref(loop)  # weak: a thread keeps this object for its last loop
        self._pulse = pulse
        self._runs = partial(_runs, ref(self))  # weak: the engine keeps it
        self.beats = pulse is None  # without a pulse there is nothing to begin
        self.exact: set[Timeout] = set()
        self.due: dict[int, set[Timeout]] = {}  # by the number of the grain with which they end

    def new_grain(self, loop: asyncio.AbstractEventLoop, grain: int) -> set[Timeout]:
        """Make a set; timeouts that are still in it at the end of this grain fire."""
        due = self.due[grain] = set()
        call_at(loop, grain * GRAIN, partial(self._fire, grain))
        return due

    def beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat until nothing runs within a timeout any more."""
        assert self._pulse is not None, "only a pulse beats"
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
    """Run a function on its `home` loop if that is the wanted one; at once if that loop runs here."""
    if home is None or wanted not in (None, home):
        return
    if asyncio._get_running_loop() is home:  # noqa: SLF001 - the public form raises
        do()
        return
    with suppress(RuntimeError):  # the loop may be closed
        home.call_soon_threadsafe(do)
