"""The transport for blocking code: calls run on the calling thread.

An interrupt of the thread (KeyboardInterrupt) closes the connection of its call, and frees everything it held.
"""

from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from stormbreak.drivers.blocking import run
from stormbreak.drivers.blocking_driver import BlockingDriver
from stormbreak.http.h1.connection import Connection
from stormbreak.http.transports.interruptible import interruptible
from stormbreak.http.transports.sdk_request import read_call
from stormbreak.http.transports.sdk_transport import SdkTransport
from stormbreak.http.transports.wrapped_connection import BlockingWrappedConnection


async def _ahead(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of an SDK's body, each when the next is known.

    The last chunk must be known to be the last: an answer before that counts as one to another request.
    """
    left = iter(chunks)
    chunk = next(left, None)
    while chunk is not None:
        following = next(left, None)
        yield chunk
        chunk = following


class SyncSdkTransport(SdkTransport):
    """A synchronous transport, for any number of threads; its arguments are those of `SdkTransport`.

    `inner` is synchronous, too; it runs on the calling thread. A function for degraded answers may be a coroutine
    function.
    """

    sends = "handle_request"
    blocks = True

    def handle_request(self, request: Any) -> Any:
        """Answer a request of the library, as `AsyncSdkTransport.handle_async_request` does."""
        sdk_request = self.library.read(request)
        source = None
        if sdk_request.is_model_call or sdk_request.is_lookup:
            source = read_call(sdk_request, request.read(), stream_on_wire=self._stream_on_wire)
        if source is not None:
            return run(self._run(source, sdk_request, request))
        if self._exceeds_spend_limit(sdk_request):
            return self._rejection(sdk_request)
        if self.inner is not None:
            return run(self._pass_inside(sdk_request, request, self._send_inside))
        return run(self._pass(sdk_request, _ahead(request.stream), request))

    async def _send_inside(self, request: Any) -> Any:
        return interruptible(
            partial(self.inner.handle_request, request), undo=lambda late: late.close()
        )

    def close(self) -> None:
        """End all calls: waiting calls are rejected, sent calls lose their connection.

        From any thread, and from a finalizer, as in SDKs. Later calls work: it stays usable.
        """
        ending, self._driver = self._driver, self._new_driver()
        ending.close()
        run(self._close())

    def _new_driver(self) -> BlockingDriver:
        return BlockingDriver(self.engine)

    def _wrap(self, inner: Any) -> Connection:
        return BlockingWrappedConnection(self.library, inner)
