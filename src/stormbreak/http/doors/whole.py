"""Responses whose body is there from the start: read in one step, where the HTTP library takes many (45 us)."""

from typing import Any


class BufferedBody:
    """Comes before the library's own class of response, and gives it the body that it would read out of its stream.

    What is iterated over, or closed unread, is as the library has it.
    """

    ready: bytes | None = None

    async def aread(self) -> bytes:
        """Read the body, and close the response."""
        response: Any = self
        if self._takes(response):
            await response.aclose()
        body: bytes = await super().aread()  # type: ignore[misc]  # of the library
        return body

    def read(self) -> bytes:
        """Read the body, and close the response."""
        response: Any = self
        if self._takes(response):
            response.close()
        body: bytes = super().read()  # type: ignore[misc]  # of the library
        return body

    def _takes(self, response: Any) -> bool:
        """Make what is there the content, if nobody has begun to read."""
        ready, self.ready = self.ready, None
        if ready is None or response.is_stream_consumed or response.is_closed:
            return False
        response._content = ready  # noqa: SLF001 - where httpx2 and httpx keep it
        response.is_stream_consumed = True
        return True
