"""Bodies of responses that come while they are read. Each owns its connection, and a stream its permits, too.

A front door makes the byte streams of its HTTP library out of them: of one that is read on a loop, or of one that is
read by a thread that blocks.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any

from stormbreak.drivers.background import BACKGROUND
from stormbreak.errors import StreamBrokenError
from stormbreak.http.doors.inner_body import LATE, seconds_to
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.replies import failure_of
from stormbreak.http.doors.story import AttemptHistory
from stormbreak.http.stream import Stream
from stormbreak.http.wire import ResponseStream
from stormbreak.types import Outcome


class Body(ABC):
    """What is read here or there."""

    @abstractmethod
    async def piece(self) -> bytes | None:
        """Wait for the next bytes; None at the right end. Raises what the library has for another."""

    @abstractmethod
    async def free(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""


class AsyncBody(Body):
    """Reads it on the running loop."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self.piece()) is not None:
            yield piece

    async def aclose(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        await self.free()


class SyncBody(Body):
    """Reads it on the thread that asks, which blocks. Another may close it."""

    def __iter__(self) -> Iterator[bytes]:
        while (piece := BACKGROUND.run(self.piece())) is not None:
            yield piece

    def close(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        BACKGROUND.finish(self.free)


class StreamBody(Body):
    """A stream that has begun; its bytes are untouched. One that breaks raises what the library has for it."""

    def __init__(
        self, stream: Stream, story: AttemptHistory, library: Library, request: Any
    ) -> None:
        stream.raw()
        self._stream = stream
        self._story = story
        self._library = library
        self._request = request

    async def piece(self) -> bytes | None:
        """Wait for the next bytes; None at the right end."""
        try:
            return await self._stream.piece()
        except StreamBrokenError as broken:
            failed, said = broken, str(broken)
        self._story.end(failed.ended)
        outcome = failed.ended.outcome
        failure = failure_of(outcome, self._story)._replace(message=said)
        raise self._library.error(failure, self._request) from outcome.error

    async def free(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        await self._stream.aclose()


class PassThroughBody(Body):
    """The body of an answer that only passes, no longer than `until`."""

    def __init__(
        self, incoming: ResponseStream, library: Library, request: Any, until: float | None
    ) -> None:
        self._until = until
        self._incoming = incoming
        self._library = library
        self._request = request

    async def piece(self) -> bytes | None:
        """Wait for the next bytes; None at the end."""
        if self._until is None:
            got = await self._incoming.read()
        else:
            got = await self._in_time(self._until)
        if not isinstance(got, bytes):
            raise self._library.error(failure_of(got, None), self._request) from got.error
        return got or None

    async def _in_time(self, until: float) -> bytes | Outcome:
        try:
            async with asyncio.timeout(seconds_to(until)):
                return await self._incoming.read()
        except TimeoutError:
            raise self._library.error(LATE, self._request) from None

    async def free(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._incoming.close()
