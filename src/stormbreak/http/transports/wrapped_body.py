"""Response bodies over a wrapped transport, with deadlines, interrupts and a check for stale bytes."""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from stormbreak.drivers.timeouts import Timeout
from stormbreak.http.transports.interruptible import interruptible
from stormbreak.http.transports.sdk_response import Failure

# ---------------------------------------------------------------- deadlines and stale bytes
# We do not own the connections of a wrapped transport.
#
# Law 15: a connection with unrequested bytes is closed instead of reused. httpcore checks the socket before it reuses a
# connection, but not what it has already read: in h11's buffer, in the TLS buffer and in anyio's queue.
#
# This module uses undocumented parts of httpx, httpx2, httpcore, httpcore2 and anyio.
# `tests/laws/test_law_15_the_answer_to_that_very_call.py` checks each name. If one is missing, the laws do not hold
# there; nothing else breaks.

TO_H11 = ("_httpcore_stream", "_stream", "_connection", "_h11_state")
"""The chain of attributes from the stream of a response to the parser of its connection."""

TO_QUEUE = ("_protocol", "read_queue")
"""The chain of attributes from an anyio stream to its bytes that were read but not handed out."""


def parser_of(response: Any) -> Any:
    """Return the h11 connection that parses a response; None for HTTP/2, or without a connection."""
    found = _follow(response.stream, TO_H11)
    return found if hasattr(found, "trailing_data") and hasattr(found, "send_failed") else None


def _is_unrequested(parser: Any, network_stream: Any) -> bool:
    """Whether bytes came after the end of the response."""
    return bool(parser.trailing_data[0]) or _has_buffered(network_stream)


def _has_buffered(network_stream: Any) -> bool:
    info = getattr(network_stream, "get_extra_info", None)
    if info is None:
        return False
    tls = info("ssl_object")
    if isinstance(tls, ssl.SSLObject) and _has_decrypted(tls):
        return True
    stream = getattr(network_stream, "_stream", None)
    return bool(_follow(getattr(stream, "transport_stream", stream), TO_QUEUE))


def _has_decrypted(tls: ssl.SSLObject) -> bool:
    """Whether the TLS buffer holds bytes or the end; reads only from memory."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def _follow(start: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        start = getattr(start, name, None)
    return start


# ---------------------------------------------------------------- wrapped body

LATE = Failure("ReadTimeout", "the deadline has passed", None)


def seconds_to(until: float | None) -> float | None:
    """Return the seconds to a point on the monotonic clock, 0 if it has passed; None for no point."""
    return None if until is None else max(0.0, until - time.monotonic())


class WrappedBody:
    """The stream of `response`, read on a loop or by a thread until `until`; `late` makes the exception then.

    If unrequested bytes came, closing it also closes the connection. A `held` body is closed only by `release`: the
    library closes a body at its end, before it can be judged.
    """

    def __init__(
        self,
        response: Any,
        parser: Any,
        until: float | None,
        late: Callable[[], Exception] | None,
        *,
        held: bool,
    ) -> None:
        self._stream = response.stream
        self._is_held = held
        self._parser = parser
        self._network_stream = response.extensions.get("network_stream")
        self._until = until
        self._late = late

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        return chunks if self._until is None else self._each_in_time(chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._stream.__aiter__()
        return chunks if self._until is None else self._each_in_time_on_loop(chunks)

    def _each_in_time(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        assert self._late is not None
        assert self._until is not None
        while True:
            try:
                chunk = interruptible(lambda: next(chunks, None), self._until)
            except TimeoutError:
                raise self._late() from None
            if chunk is None:
                return
            yield chunk

    async def _each_in_time_on_loop(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._in_time(anext(chunks, None))) is not None:
                yield chunk
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def _in_time(self, coming: Any) -> bytes | None:
        assert self._late is not None
        bound = Timeout(seconds_to(self._until))
        try:
            with bound:
                chunk: bytes | None = await coming
        except TimeoutError:
            if not bound.alone:
                raise
            raise self._late() from None
        return chunk

    def spoil(self) -> None:
        if self._parser is not None:
            self._parser.send_failed()  # an h11 connection with an error is not reused

    def release(self) -> None:
        """Close it after the judgement."""
        self._is_held = False
        self.close()

    def release_on_loop(self) -> Coroutine[Any, Any, None]:
        self._is_held = False
        return self.aclose()

    def close(self) -> None:
        if not self._is_held:
            self._leave()
            self._stream.close()

    async def aclose(self) -> None:
        if not self._is_held:
            self._leave()
            await self._stream.aclose()

    def _leave(self) -> None:
        """Detach from the parser, which may now belong to another request."""
        if self._parser is not None and _is_unrequested(self._parser, self._network_stream):
            self.spoil()
        self._parser = None
