"""One HTTP request and its response: the small interface that hides the HTTP library.

A wire makes exactly one attempt: it does not retry, does not follow redirects and never raises for what a
server or a network did. It answers with an `HttpResponse`, or with the `Outcome` of an attempt that got none.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from stormbreak.llm.models import HttpResponse
from stormbreak.types import Outcome

# ---------------------------------------------------------------- repeated headers
# Some, such as `Set-Cookie`, come several times in one response: all of them are passed on.

Sent: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""Headers of an answer by their lower-case names; of those that come several times all values, in their order."""


def repeated_headers(came: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Of the headers, by their lower-case names, those that came several times, with all their values."""
    values: dict[str, tuple[str, ...]] = {}
    for name, value in came:
        key = name.lower()
        values[key] = (*values.get(key, ()), value)
    return {name: several for name, several in values.items() if len(several) > 1}


def with_repeats(
    headers: Mapping[str, str], repeated: Mapping[str, tuple[str, ...]]
) -> dict[str, str | tuple[str, ...]]:
    """The headers, each with all the values that it came with."""
    return {**headers, **{name: repeated[name] for name in repeated if name in headers}}


def split_repeats(headers: Sent) -> list[tuple[str, str]]:
    """A line for each value."""
    return [
        (name, each)
        for name, value in headers.items()
        for each in ((value,) if isinstance(value, str) else value)
    ]


# ---------------------------------------------------------------- memory for bodies
# A body may grow to 64 MiB, and a few KiB of gzip are enough for that: many at once would not fit.
# Beyond its first `FREE` bytes a body takes from a common budget. Where nothing is left, reading
# waits until other bodies have ended, and TCP slows the server down meanwhile: no answer fails for
# want of memory, except by its own timeout. One body at a time may go beyond the budget, so that
# there is always one that ends. In all that is the budget, one body, and `FREE` for each attempt.
#
# Large bodies take turns, too: one of them goes on in each turn of the loop. What unpacks and reads
# them is work, and many that are ready at once would hold up every other call on the loop.

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


# ---------------------------------------------------------------- connection interface

BODY_LIMIT = 64 * 2**20  # bytes of one decoded body
ERROR_LIMIT = 2**20  # bytes of that of an error; the rest says nothing more, and is not read
CONNECT_TIMEOUT = 10.0  # seconds
POOL_LIMIT = 4096  # connections; beyond it even an unlimited policy waits for the pool
EXPLAINED = 5.0  # seconds of silence in the body of an error: its head has said what it is


class HttpRequest(NamedTuple):
    """A POST, unless `method` says otherwise; its answer may have `most` bytes, by default `BODY_LIMIT`.

    Somebody else ends the attempt `within` so many seconds, if need be. Its repr shows neither key nor prompt.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterable[bytes]
    idle_timeout: float | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    method: str = "POST"
    most: float | None = None
    within: float | None = None

    def __repr__(self) -> str:
        size = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "a stream"
        return f"HttpRequest({self.url.partition('?')[0]!r}, {size})"


ExchangeResult: TypeAlias = HttpResponse | Outcome


MALFORMED = "body cannot be decompressed"
"""Detail of an outcome: what came of the body may not be what was sent, even if it reads well."""


class ResponseStream(Protocol):
    """An answer whose head has come, and whose body comes as it is read. It owns its connection.

    One that is dropped closes its connection, on whatever thread that happens.
    """

    head: HttpResponse

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes: none at the end of the body, an outcome where it ended badly.

        Cancelling closes the connection.
        """
        ...

    def hurry(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        ...

    def close(self) -> None:
        """Close the connection, unless the body was read to its end; whoever reads is woken."""
        ...


async def collected(incoming: ResponseStream) -> ExchangeResult:
    """Read an answer to its end; the connection is closed if that did not come.

    An error is what its head says, however its body ends: cut, silent, endless or garbled, it stays final, or keeps its
    time to come back.
    """
    parts: list[bytes] = []
    succeeded, size, held = incoming.head.succeeded, 0, Held()
    if not succeeded:
        incoming.hurry(EXPLAINED)
    try:
        while (succeeded or size < ERROR_LIMIT) and (got := await incoming.read()):
            if isinstance(got, bytes):
                parts.append(got)
                size += len(got)
                if size > FREE:
                    await held.grow_to(size)
            elif succeeded:
                return got
            else:
                break
        body = parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        incoming.close()
        held.release()
    return incoming.head._replace(body=body if succeeded else body[:ERROR_LIMIT])


class Wire(Protocol):
    """Something that can carry requests."""

    async def exchange(self, request: HttpRequest) -> ExchangeResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        ...

    async def open(self, request: HttpRequest) -> ResponseStream | Outcome:
        """Send once, and wait for no more than the head of the answer. Cancelling closes the connection."""
        ...

    async def close(self) -> None:
        """Close the connections of the running loop."""
        ...
