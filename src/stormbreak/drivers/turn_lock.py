"""Turns of many threads at a shared object.

A turn holds the lock for microseconds and never across I/O. Its results, such as tickets to wake and events to deliver,
are handled after the lock is released. It is correct without the GIL.

The garbage collector may drop a caller in the middle of a turn on the same thread; then the things that the caller held
must be settled. A plain lock would deadlock, and a reentrant lock alone would let this code change the state in the
middle of the turn. So it is postponed until the turn is over.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock

Held = TypeVar("Held")
Left = TypeVar("Left")
R = TypeVar("R")


class TurnLock(ABC, Generic[Held, Left]):
    """One turn at a time, from any thread: a `Held` may be postponed, and a `Left` is the result of a turn."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._begin()
        reset_in_child(self._reset_after_fork)

    def _begin(self) -> None:
        self._busy = False  # a turn is running; used only under the lock
        self._postponed: deque[Held] = deque()

    def _reset_after_fork(self) -> None:
        """Reset in a child process: no thread there holds the lock or will end an open turn."""
        self._begin()

    def _turn(self, do: Callable[[], R]) -> R:
        """Run a step under the lock; then handle its results.

        Within another turn of the same thread, it is part of that turn.
        """
        left: Left | None = None
        try:
            with self._lock:
                within, self._busy = self._busy, True
                try:
                    return do()
                finally:
                    try:
                        left = None if within else self._collect()
                    finally:
                        self._busy = within
        finally:
            if left is not None or self._postponed:
                self._act(left)

    def _postpone(self, held: Held) -> None:
        """Postpone `held` to the end of the present turn, or to the next `_catch_up`."""
        self._postponed.append(held)

    def _catch_up(self, take: Callable[[], Left | None] | None = None) -> None:
        """Settle postponed things, unless a turn of this thread is running: that turn does it.

        `take` returns the results to handle here; by default all of them.
        """
        take = take or self._collect
        while True:
            with self._lock:
                if self._busy or not self._postponed:
                    return
                self._busy = True
                try:
                    self._settle(self._postponed[0])
                    self._postponed.popleft()
                except Exception:
                    self._postponed.popleft()
                    raise  # after an interrupt, which is not an Exception, the next turn settles it again
                finally:
                    try:
                        left = take()
                    finally:
                        self._busy = False
            if left is not None:
                self._deliver_later(left)

    def _act(self, left: Left | None) -> None:
        if left is not None:
            self._deliver_later(left)
        if self._postponed:
            self._catch_up()

    @abstractmethod
    def _settle(self, held: Held) -> None:
        """Settle a postponed thing, under the lock. It is called again if an interrupt ended it."""

    @abstractmethod
    def _collect(self) -> Left | None:
        """Take the results of the turn, under the lock; None if there are none."""

    @abstractmethod
    def _deliver_later(self, left: Left) -> None:
        """Handle the results of a turn; the lock is released."""
