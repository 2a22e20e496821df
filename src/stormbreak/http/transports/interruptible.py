"""Blocking work of a transport that is not ours, ended at its deadline by shutting the socket that its thread waits for.

Law 6: a thread that blocks in such a transport is released at its deadline. Only its socket can wake it, and no public
hook of httpcore leads from a waiting request to the socket. So the frames of the thread are searched: the innermost
`self` with httpcore's public `get_extra_info` is the stream that it waits for.
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

_PAUSE = 0.02  # seconds between two looks at blocking work
_LINGER = 5.0  # seconds that the thread which looks stays without any


def interruptible(
    work: Callable[[], T], until: float = inf, *, undo: Callable[[T], None] | None = None
) -> T:
    """Do blocking `work` on this thread; at `until`, or when what runs here is ended, its socket is shut.

    `undo` gets a result that comes in spite of that.

    Raises:
        CancelledError: what runs here was ended.
        TimeoutError: it was not over by `until`, on the monotonic clock.
    """
    strand = running_strand()
    ends = inf if strand is None else strand.until
    blocking = _Blocking(work, min(ends, until))
    if strand is not None:
        strand.on_interrupt = blocking.give_up
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
"""Bodies that are open, kept alive beside their readers. The garbage collector would close them wherever it runs, such as
in the lock of the library's pool, which they need for it, and which is not reentrant."""


def do_soon(work: Callable[[], object]) -> None:
    """Do this on the thread that looks at blocking work, which stays while a body is kept.

    For finalizers: they may run on a thread that holds the lock of the library's pool.
    """
    _WATCH.postponed.append(work)


def _reason(
    blocking: "_Blocking[Any]", strand: Strand[Any] | None, until: float
) -> TimeoutError | asyncio.CancelledError:
    """Why it was interrupted."""
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
    """One unit of blocking work on a thread. The lock is its own: no fork and no finalizer needs it."""

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
        """Interrupt it now, and for as long as it goes on. From any thread."""
        self.is_given_up = True
        self.until = -inf
        self.interrupt()

    def interrupt(self) -> None:
        """Shut the socket that the thread waits for, if it is found."""
        with self._lock:  # while it is held, the thread cannot start other work
            if self._thread is None:
                return
            self.is_interrupted = True
            found = self._socket()
            if isinstance(found, socket.socket):
                with suppress(OSError):
                    # an SSLSocket's own drops its TLS
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
        return None  # the thread has left the work


class _Watch:
    """Interrupts blocking work whose time is over, again and again: a transport of the user may retry."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._forget()
        reset_in_child(self._forget)

    def _forget(self) -> None:
        self._work: set[_Blocking[Any]] = set()
        self._runs = False  # a thread looks
        self.postponed: deque[Callable[[], object]] = deque()
        self._of_parent = KEPT.copy()  # not closed here, where their locks may be held for ever
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
            if late > LATE:  # a stall: what came in it is read first
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
