"""The memory that bodies may take together while they are read, on one event loop.

A body may grow to 64 MiB, and a few KiB of gzip are enough for that: many at once would not fit. Beyond its first `FREE`
bytes a body takes from a common budget. Where nothing is left, reading waits until other bodies have ended, and TCP slows
the server down meanwhile: no answer fails for want of memory, except by its own timeout. One body at a time may go beyond
the budget, so that there is always one that ends. In all that is the budget, one body, and `FREE` for each attempt.

Large bodies take turns, too: one of them goes on in each turn of the loop. What unpacks and reads them is work, and many that
are ready at once would hold up every other call on the loop.
"""

import asyncio
from collections import deque
from contextlib import suppress
from itertools import islice
from weakref import WeakKeyDictionary

FREE = 256 * 1024  # bytes; hardly any answer is larger
BUDGET = 256 * 2**20  # bytes


class BodyMemory:
    """What is left for all bodies of one loop. Those that wait are served one by one, in the order of their coming."""

    def __init__(self) -> None:
        self.left = BUDGET
        self._due = False  # the next is served in the next turn of the loop
        self.beyond: Held | None = None  # the one that may go beyond the budget
        self.waiting: deque[tuple[Held, int, asyncio.Future[None]]] = deque()

    def grants(self, held: "Held", size: int) -> bool:
        """Give a body `size` more bytes, if that can be."""
        if size > self.left and self.beyond is not held:
            if self.beyond is not None:
                return False
            self.beyond = held
        self.left -= size
        held.size += size
        return True

    def wake(self) -> None:
        """Serve the next that waits, as far as what is left goes, in the next turn of the loop."""
        if self.waiting and not self._due:
            self._due = True
            with suppress(RuntimeError):  # that loop is closed
                self.waiting[0][2].get_loop().call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        self._due = False
        while self.waiting and self.waiting[0][2].done():  # cancelled
            self.waiting.popleft()
        ahead = (each for each in self.waiting if each[0] is self.beyond)
        for waiting in (*islice(self.waiting, 1), *ahead):
            held, size, future = waiting
            if self.grants(held, size):
                self.waiting.remove(waiting)
                if not future.done():
                    future.set_result(None)
                self.wake()
                return


class Held:
    """What one body takes of the memory of the running loop; `release` gives it back."""

    __slots__ = ("_memory", "size")

    def __init__(self) -> None:
        self.size = 0
        self._memory: BodyMemory | None = None

    async def grow_to(self, size: int) -> None:
        """Wait until the body may have `size` bytes in all."""
        missing = size - FREE - self.size
        if missing <= 0:
            return
        memory = self._memory = self._memory or _of_running_loop()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        memory.waiting.append((self, missing, future))
        memory.wake()
        # Where this is cancelled, `release` sees to what was granted, and to those behind.
        await future

    def release(self) -> None:
        """Give everything back. A second time does nothing."""
        memory, self._memory = self._memory, None
        if memory is None:
            return
        memory.left += self.size
        self.size = 0
        if memory.beyond is self:
            memory.beyond = None
        memory.wake()


_MEMORIES: WeakKeyDictionary[asyncio.AbstractEventLoop, BodyMemory] = WeakKeyDictionary()


def _of_running_loop() -> BodyMemory:
    loop = asyncio.get_running_loop()
    memory = _MEMORIES.get(loop)
    if memory is None:
        memory = _MEMORIES[loop] = BodyMemory()
    return memory
