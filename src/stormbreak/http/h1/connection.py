"""One HTTP request and its response: the interface that hides the HTTP library.

A connection makes exactly one attempt: it does not retry, does not follow redirects, and never raises for an error of a
server or a network. It returns an `HttpResponse`, or the `Outcome` of an attempt without a response.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Protocol, TypeAlias
from weakref import WeakKeyDictionary

from stormbreak.drivers.blocking import Signal, blocks_here
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict

# ---------------------------------------------------------------- repeated headers
# Some headers, such as `Set-Cookie`, come several times in one response: all of them are passed on.

RepeatableHeaders: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""Headers of a response by lower-case name; a repeated header has all its values, in order."""


def repeated_headers(lines: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the repeated headers by lower-case name, with all their values."""
    values: dict[str, tuple[str, ...]] = {}
    for name, value in lines:
        key = name.lower()
        values[key] = (*values.get(key, ()), value)
    return {name: several for name, several in values.items() if len(several) > 1}


def with_repeats(
    headers: Mapping[str, str], repeated: Mapping[str, tuple[str, ...]]
) -> dict[str, str | tuple[str, ...]]:
    """Return the headers, each with all its values."""
    kept: dict[str, str | tuple[str, ...]] = dict(headers)
    for name, values in repeated.items():
        if name in kept:
            kept[name] = values
    return kept


# ---------------------------------------------------------------- memory for bodies
# A body may grow to 64 MiB, and a few KiB of gzip are enough for that: many at once would not fit into memory. Beyond
# its first `FREE` bytes a body takes from a shared budget. If the budget is empty, reading waits until other bodies
# have ended, and TCP slows the server down meanwhile: no answer fails for lack of memory, except by its own timeout.
# One body at a time may exceed the budget, so that one can always end. The total is the budget, one body, and `FREE`
# for each attempt.
#
# Large bodies also take turns: one of them continues in each turn of the loop. Unpacking takes CPU time, and many ready
# bodies would delay every other call on the loop.

FREE = 256 * 1024  # bytes; few answers are larger
BUDGET = 256 * 2**20  # bytes


class BodyMemory:
    """A budget that bodies share. Waiting bodies are served one by one, first come first served."""

    def __init__(self) -> None:
        self.left = BUDGET
        self.beyond: Held | None = None  # the body that may exceed the budget

    def grants(self, held: "Held", size: int) -> bool:
        """Give a body `size` more bytes, if possible."""
        if size > self.left and self.beyond is not held:
            if self.beyond is not None:
                return False
            self.beyond = held
        self.left -= size
        held.size += size
        return True

    def give_back(self, held: "Held") -> None:
        """Take back all memory of a body."""
        self.left += held.size
        held.size = 0
        if self.beyond is held:
            self.beyond = None
        self.wake()

    async def take(self, held: "Held", size: int) -> None:
        """Wait until a body has `size` more bytes."""
        raise NotImplementedError

    def wake(self) -> None:
        """Serve the next waiting body, if the budget allows."""
        raise NotImplementedError


class LoopMemory(BodyMemory):
    """The budget of all bodies of one loop."""

    def __init__(self) -> None:
        super().__init__()
        self._due = False  # the next body is served in the next turn of the loop
        self.waiting: deque[tuple[Held, int, asyncio.Future[None]]] = deque()

    async def take(self, held: "Held", size: int) -> None:
        """Wait until a body has `size` more bytes. After a cancel, `give_back` returns granted bytes."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((held, size, future))
        self.wake()
        await future

    def wake(self) -> None:
        """Serve the next waiting body, if the budget allows, in the next turn of the loop."""
        if self.waiting and not self._due:
            self._due = True
            with suppress(RuntimeError):  # the loop may be closed
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


class ThreadsMemory(BodyMemory):
    """The budget of all bodies that threads of this process read."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = new_lock()
        self.waiting: deque[tuple[Held, int, Signal]] = deque()
        reset_in_child(self._forget)

    async def take(self, held: "Held", size: int) -> None:
        with self._lock:
            if not self.waiting and self.grants(held, size):
                return
            signal = Signal()
            entry = held, size, signal
            self.waiting.append(entry)
        self.wake()
        try:
            await signal.wait()
        finally:
            with self._lock, suppress(ValueError):
                self.waiting.remove(entry)

    def give_back(self, held: "Held") -> None:
        with self._lock:
            super().give_back(held)

    def wake(self) -> None:
        with self._lock:
            while self.waiting:
                ahead = (each for each in self.waiting if each[0] is self.beyond)
                entry = next(ahead, self.waiting[0])
                held, size, signal = entry
                if not self.grants(held, size):
                    return
                self.waiting.remove(entry)
                signal.set()

    def _forget(self) -> None:
        self.waiting.clear()


class Held:
    """The share of one body in the common memory; `release` gives it back."""

    __slots__ = ("_memory", "size")

    def __init__(self) -> None:
        self.size = 0
        self._memory: BodyMemory | None = None

    async def grow_to(self, size: int) -> None:
        """Wait until the body may have `size` bytes in total."""
        missing = size - FREE - self.size
        if missing <= 0:
            return
        if self._memory is None:
            self._memory = _THREADS if blocks_here() else _of_running_loop()
        await self._memory.take(self, missing)

    def release(self) -> None:
        """Give everything back. Idempotent."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.give_back(self)


_THREADS = ThreadsMemory()
_MEMORIES: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMemory] = WeakKeyDictionary()


