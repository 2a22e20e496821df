"""The synchronous transport: the caller's thread blocks while the background loop sends the request.

An interrupt of the waiting thread closes the connection of its call, and frees what it held.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.background_loop import BACKGROUND, run_in_waiting_thread
from stormbreak.http.transports.sdk_transport import SdkTransport
from stormbreak.http.transports.wrapped_body import interruptible

# ---------------------------------------------------------------- thread bridge
# Blocking work for the background loop is done by the thread that waits for the answer. So it can be
# interrupted, leaves no thread behind, and finds its thread-local values.


async def bridged_chunks(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of a body that an SDK sends, each when the next is known.

    With the last one it must be known that no more comes: an answer before that counts as one to another request.
    """
    left = iter(chunks)
    chunk = await run_in_waiting_thread(lambda: next(left, None))
    while chunk is not None:
        following = await run_in_waiting_thread(lambda: next(left, None))
        yield chunk
        chunk = following


class BridgedTransport:
    """A synchronous transport as an asynchronous one. Cancelling shuts the socket that it waits for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def handle_async_request(self, request: Any) -> "BridgedResponse":
        """Send once, and wait for the head of the response, in the context of the caller."""
        send = partial(copy_context().run, self._inner.handle_request, request)
        return BridgedResponse(await interruptible(send, undo=lambda late: late.close()))

    async def aclose(self) -> None:
        """Close its connections."""
        self._inner.close()


class BridgedResponse:
    """A response of such a transport, as far as `WrappedResponse` uses it."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.extensions = response.extensions
        self._response = response
        self._reads = self._closed = False

    @property
    def stream(self) -> Any:
        """The body, not unpacked."""
        return self._response.stream

    @stream.setter
    def stream(self, stream: Any) -> None:
        self._response.stream = stream

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the body, unpacked."""
        left: Iterator[bytes] = self._response.iter_bytes()
        while chunk := await interruptible(lambda: self._next(left)):
            yield chunk

    async def aclose(self) -> None:
        """Close it. A thread that reads it was interrupted, and closes it itself."""
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


class SyncSdkTransport(SdkTransport):
    """A synchronous transport, for any number of threads; its arguments are those of `SdkTransport`.

    `inner` is synchronous, too; it runs on the calling thread. A function that makes degraded answers may be a coroutine
    function.
    """

    sends = "handle_request"
    blocks = True

    def handle_request(self, request: Any) -> Any:
        """Answer a request of the library with its response, or raise its exception.

        Raises:
            ConfigurationError: the key would travel in the clear to another machine, a fallback has none, or a header
                of ours is invalid.
        """
        sdk_request = self.library.read(request)
        source = None
        if sdk_request.is_model_call or sdk_request.is_lookup:
            source = self._read_call(sdk_request, request.read())
        if source is not None:
            return BACKGROUND.run(self._run(source, sdk_request, request))
        if self._exceeds_spend_limit(sdk_request):
            return self._rejection(sdk_request)
        if self.inner is not None:
            return BACKGROUND.run(self._pass_inside(sdk_request, request, self._send_inside))
        return BACKGROUND.run(self._pass(sdk_request, bridged_chunks(request.stream), request))

    async def _send_inside(self, request: Any) -> Any:
        return await interruptible(partial(self.inner.handle_request, request), _close)

    def close(self) -> None:
        """End all calls: those that wait are rejected, those that were sent lose their connection.

        From any thread. Later calls find it open. An SDK closes it in a finalizer, too, which may interrupt anything:
        then the background loop closes it soon after.
        """
        if not BACKGROUND.finish(self._end) and self.inner is not None:
            self.inner.close()  # no call is in progress; it may have connections of its own

    async def _end(self) -> None:
        ending, self._driver = self._driver, AsyncioDriver(self.engine)
        ending.close()
        await self._close()

    def _as_async(self, inner: Any) -> Any:
        return BridgedTransport(inner)


def _close(late: Any) -> None:
    late.close()
