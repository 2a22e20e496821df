"""Response bodies over a wrapped transport, with deadlines, interrupts and a check for stale bytes."""

import asyncio
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from stormbreak.drivers.background_loop import BACKGROUND, run_in_waiting_thread
from stormbreak.drivers.locks import new_lock
from stormbreak.http.transports.sdk_response import Failure

# ---------------------------------------------------------------- deadlines and stale bytes
# The connections of a wrapped transport are not ours.
#
# Law 6: a thread that blocks in such a transport is released at its deadline. Only its socket can
# wake it, and no public hook of httpcore leads from a waiting request to the socket. So the
# background loop searches the frames of the thread: the innermost `self` with httpcore's public
# `get_extra_info` is the stream that it waits for.
#
# Law 15: a connection with unrequested bytes is closed instead of reused. httpcore checks the socket
# before it reuses a connection, but not what it has already read: in h11's buffer, in the TLS buffer
# and in anyio's queue.
#
# This module uses undocumented parts of httpx, httpx2, httpcore, httpcore2 and anyio.
# `tests/laws/test_law_15_the_answer_to_that_very_call.py` checks each name. Without them, the laws do
# not hold there, and nothing else breaks.

T = TypeVar("T")

TO_H11 = ("_httpcore_stream", "_stream", "_connection", "_h11_state")
"""From the stream of a response to the parser of its connection: a chain of attributes."""

TO_QUEUE = ("_protocol", "read_queue")
"""From an anyio stream to the bytes that it has read and not handed out."""

_FIRST_PAUSE, _MAX_PAUSE = 0.01, 1.0  # seconds between two searches for the socket of a thread


def parser_of(response: Any) -> Any:
    """Return the h11 connection that parses a response; None if it is HTTP/2, or no connection."""
    found = _follow(response.stream, TO_H11)
    return found if hasattr(found, "trailing_data") and hasattr(found, "send_failed") else None


def close_if_unrequested(parser: Any, network_stream: Any) -> None:
    """Prevent reuse of the connection if bytes came after the end of the response."""
    if parser.trailing_data[0] or _has_buffered(network_stream):
        parser.send_failed()  # an h11 connection with an error is not reused


def _has_buffered(network_stream: Any) -> bool:
    info = getattr(network_stream, "get_extra_info", None)
    if info is None:
        return False
    tls = info("ssl_object")
    if isinstance(tls, ssl.SSLObject) and _has_decrypted(tls):
        return True
    stream = getattr(network_stream, "_stream", None)
    return bool(_follow(getattr(stream, "transport_stream", stream), TO_QUEUE))


def _has_decrypted(tls: ssl.SSLObject) -> bool:
    """Whether its buffer holds bytes, or the end; it reads only from memory."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def _follow(start: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        start = getattr(start, name, None)
    return start


async def interruptible(work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
    """Run blocking `work` on the thread that waits for this coroutine; cancelling wakes it by its socket.

    `undo` gets a result that comes after the cancellation.
    """
    blocking = _Blocking(work)
    try:
        return await run_in_waiting_thread(blocking.run, undo)
    except asyncio.CancelledError:
        _interrupt(blocking, asyncio.get_running_loop(), _FIRST_PAUSE)
        raise


class _Blocking(Generic[T]):
    """One unit of blocking work on a thread. The lock is its own: no fork and no finalizer needs it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = new_lock()
        self._thread: int | None = None
        self._is_interrupted = False

    def run(self) -> T:
        """Do the work on this thread."""
        with self._lock:
            if self._is_interrupted:
                raise InterruptedError
            self._thread = threading.get_ident()
        try:
            return self._work()
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> bool:
        """Shut the socket that the thread waits for, if it is found; return whether the work is over."""
        with self._lock:  # while it is held, the thread cannot start other work
            self._is_interrupted = True
            if self._thread is None:
                return True
            found = self._socket()
            if isinstance(found, socket.socket):
                with suppress(OSError):
                    socket.socket.shutdown(
                        found, socket.SHUT_RDWR
                    )  # an SSLSocket's own drops its TLS
        return False

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


def _interrupt(blocking: _Blocking[Any], loop: asyncio.AbstractEventLoop, pause: float) -> None:
    """Interrupt it until it is over: a transport of the user may retry."""
    if not blocking.interrupt():
        pause = min(2 * pause, _MAX_PAUSE)
        loop.call_later(pause, partial(_interrupt, blocking, loop, pause))


# ---------------------------------------------------------------- wrapped body

LATE = Failure("ReadTimeout", "the deadline has passed", None)


def seconds_to(until: float | None) -> float | None:
    """Return the seconds to a point on the monotonic clock, 0 if it has passed; None for no point."""
    return None if until is None else max(0.0, until - time.monotonic())


class WrappedBody:
    """The stream of `response`, read on a loop or by a thread until `until`; `late` makes the exception then.

    Closing it closes the connection, too, if unrequested bytes came.
    """

    def __init__(
        self,
        response: Any,
        parser: Any,
        until: float | None,
        late: Callable[[], Exception] | None,
    ) -> None:
        self._stream = response.stream
        self._parser = parser
        self._network_stream = response.extensions.get("network_stream")
        self._until = until
        self._late = late

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        return chunks if self._until is None else self._each_in_time(chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._stream.__aiter__()
        return chunks if self._until is None else self._each_in_time_on_loop(chunks)

    def _each_in_time(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        def following() -> bytes | None:
            return next(chunks, None)

        while True:
            chunk = BACKGROUND.run(self._in_time(interruptible(following)))
            if chunk is None:
                return
            yield chunk

    async def _each_in_time_on_loop(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._in_time(anext(chunks, None))) is not None:
                yield chunk
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def _in_time(self, coming: Any) -> bytes | None:
        assert self._late is not None
        try:
            async with asyncio.timeout(seconds_to(self._until)) as bound:
                chunk: bytes | None = await coming
        except TimeoutError:
            if not bound.expired():
                raise
            raise self._late() from None
        return chunk

    def close(self) -> None:
        """Close the response."""
        if self._parser is not None:
            close_if_unrequested(self._parser, self._network_stream)
        self._stream.close()

    async def aclose(self) -> None:
        """Close the response."""
        if self._parser is not None:
            close_if_unrequested(self._parser, self._network_stream)
        await self._stream.aclose()
