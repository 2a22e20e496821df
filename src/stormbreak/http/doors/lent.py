"""What blocks, for the background loop: it is done by the thread that waits there for its answer.

So it can be interrupted, leaves no thread behind, and finds whatever it keeps by thread.
"""

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from stormbreak.drivers.background import by_whoever_waits


async def lent_pieces(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a body that an SDK sends.

    Each waits for the one behind it: with the last it must be known that there is no more, since an answer that comes
    before that is taken for one to another request.
    """
    left = iter(pieces)
    piece = await by_whoever_waits(lambda: next(left, None))
    while piece is not None:
        behind = await by_whoever_waits(lambda: next(left, None))
        yield piece
        piece = behind


class LentTransport:
    """A synchronous transport, as one that is asynchronous. Nothing can stop it but its own timeouts."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def handle_async_request(self, request: Any) -> "LentResponse":
        """Send once, and wait for the head of the answer; in the context of whoever waits for that."""
        response = await by_whoever_waits(
            partial(copy_context().run, self._inner.handle_request, request),
            undo=lambda late: late.close(),
        )
        return LentResponse(response)

    async def aclose(self) -> None:
        """Close its connections."""
        self._inner.close()


class LentResponse:
    """An answer of such a transport, as far as an `InnerIncoming` knows it."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self._response = response
        self._reads = False

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The bytes of its body, unpacked."""
        left: Iterator[bytes] = self._response.iter_bytes()
        while piece := await by_whoever_waits(self._next_of(left)):
            yield piece

    async def aclose(self) -> None:
        """Close it. Whoever reads is woken, where the connection can be found; what is left behind then closes itself."""
        if self._reads:
            with suppress(Exception):  # of other libraries: their connections are of many kinds
                stream = self._response.extensions["network_stream"]
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        else:
            self._response.close()

    def _next_of(self, left: Iterator[bytes]) -> Callable[[], bytes]:
        def read() -> bytes:
            self._reads = True
            try:
                return next(left, b"")
            finally:
                self._reads = False

        return read
