"""Coroutines that run on the calling thread: it blocks while they wait for sockets.

So blocking code runs the same coroutines as an event loop, but without a loop and without another thread. They may wait
for sockets (`SocketWait`) and for other threads (`Signal`), but not for anything of asyncio. A coroutine that is alone
on its thread blocks where it waits. Racing coroutines suspend, and wait together in `poll`.
"""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from inspect import CORO_RUNNING, CORO_SUSPENDED, getcoroutinestate
from math import ceil, inf
from typing import Any, Generic, TypeVar

from stormbreak.core.stalls import STALL
from stormbreak.drivers.locks import new_lock
from stormbreak.drivers.timeouts import LATE, Timeout

T = TypeVar("T")

READ, WRITE = select.POLLIN, select.POLLOUT
_LONGEST = 86_400.0  # seconds of one `poll`, which takes a C int of milliseconds


class LateError(Exception):
    """The awaited operation did not end in time."""


class SocketWait:
    """Awaiting it returns the sockets that are ready for their events; none at `until`, or when interrupted."""

    __slots__ = ("sockets", "until")

    def __init__(self, *sockets: tuple[socket.socket, int], until: float = inf) -> None:
        self.sockets = sockets
        self.until = until  # on the monotonic clock

    def __await__(self) -> Generator["SocketWait", list[socket.socket], list[socket.socket]]:
        strand = _here.strand
        ready = None if strand is None else strand.block(self)
        return (yield self) if ready is None else ready

    def ready(self, numbers: Iterable[int]) -> list[socket.socket]:
        """Return its sockets among those with these numbers."""
        return [sock for sock, _ in self.sockets if sock.fileno() in numbers]


class Strand(Generic[T]):
    """One coroutine. The first `resume`, with None, starts it; it runs until it suspends or ends.

    Only racing coroutines have a separate `context`.
    """

    __slots__ = (
        "_context", "_coroutine", "_is_exact", "_loop", "at_until", "is_interrupted", "on_interrupt", "over", "result",
        "until", "waits_for",
    )  # fmt: skip

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        until: float = inf,
        context: Context | None = None,
    ) -> None:
        self._coroutine = coroutine
        self._context = context
        self._loop = asyncio._get_running_loop()  # noqa: SLF001 - the loop that it blocks; the public function raises
        self.until = until  # when its runner ends it, on the monotonic clock
        self._is_exact = time.monotonic() >= until  # a late start is not a stall of this thread
        self.over = self.is_interrupted = False
        self.result: T | None = None
        self.waits_for: SocketWait | None = None
        self.at_until: Callable[[], None] | None = (
            None  # ends what it waits for, instead of a cancel
        )
        self.on_interrupt: Callable[[], None] | None = None  # ends what blocks elsewhere

    def block(self, wait: SocketWait) -> list[socket.socket] | None:
        """Wait here and return the ready sockets; None: the coroutine must suspend, since it races or must end."""
        if self._context is not None:
            return None
        self.waits_for = wait  # set before the check; `interrupt` uses the opposite order
        try:
            numbers, now = _poll((wait,), -inf if self.is_interrupted else self.until)
        finally:
            self.waits_for = None
        return None if self.is_interrupted or now >= self.until else wait.ready(numbers)

    def try_extend(self, now: float) -> bool:
        """Extend `until` once, briefly, if the thread was stalled: data may have come meanwhile. Return whether."""
        late = now - self.until
        if late <= LATE or self._is_exact or self.is_interrupted:
            return False
        self._is_exact = True
        self.until = now + min(late, STALL)
        return True

    def resume(self, ready: list[socket.socket] | None, error: BaseException | None = None) -> None:
        """Continue until the coroutine waits again or ends; an `error` is raised where it waits."""
        go_on: Callable[[Any], Any] = self._coroutine.send
        value: object = ready
        if error is not None:
            go_on, value = self._coroutine.throw, error
        within, _here.strand = _here.strand, self
        self.waits_for = None  # from now on other code may use its sockets
        try:
            wanted = go_on(value) if self._context is None else self._context.run(go_on, value)
        except StopIteration as stop:
            self.over = True
            self.result = stop.value
            return
        except BaseException:
            self.over = True
            raise
        finally:
            _here.strand = within
            # the traceback refers to this frame: avoid a cycle that keeps the coroutine's objects alive
            del error, value
        if not isinstance(wanted, SocketWait):
            self.close()
            raise RuntimeError("code that blocks may not wait for an event loop")  # noqa: TRY004
        self.waits_for = wanted

    @property
    def runs_here(self) -> bool:
        """Whether the coroutine runs, without a loop inside it."""
        is_here = self._loop is asyncio._get_running_loop()  # noqa: SLF001
        return is_here and getcoroutinestate(self._coroutine) == CORO_RUNNING

    def interrupt(self) -> None:
        """Wake the waiting coroutine by shutting down its sockets. From any thread."""
        self.is_interrupted = True
        wait, end = self.waits_for, self.on_interrupt
        if end is not None:
            end()
        if wait is not None:
            for sock, _ in wait.sockets:
                with suppress(OSError):  # it may be closed
                    # the method of SSLSocket drops its TLS state
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def end(self, error: BaseException) -> None:
        """Abort the coroutine: raise `error` where it waits."""
        try:
            if getcoroutinestate(self._coroutine) == CORO_SUSPENDED:
                self.resume(None, error)
            self.close()
        finally:
            del error

    def close(self) -> None:
        self.over = True
        self._coroutine.close()


