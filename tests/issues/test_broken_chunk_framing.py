"""Found by fuzzing: when the framing of a body breaks in its middle, aiohttp closes the connection and stops its idle
timer without an error. The call kept its permit and waited until its deadline, or without end if it had none.
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


async def test_a_malformed_chunk_breaks_a_plain_answer():
    script = [HEAD + chunked(b'{"choices": ['), LATER, NO_CHUNK]
    async with (
        served(script) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=ONCE) as client,
    ):
        with pytest.raises(BrokenAnswerError, match="body was cut"):
            await asyncio.wait_for(client.chat([]), PATIENCE)


@table_test("ways", ["plain", "stream"])
@table_test("end", [b"\nzz\r\n", [b"\n", End.CLOSE], [b"\n", End.RESET]])
async def test_a_malformed_chunk_right_after_a_chunk_breaks_the_answer(ways, end):
    """The end of a chunk wakes the reader without data; the reader must not wait again."""
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
async def test_a_malformed_chunk_breaks_a_stream(begun):
    first = chunk("Hello") if begun else chunk("", role="assistant")
    script = [HEAD + chunked(first), LATER, NO_CHUNK]
    async with (
        served(script) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=ONCE) as client,
    ):
        with pytest.raises(StreamBrokenError if begun else BrokenAnswerError, match="body was cut"):
            async with asyncio.timeout(PATIENCE), client.stream("chat/completions", {}) as stream:
                await stream.answer()


async def test_a_silent_body_is_a_timeout_and_not_a_cut_body():
    """The error must be the silence, not a cut body."""
    policy = Policy(retry=RetryPolicy(max_attempts=1), idle_timeout=0.05)
    async with (
        served([HEAD + chunked(b"{"), 5.0]) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=policy) as client,
    ):
        with pytest.raises(Exception, match="went silent"):
            await asyncio.wait_for(client.chat([]), PATIENCE)
