"""End the blocking work of a foreign transport at its deadline, by shutting the socket for which its thread waits.

Law 6: a thread that blocks in such a transport is released at its deadline. Only its socket can wake it, and httpcore
has no public way from a waiting request to the socket. So the frames of the thread are searched: the innermost `self`
with httpcore's public `get_extra_info` is the stream for which it waits.
"""

import asyncio
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from math import inf
from typing import Any, Generic, TypeVar

from stormbreak.core.stalls import STALL
from stormbreak.drivers.blocking import Strand, running_strand
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.drivers.timeouts import LATE

T = TypeVar("T")

_PAUSE = 0.02  # seconds between two checks of blocking work
_LINGER = 5.0  # seconds after which the watching thread ends without work


def interruptible(
    work: Callable[[], T], until: float = inf, *, undo: Callable[[T], None] | None = None
) -> T:
    """Do blocking `work` on this thread; shut its socket at `until`, or when the code that runs here is cancelled.

    `undo` gets a result that comes nevertheless.

    Raises:
        CancelledError: the code that runs here was cancelled.
        TimeoutError: the work did not end by `until`, on the monotonic clock.
    """
    strand = running_strand()
    ends = inf if strand is None else strand.until
    blocking = _Blocking(work, min(ends, until))
    if strand is not None:
        # set before the check; `Strand.interrupt` uses the opposite order
        strand.on_interrupt = blocking.give_up
        if strand.is_interrupted:
            strand.on_interrupt = None
            raise asyncio.CancelledError
    _WATCH.add(blocking)
    try:
        result = blocking.run()
    except Exception:
        if not blocking.is_interrupted:
            raise
    else:
        if not blocking.is_interrupted:
            return result
        if undo is not None:
            undo(result)
    finally:
        _WATCH.discard(blocking)
        if strand is not None:
            strand.on_interrupt = None
    raise _reason(blocking, strand, until)


KEPT: set[Generator[bytes]] = set()
"""Open bodies, kept alive in addition to their readers. Otherwise the garbage collector could close them anywhere, even
within the lock of the library's pool, which closing needs, and which is not reentrant."""


def do_soon(work: Callable[[], object]) -> None:
    """Do `work` on the thread that watches blocking work, which runs as long as a body is kept.

    For finalizers: they may run on a thread that holds the lock of the library's pool.
    """
    _WATCH.postponed.append(work)


def _reason(
    blocking: "_Blocking[Any]", strand: Strand[Any] | None, until: float
) -> TimeoutError | asyncio.CancelledError:
    """Return the reason of the interrupt."""
    if blocking.is_given_up:
        return asyncio.CancelledError()
    if strand is None or until < strand.until:
        return TimeoutError()
    if strand.at_until is None:
        return asyncio.CancelledError()
    strand.until = inf
    strand.at_until()
    return TimeoutError()


class _Blocking(Generic[T]):
    """One unit of blocking work on a thread. It has a plain lock: no fork and no finalizer needs it."""

    def __init__(self, work: Callable[[], T], until: float) -> None:
        self._work = work
        self._lock = new_lock()
        self._thread: int | None = None
        self.until = until
        self.is_interrupted = self.is_given_up = False

    def run(self) -> T:
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self._work()
        finally:
            with self._lock:
                self._thread = None

    def give_up(self) -> None:
        """Interrupt it now, and again while it continues. From any thread."""
        self.is_given_up = True
        self.until = -inf
        self.interrupt()

    def interrupt(self) -> None:
        """Shut the socket for which the thread waits, if it is found."""
        with self._lock:  # prevents the thread from starting other work
            if self._thread is None:
                return
            self.is_interrupted = True
            found = self._socket()
            if isinstance(found, socket.socket):
                with suppress(OSError):
                    # the method of SSLSocket drops its TLS state
                    socket.socket.shutdown(found, socket.SHUT_RDWR)

    def _socket(self) -> socket.socket | None:
        frame = sys._current_frames().get(self._thread or 0)  # noqa: SLF001 - documented
        handshaking = found = None
        while frame is not None:
            one: Any = frame.f_locals.get("self")
            if one is self:
                return found
            if isinstance(one, socket.socket):  # during a TLS handshake
                handshaking = handshaking or one
            elif found is None and hasattr(type(one), "get_extra_info"):
                found = handshaking or one.get_extra_info("socket")
            frame = frame.f_back
        return None  # the thread has ended the work


class _Watch:
    """Interrupts blocking work whose time is over, repeatedly, since a user's transport may retry."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._forget()
        reset_in_child(self._forget)

    def _forget(self) -> None:
        self._work: set[_Blocking[Any]] = set()
        self._runs = False  # the watching thread runs
        self.postponed: deque[Callable[[], object]] = deque()
        self._of_parent = KEPT.copy()  # not closed here, where their locks may never become free
        KEPT.clear()

    def add(self, work: _Blocking[Any]) -> None:
        with self._lock:
            self._work.add(work)
            starts, self._runs = not self._runs, True
        if starts:
            threading.Thread(target=self._look, name="stormbreak-watch", daemon=True).start()

    def discard(self, work: _Blocking[Any]) -> None:
        self._work.discard(work)

    def _look(self) -> None:
        unused = 0.0
        while True:
            before = time.monotonic()
            time.sleep(_PAUSE)
            late = time.monotonic() - before - _PAUSE
            if late > LATE:  # a stall: first read the data that came during it
                time.sleep(min(late, STALL))
            while self.postponed:
                with suppress(Exception):
                    self.postponed.popleft()()
            now = time.monotonic()
            for work in tuple(self._work):
                if now >= work.until:
                    work.interrupt()
            unused = 0.0 if self._work or KEPT else unused + _PAUSE
            if unused > _LINGER:
                with self._lock:
                    if not self._work:
                        self._runs = False
                        return


_WATCH = _Watch()
