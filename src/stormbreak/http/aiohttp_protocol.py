"""What aiohttp does with the bytes of a connection, and the one thing that it forgets to do.

Where its parser fails within a body, such as at a chunk that is none, aiohttp closes the connection and stops its
timer of silence, and tells nobody who reads that body: they would wait until their own deadline, or for ever.

Relied on: `ResponseHandler.set_exception` is called for all that ends a connection badly, and `_payload` is the body
that is being read.
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


def protocol(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    """Make one, for a connector."""
    return Protocol(loop)
