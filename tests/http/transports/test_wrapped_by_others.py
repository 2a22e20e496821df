"""Transports of others around ours: the user reads the stream that they substitute."""

import httpx
import httpx2
import pytest
from sdk_clients import QUICK, SAY
from sockets import answer, served
from table_test import table_test

from stormbreak.httpx import AsyncTransport as HttpxTransport
from stormbreak.httpx2 import AsyncTransport as Httpx2Transport

ASKED = {"model": "m", "messages": SAY}
LIBRARIES = [(httpx, HttpxTransport), (httpx2, Httpx2Transport)]


def around(library, inner, change):
    class Outer(library.AsyncBaseTransport):
        async def handle_async_request(self, request):
            response = await inner.handle_async_request(request)
            response.stream = change(library, response.stream)
            return response

    return library.AsyncClient(transport=Outer())


def in_capitals(library, inner):
    class Stream(library.AsyncByteStream):
        async def __aiter__(self):
            async for piece in inner:
                yield piece.upper()

        async def aclose(self):
            await inner.aclose()

    return Stream()


@table_test(("library", "transport"), LIBRARIES)
async def test_a_stream_substituted_by_an_outer_transport_is_read(library, transport):
    inner = transport(QUICK)
    async with served(answer()) as server, around(library, inner, in_capitals) as http:
        url = f"{server.base_url}/chat/completions"
        response = await http.post(url, json=ASKED)
        assert b'"CHOICES"' in response.content
        assert response.elapsed.total_seconds() > 0
        await inner.aclose()


@table_test(("library", "transport"), LIBRARIES)
async def test_an_async_response_cannot_be_read_synchronously(library, transport):
    async with (
        served(answer()) as server,
        library.AsyncClient(transport=transport(QUICK)) as http,
        http.stream("POST", f"{server.base_url}/chat/completions", json=ASKED) as response,
    ):
        with pytest.raises(RuntimeError, match="sync"):
            response.read()
