"""Turns of many threads at a shared object.

A turn takes the lock for microseconds and never across I/O; what it leaves behind, such as tickets to wake and events to
deliver, is handled after the lock is released. Correct without the GIL.

The garbage collector may drop a caller, and so come with what that caller held, in the middle of a turn on the very
same thread. A plain lock would then stand still for ever, and a reentrant one alone would let it change what the
turn is in the middle of. So what was held is postponed, and done when the turn is over.
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
    """One turn at a time, from any thread: `Held` is what may be postponed, `Left` what a turn leaves behind."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._begin()
        reset_in_child(self._reset_after_fork)

    def _begin(self) -> None:
        self._busy = False  # a turn is under way; touched only under the lock
        self._postponed: deque[Held] = deque()

    def _reset_after_fork(self) -> None:
        """Reset in a child process: there no thread has the lock or will end an open turn."""
        self._begin()

    def _turn(self, do: Callable[[], R]) -> R:
        """Run a step under the lock; then handle what it left behind.

        Within another turn of the same thread it is a part of that one.
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
        """Leave `held` to be settled at the end of the present turn, or by the next `_catch_up`."""
        self._postponed.append(held)

    def _catch_up(self, take: Callable[[], Left | None] | None = None) -> None:
        """Settle what was postponed, unless a turn of this thread is under way: that will.

        `take` takes away what is dealt with here; by default that is all.
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
                    raise  # after an interrupt, the next turn settles it again
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
        """Settle what was postponed; under the lock. It is called again if an interrupt ended it."""

    @abstractmethod
    def _collect(self) -> Left | None:
        """Take what the turn left behind, None if that is nothing; under the lock."""

    @abstractmethod
    def _deliver_later(self, left: Left) -> None:
        """Handle what a turn left behind; the lock is released."""
