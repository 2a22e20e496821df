"""The body of a response over an inner transport, and what ends by the deadline of its scope, too."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from stormbreak.drivers.background import BACKGROUND
from stormbreak.http.doors.inner_connection import close_if_unasked, interruptible
from stormbreak.http.doors.replies import Failure

LATE = Failure("ReadTimeout", "its deadline is over", None)


def seconds_to(until: float | None) -> float | None:
    """Seconds to a point on the monotonic clock, none of them where it is over; None: there is no such point."""
    return None if until is None else max(0.0, until - time.monotonic())


class WrappedBody:
    """The stream of `response`, read on a loop or by a thread, no longer than `until`; `late` makes what is raised then.

    Closing it closes the connection, too, where bytes came that nobody asked for.
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
        pieces = iter(self._stream)
        return pieces if self._until is None else self._each_in_time(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = self._stream.__aiter__()
        return pieces if self._until is None else self._each_in_time_on_loop(pieces)

    def _each_in_time(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        def following() -> bytes | None:
            return next(pieces, None)

        while True:
            piece = BACKGROUND.run(self._in_time(interruptible(following)))
            if piece is None:
                return
            yield piece

    async def _each_in_time_on_loop(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            while (piece := await self._in_time(anext(pieces, None))) is not None:
                yield piece
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _in_time(self, coming: Any) -> bytes | None:
        assert self._late is not None
        try:
            async with asyncio.timeout(seconds_to(self._until)) as bound:
                piece: bytes | None = await coming
        except TimeoutError:
            if not bound.expired():
                raise
            raise self._late() from None
        return piece

    def close(self) -> None:
        """Close the response."""
        if self._parser is not None:
            close_if_unasked(self._parser, self._network_stream)
        self._stream.close()

    async def aclose(self) -> None:
        """Close the response."""
        if self._parser is not None:
            close_if_unasked(self._parser, self._network_stream)
        await self._stream.aclose()
