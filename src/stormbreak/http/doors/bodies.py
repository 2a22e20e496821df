"""Bodies of responses that come while they are read. Each owns its connection, and a stream its permits, too.

A front door makes the byte streams of its HTTP library out of them.
"""

from collections.abc import AsyncIterator
from typing import Any

from stormbreak.errors import StreamBrokenError
from stormbreak.http.doors.library import Library
from stormbreak.http.doors.replies import failure_of
from stormbreak.http.doors.story import Story
from stormbreak.http.stream import Stream
from stormbreak.http.wire import Incoming


class StreamBody:
    """A stream that has begun; its bytes are untouched. One that breaks raises what the library has for it."""

    def __init__(self, stream: Stream, story: Story, library: Library, request: Any) -> None:
        self._stream = stream
        self._story = story
        self._library = library
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream.raw():
                yield chunk
        except StreamBrokenError as broken:
            failed, said = broken, str(broken)
        else:
            return
        self._story.end(failed.ended)
        outcome = failed.ended.outcome
        failure = failure_of(outcome, self._story)._replace(message=said)
        raise self._library.error(failure, self._request) from outcome.error

    async def aclose(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        await self._stream.aclose()


class PassedBody:
    """The body of an answer that only passes."""

    def __init__(self, incoming: Incoming, library: Library, request: Any) -> None:
        self._incoming = incoming
        self._library = library
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            got = await self._incoming.read()
            if not isinstance(got, bytes):
                raise self._library.error(failure_of(got, None), self._request) from got.error
            if not got:
                return
            yield got

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._incoming.close()
