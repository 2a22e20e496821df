"""Found by fuzzing: where the framing of a body fails in its middle, aiohttp closes the connection, stops its timer of
silence, and tells nobody. The call waited until its deadline, with its permit, and one without a deadline for ever.
"""

import asyncio

import pytest
from sockets import PATIENCE, End, served
from streamed import chunk
from table_test import table_test

from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import BrokenAnswerError, StreamBrokenError
from stormbreak.http.client import AsyncClient

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
LATER = 0.02  # seconds, so that the head has been read
NO_CHUNK = b"zz\r\nno chunk\r\n"
ONCE = Policy(retry=RetryPolicy(max_attempts=1), deadline=None, attempt_timeout=None)


def chunked(body):
    return b"%x\r\n%s\r\n" % (len(body), body)


async def test_of_a_plain_answer():
    script = [HEAD + chunked(b'{"choices": ['), LATER, NO_CHUNK]
    async with (
        served(script) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=ONCE) as client,
    ):
        with pytest.raises(BrokenAnswerError, match="body was cut"):
            await asyncio.wait_for(client.chat([]), PATIENCE)


@table_test("ways", ["plain", "stream"])
@table_test("end", [b"\nzz\r\n", [b"\n", End.CLOSE], [b"\n", End.RESET]])
async def test_where_the_end_of_a_chunk_comes_with_it(ways, end):
    """The end of a chunk wakes whoever reads, with nothing to read: it must not go on waiting."""
    script = [HEAD + chunked(b"{")[:-1], LATER, *([end] if isinstance(end, bytes) else end)]
    async with (
        served(script) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=ONCE) as client,
    ):
        asking = client.chat([]) if ways == "plain" else client.stream("chat/completions", {})
        with pytest.raises(BrokenAnswerError, match="body was cut"):
            async with asyncio.timeout(PATIENCE):
                await asking


@pytest.mark.parametrize("begun", [True, False])
async def test_of_a_stream(begun):
    first = chunk("Hello") if begun else chunk("", role="assistant")
    script = [HEAD + chunked(first), LATER, NO_CHUNK]
    async with (
        served(script) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=ONCE) as client,
    ):
        with pytest.raises(StreamBrokenError if begun else BrokenAnswerError, match="body was cut"):
            async with asyncio.timeout(PATIENCE), client.stream("chat/completions", {}) as stream:
                await stream.answer()


async def test_silence_in_a_body_is_still_a_timeout():
    """Who hears first of it must not hear that the body was cut."""
    policy = Policy(retry=RetryPolicy(max_attempts=1), idle_timeout=0.05)
    async with (
        served([HEAD + chunked(b"{"), 5.0]) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=policy) as client,
    ):
        with pytest.raises(Exception, match="went silent"):
            await asyncio.wait_for(client.chat([]), PATIENCE)
