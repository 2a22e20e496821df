"""Law 15. A success is the answer to that very call: surplus bytes of a server never reach another call."""

import asyncio
import json
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections import deque
from importlib import import_module

import h11
import pytest
from doubles import PAUSE, Doubles, ask_all
from sdk_clients import ONCE
from sockets import answer, served, tls
from table_test import table_test
from wrapped import INNER, OWN_BLOCKING, WRAPPED, asking, inner_of

from stormbreak.http.transports.wrapped_body import TO_QUEUE, _follow, parser_of

READ_AT_ONCE = 65536  # bytes
OFTEN = 0.15  # of the answers are sent twice


def content(text):
    message = {"message": {"content": text, "role": "assistant"}, "finish_reason": "stop"}
    return json.dumps({"choices": [message]}).encode()


WAYS = [None, OWN_BLOCKING, *INNER, *WRAPPED]
each_way = table_test("way", WAYS)


@each_way
async def test_a_duplicate_response_in_one_write_never_reaches_the_next_call(way):
    doubles, calls = Doubles(1, share=OFTEN), 200 if way is None else 40
    async with served([doubles]) as server:
        answered, failed = await ask_all(server.base_url, calls=calls, at_once=10, way=way)

    assert (answered, failed) == (calls, [])
    assert doubles.twice > 3


@pytest.mark.parametrize("way", INNER, ids=str)
async def test_a_duplicate_response_through_tls_never_reaches_the_next_call(way, certificates):
    trusted, _ = certificates
    doubles, verify = Doubles(1, share=OFTEN), ssl.create_default_context(cafile=trusted[0])
    async with served([doubles], ssl=tls(trusted)) as server:
        url = f"https://localhost:{server.port}/v1"
        answered, failed = await ask_all(url, calls=40, at_once=5, way=way, verify=verify)

    assert (answered, failed) == (40, [])
    assert doubles.twice > 3


@pytest.mark.parametrize("way", INNER, ids=str)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_duplicate_behind_the_read_buffer_never_reaches_the_next_call(
    way, encrypted, certificates
):
    """64 KiB of the first answer fill one read, so that the second stays in another buffer."""
    trusted, _ = certificates
    more = READ_AT_ONCE - len(answer(content("x" * 10_000)))  # its length has five digits, too
    whole = answer(content("x" * (10_000 + more)))
    assert len(whole) == READ_AT_ONCE
    records = [whole + answer(content("stale")), 0.01]
    options = {"ssl": tls(trusted)} if encrypted else {}
    async with served(records, answer(content("fresh")), **options) as server:
        url = f"https://localhost:{server.port}/v1" if encrypted else server.base_url
        verify = ssl.create_default_context(cafile=trusted[0])
        async with asking(way, url, ONCE, verify=verify) as ask:
            assert (await ask("hi"))[:1] == "x"
            assert await ask("hi") == "fresh"
    assert [each.connection for each in server.requests] == [1, 2]


@each_way
async def test_a_duplicate_response_while_idle_never_reaches_the_next_call(way):
    doubles, calls = Doubles(1, late=20, share=OFTEN), 100 if way is None else 60
    async with served([doubles]) as server:
        answered, failed = await ask_all(
            server.base_url, calls=calls, at_once=20, pause=PAUSE, way=way
        )

    assert (answered, failed) == (calls, [])
    assert doubles.later >= 2


@table_test("way", INNER)
async def test_clean_connections_are_reused(way):
    async with (
        served(answer(content("fine"))) as server,
        asking(way, server.base_url, ONCE) as ask,
    ):
        for _ in range(3):
            await ask("hi")
    assert [each.connection for each in server.requests] == [1, 1, 1]


@table_test("way", INNER)
async def test_the_libraries_have_the_private_attributes_that_we_read(way):
    """All private attributes that `inner_connection` reads."""
    inner = inner_of(way)
    lib = import_module(way.lib)
    async with served() as server:
        request = lib.Request("GET", server.base_url)
        if way.blocks:
            response = await asyncio.to_thread(inner.handle_request, request)
        else:
            response = await inner.handle_async_request(request)
        assert isinstance(parser_of(response), h11.Connection)
        stream = response.extensions["network_stream"]
        assert isinstance(stream.get_extra_info("socket"), socket.socket | TransportSocket)
        if way.blocks:
            inner.close()
        else:
            assert isinstance(_follow(stream._stream, TO_QUEUE), deque)
            await inner.aclose()
