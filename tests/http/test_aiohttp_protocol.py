"""The next bytes of a body: all that came, then its end, or what it failed with."""

import asyncio

import aiohttp
import pytest

from stormbreak.http.h1.aiohttp_connection import next_bytes, protocol

CUT = aiohttp.ClientPayloadError("cut")


@pytest.fixture
async def content():
    loop = asyncio.get_running_loop()
    return aiohttp.StreamReader(protocol(loop), 2**16, loop=loop)


async def test_all_that_came_and_then_the_end(content):
    content.feed_data(b"one ")
    content.feed_data(b"two")
    content.feed_eof()
    assert await next_bytes(content) == b"one two"
    assert await next_bytes(content) == b""


async def test_what_came_is_read_before_a_failure_is_told(content):
    content.feed_data(b"half")
    content.set_exception(CUT)
    assert await next_bytes(content) == b"half"
    with pytest.raises(aiohttp.ClientPayloadError):
        await next_bytes(content)


async def test_a_failure_is_told_although_the_end_has_come(content):
    content.feed_eof()
    content.set_exception(CUT)
    with pytest.raises(aiohttp.ClientPayloadError):
        await next_bytes(content)
