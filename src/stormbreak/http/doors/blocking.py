"""The synchronous door: whoever asks blocks, while the background loop of the process answers.

An interrupt of the thread that waits closes the connection of its call, and frees what it held.
"""

from functools import partial
from typing import Any

from stormbreak.drivers.aio import AsyncioDriver
from stormbreak.drivers.background import BACKGROUND
from stormbreak.http.doors.door import Door
from stormbreak.http.doors.inner_connection import interruptible
from stormbreak.http.doors.lent import BridgedTransport, bridged_chunks


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
