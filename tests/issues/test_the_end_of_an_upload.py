"""The end of a body that blocks was asked for after its last piece had been sent.

A server that answered at once was then taken for one that had answered before it had read the request.
"""

import asyncio
import time

import httpx2
from sockets import answer, served

from stormbreak.httpx2 import AsyncTransport, Transport


def whole():
    yield b"whole"
    time.sleep(0.1)  # before it says that there is no more


async def test_an_answer_may_come_before_the_thread_says_that_there_is_no_more():
    async with served(answer(b"{}")) as server:
        with httpx2.Client(transport=Transport()) as client:
            said = await asyncio.to_thread(
                client.post,
                f"{server.base_url}/files",
                content=whole(),
                headers={"content-length": "5"},
            )
    assert said.status_code == 200
    assert server.requests[0].body == b"whole"


async def whole_on_a_loop():
    yield b"whole"
    await asyncio.sleep(0.1)


async def test_nor_is_a_loop_asked_whether_there_is_more():
    async with (
        served(answer(b"{}")) as server,
        httpx2.AsyncClient(transport=AsyncTransport()) as client,
    ):
        url, length = f"{server.base_url}/files", {"content-length": "5"}
        said = await client.post(url, content=whole_on_a_loop(), headers=length)
    assert said.status_code == 200
    assert server.requests[0].body == b"whole"
