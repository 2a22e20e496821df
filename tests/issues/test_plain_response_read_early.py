"""A plain response came through the transport as already read: `elapsed` was missing, and a proxy could not iterate over
its raw bytes.
"""

import asyncio
import pickle
from importlib import import_module

import pytest
from sdk_clients import QUICK, SAY, SDKS, sdk_client
from sockets import BODY, answer, served
from table_test import table_test

PAYLOAD = {"model": "m", "messages": SAY}
libraries = table_test("name", ["httpx2", "httpx"])


def clients(name):
    lib, ours = import_module(name), import_module(f"stormbreak.{name}")
    awaits = lib.AsyncClient(transport=ours.AsyncTransport(QUICK))
    return awaits, lib.Client(transport=ours.Transport(QUICK))


@libraries
async def test_a_plain_response_has_its_elapsed_time(name):
    async with served([0.05, answer()]) as server:
        awaits, blocks = clients(name)
        url = f"{server.base_url}/chat/completions"
        async with awaits:
            came = [await awaits.post(url, json=PAYLOAD)]
        with blocks:
            came.append(await asyncio.to_thread(blocks.post, url, json=PAYLOAD))
    for response in came:
        assert response.elapsed.total_seconds() >= 0.05
        assert (response.is_closed, response.is_stream_consumed) == (True, True)
        assert (response.content, response.json()["usage"]) == (BODY, {})
        assert pickle.loads(pickle.dumps(response)).content == BODY


@libraries
async def test_the_raw_bytes_of_a_plain_response_can_be_iterated(name):
    async with served() as server:
        awaits, blocks = clients(name)
        url = f"{server.base_url}/chat/completions"
        async with awaits, awaits.stream("POST", url, json=PAYLOAD) as response:
            assert not response.is_closed
            assert b"".join([piece async for piece in response.aiter_raw()]) == BODY

        def raw():
            with blocks, blocks.stream("POST", url, json=PAYLOAD) as response:
                return b"".join(response.iter_raw())

        assert await asyncio.to_thread(raw) == BODY


@libraries
async def test_a_closed_or_consumed_response_cannot_be_read_again(name):
    lib = import_module(name)
    async with served() as server:
        awaits, _ = clients(name)
        url = f"{server.base_url}/chat/completions"
        async with awaits:
            async with awaits.stream("POST", url, json=PAYLOAD) as unread:
                pass
            with pytest.raises(lib.StreamClosed):
                await unread.aread()
            async with awaits.stream("POST", url, json=PAYLOAD) as forwarded_headers:
                _ = [piece async for piece in forwarded_headers.aiter_raw()]
                with pytest.raises(lib.StreamConsumed):
                    await forwarded_headers.aread()


async def test_a_response_of_an_sdk_has_its_elapsed_time():
    async with served() as server, sdk_client(SDKS[0], server.base_url) as (client, _):
        response = await client.chat.completions.with_raw_response.create(**PAYLOAD)
    assert response.elapsed.total_seconds() > 0
