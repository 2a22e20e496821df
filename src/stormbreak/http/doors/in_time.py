"""What only passes ends by the deadline of its scope, too: its upload, the wait for its answer, and the reading of that.

An SDK is told by a timeout of its HTTP library's own. Over an inner transport that blocks, that is done by the timeouts of
the request, and by a look at the time behind each piece.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from stormbreak.http.doors.replies import Failure

LATE = Failure("ReadTimeout", "its deadline is over", None)


def seconds_to(until: float | None) -> float | None:
    """Seconds to a point on the monotonic clock, none of them where it is over; None: there is no such point."""
    return None if until is None else max(0.0, until - time.monotonic())


class InTimeOnLoop:
    """The byte stream of a response over an inner transport, bounded; `late` makes what is raised when its time is over."""

    def __init__(self, stream: Any, until: float, late: Callable[[], Exception]) -> None:
        self._stream = stream
        self._until = until
        self._late = late

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = self._stream.__aiter__()
        try:
            while True:
                try:
                    async with asyncio.timeout(seconds_to(self._until)) as bound:
                        piece = await anext(pieces, None)
                except TimeoutError:
                    if not bound.expired():
                        raise
                    raise self._late() from None
                if piece is None:
                    return
                yield piece
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def aclose(self) -> None:
        """Close the response."""
        await self._stream.aclose()


class InTimeOnThread:
    """The same of one that blocks: what comes when the time is over is not handed out."""

    def __init__(self, stream: Any, until: float, late: Callable[[], Exception]) -> None:
        self._stream = stream
        self._until = until
        self._late = late

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if time.monotonic() > self._until:
                raise self._late()
            yield piece

    def close(self) -> None:
        """Close the response."""
        self._stream.close()
