"""The asynchronous door: whoever asks waits on a loop of their own, for an answer of that loop's pool."""

import asyncio
from typing import Any

from stormbreak.http.transports.sdk_transport import Door


class AsyncSdkTransport(Door):
    """An asynchronous transport; `Door.__init__` tells its arguments. `inner` is one, too."""

    sends = "handle_async_request"

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of the library with its response, or raise its exception.

        Raises:
            ConfigurationError: the key would travel in the clear to another machine, a fallback has none, or a header
                of ours cannot be right.
        """
        seen = self.library.read(request)
        asked = None
        if seen.is_model_call or seen.is_lookup:
            asked = self._asked(seen, await request.aread())
        if asked is not None:
            return await self._answered(asked, seen, request)
        if self._is_beyond_limits(seen):
            return self._refused(seen)
        if self.inner is not None:
            return await self._pass_inside(seen, request, self.inner.handle_async_request)
        return await self._pass(seen, request.stream, request)

    async def aclose(self) -> None:
        """Close the connections of the running loop. Its streams end, and count as nothing."""
        self._driver.end_streams(asyncio.get_running_loop())
        await self._close()
