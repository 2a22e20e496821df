"""The memory that bodies may take together while they are read, on one event loop.

A body may grow to 64 MiB, and a few KiB of gzip are enough for that: many at once would not fit. Beyond its first `FREE`
bytes a body takes from a common budget. Where nothing is left, reading waits until other bodies have ended, and TCP slows
the server down meanwhile: no answer fails for want of memory, except by its own timeout. One body at a time may go beyond
the budget, so that there is always one that ends. In all that is the budget, one body, and `FREE` for each attempt.
"""

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

FREE = 256 * 1024  # bytes; hardly any answer is larger
BUDGET = 256 * 2**20  # bytes


class BodyMemory:
    """What is left for all bodies of one loop. Those that wait are served in the order of their coming."""

    def __init__(self) -> None:
        self.left = BUDGET
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
        """Serve those that wait, as far as what is left goes."""
        while self.waiting:
            held, size, future = self.waiting[0]
            if not future.done():
                if not self.grants(held, size):
                    return
                future.set_result(None)
            self.waiting.popleft()


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
        is_first = not memory.waiting or memory.beyond is self
        if is_first and memory.grants(self, missing):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        memory.waiting.append((self, missing, future))
        await (
            future
        )  # where it is cancelled, `release` sees to what was granted, and to those behind

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