def poll(strands: Sequence[Strand[Any]], until: float) -> float:
    """Block until a coroutine can continue, or until `until`; resume all that can. Return the time before resuming."""
    waits = [wait for strand in strands if (wait := strand.waits_for) is not None]
    assert len(waits) == len(strands), "every strand waits"
    numbers, now = _poll(waits, until)
    for strand, wait in zip(strands, waits, strict=True):
        ready = wait.ready(numbers)
        if ready or now >= wait.until:
            strand.resume(ready)
    return now


def _poll(waits: Sequence[SocketWait], until: float) -> tuple[set[int], float]:
    """Block until a socket is ready, a wait ends, or `until`; return the numbers of ready sockets, and the time."""
    poller = select.poll()
    found: set[int] = set()
    for wait in waits:
        until = min(until, wait.until)
        for sock, events in wait.sockets:
            number = sock.fileno()
            if number < 0:  # closed by another thread
                found.add(number)
            else:
                poller.register(number, events)
    if not found:
        left = until - time.monotonic()
        found.update(dict(poller.poll(ceil(min(max(0.0, left), _LONGEST) * 1000))))
    return found, time.monotonic()


class _Here(threading.local):
    strand: Strand[Any] | None = None  # the running one, or the one that was interrupted


_here = _Here()


def running_strand() -> Strand[Any] | None:
    """Return the coroutine that runs on this thread, if it blocks."""
    strand = _here.strand
    return strand if strand is not None and strand.runs_here else None


def blocks_here() -> bool:
    """Whether this thread runs code under `run`, which may not wait for an event loop."""
    return running_strand() is not None


def run(
    coroutine: Coroutine[Any, Any, T],
    until: float = inf,
    *,
    at_until: Callable[[], None] | None = None,
) -> T:
    """Run `coroutine` to its end on this thread; return its result or raise. An interrupt is raised inside it.

    `at_until` is called at `until`, on the monotonic clock, and must end the wait. Without `at_until` the coroutine is
    cancelled.

    Raises:
        LateError: it was cancelled at `until`.
    """
    strand: Strand[T] | None = None
    try:
        strand = Strand(coroutine, until)
        strand.at_until = at_until
        strand.resume(None)
        while not strand.over:
            now = poll((strand,), strand.until)
            if now >= strand.until and not strand.try_extend(now):
                _end_late(strand)
    except BaseException as error:
        if strand is None:
            coroutine.close()
        else:
            strand.end(error)
        if type(error) is asyncio.CancelledError and time.monotonic() >= until:
            raise LateError from None  # it cancelled itself at `until`
        raise
    return strand.result  # type: ignore[return-value]  # it is over


def _end_late(strand: Strand[Any]) -> None:
    if strand.over:
        return
    if strand.at_until is not None:
        strand.until = inf
        strand.at_until()
        strand.resume([])
        return
    try:
        strand.resume(None, asyncio.CancelledError())
    except asyncio.CancelledError:
        raise LateError from None


class Signal:
    """Wakes a coroutine on a blocked thread, from any thread."""

    def __init__(self) -> None:
        self._lock = new_lock()  # prevents a write to another file that reuses the number
        self._here, self._there = socket.socketpair()
        self._there.setblocking(False)

    def set(self) -> None:
        """Wake the coroutine, now or later."""
        with self._lock, suppress(OSError):  # closed, or the buffer is full
            self._there.send(b"\0")

    async def wait(self, until: float = inf) -> bool:
        """Wait until the signal is set, and close it; False: it was not set by `until`."""
        try:
            return bool(await SocketWait((self._here, READ), until=until))
        finally:
            self.close()

    def close(self) -> None:
        with self._lock:
            self._here.close()
            self._there.close()


async def in_time(coroutine: Coroutine[Any, Any, T], until: float | None) -> T:
    """Await `coroutine` until `until` on the monotonic clock (None: no limit), on a loop or on a blocked thread.

    Raises:
        LateError: it was cancelled at `until`, or `until` had already passed.
    """
    if until is None:
        return await coroutine
    left = until - time.monotonic()
    if left <= 0:
        coroutine.close()
        raise LateError
    if blocks_here():
        return run(coroutine, until)
    bound = Timeout(left)
    try:
        with bound:
            return await coroutine
    except TimeoutError:
        if bound.alone:  # otherwise the error comes from the coroutine
            raise LateError from None
        raise


async def foreign(awaitable: Awaitable[T]) -> T:
    """Await the result of a user's function; on a blocked thread, run it on a separate loop on another thread."""
    if not blocks_here():
        return await awaitable
    job = _Job(awaitable)
    try:
        await job.done.wait()
    except BaseException:
        job.cancel()
        raise
    return job.result()


class _Job(Generic[T]):
    """A user's awaitable on a thread with a loop."""

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self.done = Signal()
        self._awaitable = awaitable
        self._result: T
        self._error: BaseException | None = None
        self._at: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None] | None = None
        threading.Thread(target=copy_context().run, args=(self._work,), daemon=True).start()

    def _work(self) -> None:
        async def main() -> None:
            self._at = asyncio.get_running_loop(), asyncio.current_task()
            self._result = await self._awaitable

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            self._error = error
        self.done.set()

    def cancel(self) -> None:
        if self._at is not None and self._at[1] is not None:
            with suppress(RuntimeError):  # it has ended
                self._at[0].call_soon_threadsafe(self._at[1].cancel)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result
