"""What aiohttp does with the bytes of a connection, and two things that it forgets to do.

Where its parser fails within a body, such as at a chunk that is none, aiohttp closes the connection and stops its
timer of silence, and tells nobody who reads that body. And the end of a chunk wakes whoever reads although there is
nothing to read; what fails before they have run is seen by none of them, since `readany` looks for failures only
before it waits for the first time. Either way they would wait until their own deadline, or for ever.

Relied on: `ResponseHandler.set_exception` is called for all that ends a connection badly, and `_payload` is the body
that is being read; `StreamReader._wait` ends whenever anything has come, or an end, and `_buffer` is what has come.
"""

import asyncio
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler


class Protocol(ResponseHandler):
    """Whoever reads a body hears that no more of it will come."""

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        """End the connection, and the body that has not come to its end."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if payload is None or payload.is_eof() or payload.exception() is not None:
            return
        plain = isinstance(exc, aiohttp.ClientError | OSError)
        payload.set_exception(exc if plain else aiohttp.ClientPayloadError("no HTTP"))


async def next_bytes(content: aiohttp.StreamReader) -> bytes:
    """Wait for the next bytes of a body, none at its end; raise what it failed with when all that came is read."""
    while not content.at_eof():
        if content._buffer:  # noqa: SLF001 - as `readany` has it
            return content._read_nowait(-1)  # noqa: SLF001
        _raise_failure(content)
        await content._wait("next_bytes")  # noqa: SLF001
    _raise_failure(content)
    return b""


def _raise_failure(content: aiohttp.StreamReader) -> None:
    failure = content.exception()
    if failure is not None:
        raise failure


def protocol(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    """Make one, for a connector."""
    return Protocol(loop)