def _of_running_loop() -> LoopMemory:
    loop = asyncio.get_running_loop()
    memory = _MEMORIES.get(loop)
    if memory is None:
        memory = _MEMORIES[loop] = LoopMemory()
    return memory


# ---------------------------------------------------------------- connection interface

BODY_LIMIT = 64 * 2**20  # bytes of one decoded body
ERROR_LIMIT = 2**20  # maximum bytes that are read of an error's body
POOL_LIMIT = 4096  # connections; above this even an unlimited policy waits for the pool
MAX_IDLE = 256  # idle sockets of a pool; further ones are closed ...
SPARE = 1.0  # ... after this many idle seconds; a wider batch reuses its sockets sooner
KEEP_ALIVE = 60.0  # seconds that an idle socket is kept
MAX_AGE = 3600.0  # seconds after which a socket is not used again: the host may have moved
ERROR_SILENCE = 5.0  # seconds of silence in the body of an error: its head is enough


ExchangeResult: TypeAlias = HttpResponse | Outcome

Judge: TypeAlias = Callable[[HttpResponse], bool]
"""Whether a response can be the answer to its request. If not, its connection is closed, since the next response on it
may belong to this request, or to another."""


MALFORMED = "body cannot be decompressed"
"""Detail of an outcome: the received body may differ from the sent one, even if it can be parsed."""


def broken_body(status: int, detail: str = "body was cut") -> Outcome:
    """Return the outcome of a body without a correct end."""
    return Outcome(Verdict.BROKEN, status=status, detail=detail, maybe_processed=True)


def silent_body(status: int) -> Outcome:
    """Return the outcome of a body that stopped coming."""
    return Outcome(Verdict.TIMEOUT, status=status, detail="went silent", maybe_processed=True)


class ResponseStream(Protocol):
    """A response whose head has arrived; its body is read in chunks. It owns its connection.

    If it is dropped, it closes its connection, on any thread.
    """

    head: HttpResponse

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes; return no bytes at the end of the body, an outcome if it broke.

        Cancelling closes the connection.
        """

    def take(self) -> bytes | Outcome | None:
        """Return the same if it has arrived; else None."""

    def wait(self) -> Awaitable[None]:
        """Wait until `take` may return something; only if it returns None now. Cancelling closes the connection."""

    def limit_silence(self, seconds: float) -> None:
        """From now on wait at most `seconds` for the next bytes."""

    def spoil(self) -> None:
        """Keep other requests off the connection: the response does not answer this one. Call it before `close`."""

    def close(self) -> None:
        """Close the connection, unless the body was read to its end. Wake a waiting reader."""


async def collect(stream: ResponseStream, judge: Judge | None = None) -> ExchangeResult:
    """Read a response to its end. Close the connection if it has no end, or if `judge` rejects it as an answer.

    The head of an error decides, however its body ends: with a cut, silent, endless or garbled body it stays final, or
    keeps its Retry-After.
    """
    parts: list[bytes] = []
    succeeded, size, held = stream.head.succeeded, 0, Held()
    is_answer = False
    if not succeeded:
        stream.limit_silence(ERROR_SILENCE)
    try:
        while (succeeded or size < ERROR_LIMIT) and (got := await stream.read()):
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
        response = stream.head._replace(body=body if succeeded else body[:ERROR_LIMIT])
        is_answer = judge is None or judge(response)
    finally:
        if not is_answer:
            stream.spoil()
        stream.close()
        held.release()
    return response


class Connection(Protocol):
    """Sends requests to one origin, over as many sockets as it needs."""

    @property
    def blocking(self) -> "Connection":
        """Return the connection for coroutines that block their thread (`drivers.blocking`)."""

    async def exchange(
        self, request: PreparedRequest, judge: Judge | None = None
    ) -> ExchangeResult:
        """Send once and read the whole response. A cancel, or a response that `judge` rejects, closes the socket."""

    async def open(self, request: PreparedRequest) -> ResponseStream | Outcome:
        """Send once, and wait for the head of the response. Cancelling closes the socket."""

    async def close(self) -> None:
        """Close the sockets of the running loop."""
