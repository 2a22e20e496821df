"""An answer in one piece came through a door as if it had been read: nothing knew how long it took, and nobody could
iterate over its raw bytes, as whoever passes it on does.
"""

import asyncio
import pickle
from importlib import import_module

import pytest
from doors import QUICK, SAY, SDKS, door
from sockets import BODY, answer, served
from table_test import table_test

PAYLOAD = {"model": "m", "messages": SAY}
libraries = table_test("name", ["httpx2", "httpx"])


def clients(name):
    lib, ours = import_module(name), import_module(f"stormbreak.{name}")
    awaits = lib.AsyncClient(transport=ours.AsyncTransport(QUICK))
    return awaits, lib.Client(transport=ours.Transport(QUICK))


@libraries
async def test_it_knows_how_long_it_took(name):
    async with served([0.05, answer()]) as server:
        awaits, blocks = clients(name)
        url = f"{server.base_url}/chat/completions"
        async with awaits:
            came = [await awaits.post(url, json=PAYLOAD)]
        with blocks:
            came.append(await asyncio.to_thread(blocks.post, url, json=PAYLOAD))
    for said in came:
        assert said.elapsed.total_seconds() >= 0.05
        assert (said.is_closed, said.is_stream_consumed) == (True, True)
        assert (said.content, said.json()["usage"]) == (BODY, {})
        assert pickle.loads(pickle.dumps(said)).content == BODY


@libraries
async def test_its_raw_bytes_can_be_passed_on(name):
    async with served() as server:
        awaits, blocks = clients(name)
        url = f"{server.base_url}/chat/completions"
        async with awaits, awaits.stream("POST", url, json=PAYLOAD) as said:
            assert not said.is_closed
            assert b"".join([piece async for piece in said.aiter_raw()]) == BODY

        def raw():
            with blocks, blocks.stream("POST", url, json=PAYLOAD) as said:
                return b"".join(said.iter_raw())

        assert await asyncio.to_thread(raw) == BODY


@libraries
async def test_what_was_closed_unread_or_passed_on_is_not_read_again(name):
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


async def test_an_sdk_tells_how_long_it_took():
    async with served() as server, door(SDKS[0], server.base_url) as (client, _):
        said = await client.chat.completions.with_raw_response.create(**PAYLOAD)
    assert said.elapsed.total_seconds() > 0
