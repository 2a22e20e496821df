"""The end of a blocking request body was read after its last piece had been sent.

A server that responded at once then counted as one that responds before it has read the request.
"""

import asyncio
import time

import httpx2
from sockets import answer, served

from stormbreak.httpx2 import AsyncTransport, Transport


def whole():
    yield b"whole"
    time.sleep(0.1)  # before the iterator ends


async def test_a_response_may_arrive_before_the_end_of_a_blocking_body():
    async with served(answer(b"{}")) as server:
        with httpx2.Client(transport=Transport()) as client:
            response = await asyncio.to_thread(
                client.post,
                f"{server.base_url}/files",
                content=whole(),
                headers={"content-length": "5"},
            )
    assert response.status_code == 200
    assert server.requests[0].body == b"whole"


async def whole_on_a_loop():
    yield b"whole"
    await asyncio.sleep(0.1)


async def test_a_response_may_arrive_before_the_end_of_an_async_body():
    async with (
        served(answer(b"{}")) as server,
        httpx2.AsyncClient(transport=AsyncTransport()) as client,
    ):
        url, length = f"{server.base_url}/files", {"content-length": "5"}
        response = await client.post(url, content=whole_on_a_loop(), headers=length)
    assert response.status_code == 200
    assert server.requests[0].body == b"whole"
