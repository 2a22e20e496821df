"""The synchronous transport: the caller's thread blocks while the background loop sends the request.

An interrupt of the thread that waits closes the connection of its call, and frees what it held.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.background_loop import BACKGROUND, run_in_waiting_thread
from stormbreak.http.transports.sdk_transport import Door
from stormbreak.http.transports.wrapped_body import interruptible

# ---------------------------------------------------------------- thread bridge
# Work that blocks is done for the background loop by the thread that waits for its answer. So it
# can be interrupted, leaves no thread behind, and finds whatever it keeps by thread.


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


# ---------------------------------------------------------------- synchronous transport


class SyncSdkTransport(Door):
    """A synchronous transport, for any number of threads; `Door.__init__` tells its arguments.

    `inner` is synchronous as well; it does its work on the thread that asks. A function that makes degraded answers
    may be a coroutine function.
    """

    sends = "handle_request"

    def handle_request(self, request: Any) -> Any:
        """Answer a request of the library with its response, or raise its exception.

        Raises:
            ConfigurationError: the key would travel in the clear to another machine, a fallback has none, or a header
                of ours cannot be right.
        """
        seen = self.library.read(request)
        asked = None
        if seen.is_model_call or seen.is_lookup:
            asked = self._asked(seen, request.read())
        if asked is not None:
            return BACKGROUND.run(self._answered(asked, seen, request))
        if self._is_beyond_limits(seen):
            return self._refused(seen)
        if self.inner is not None:
            return BACKGROUND.run(self._pass_inside(seen, request, self._send_inside))
        return BACKGROUND.run(self._pass(seen, bridged_chunks(request.stream), request))

    async def _send_inside(self, request: Any) -> Any:
        return await interruptible(partial(self.inner.handle_request, request), _close)

    def close(self) -> None:
        """End what is under way: calls that wait are rejected, those that were sent lose their connection.

        From any thread. Whoever asks later finds it open. An SDK closes it in a finalizer, too, which may interrupt
        anything: then it is closed soon after, by the background loop.
        """
        if not BACKGROUND.finish(self._end) and self.inner is not None:
            self.inner.close()  # nothing is under way; it may have connections of its own

    async def _end(self) -> None:
        ending, self._driver = self._driver, AsyncioDriver(self.engine)
        ending.close()
        await self._close()

    def _as_async(self, inner: Any) -> Any:
        return BridgedTransport(inner)


def _close(late: Any) -> None:
    late.close()
