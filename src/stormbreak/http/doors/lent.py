"""What blocks, for the background loop: it is done by the thread that waits there for its answer.

So it can be interrupted, leaves no thread behind, and finds whatever it keeps by thread.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from stormbreak.drivers.background import run_in_waiting_thread
from stormbreak.http.doors.inner_connection import interruptible


async def bridged_chunks(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a body that an SDK sends.

    Each waits for the one behind it: with the last it must be known that there is no more, since an answer that comes
    before that is taken for one to another request.
    """
    left = iter(pieces)
    piece = await run_in_waiting_thread(lambda: next(left, None))
    while piece is not None:
        behind = await run_in_waiting_thread(lambda: next(left, None))
        yield piece
        piece = behind


class BridgedTransport:
    """A synchronous transport, as one that is asynchronous. Cancelling shuts the socket that it waits for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def handle_async_request(self, request: Any) -> "LentResponse":
        """Send once, and wait for the head of the answer; in the context of whoever waits for that."""
        send = partial(copy_context().run, self._inner.handle_request, request)
        return LentResponse(await interruptible(send, undo=lambda late: late.close()))

    async def aclose(self) -> None:
        """Close its connections."""
        self._inner.close()


class LentResponse:
    """An answer of such a transport, as far as an `WrappedResponse` knows it."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.extensions = response.extensions
        self._response = response
        self._reads = self._closed = False

    @property
    def stream(self) -> Any:
        """Its body as it comes."""
        return self._response.stream

    @stream.setter
    def stream(self, stream: Any) -> None:
        self._response.stream = stream

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The bytes of its body, unpacked."""
        left: Iterator[bytes] = self._response.iter_bytes()
        while piece := await interruptible(lambda: self._next(left)):
            yield piece

    async def aclose(self) -> None:
        """Close it. If a thread reads it, that was interrupted, and closes it itself."""
        self._closed = True
        if not self._reads:
            self._response.close()

    def _next(self, left: Iterator[bytes]) -> bytes:
        self._reads = True
        try:
            return next(left, b"")
        finally:
            self._reads = False
            if self._closed:
                self._response.close()
