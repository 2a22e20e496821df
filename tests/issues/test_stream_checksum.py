"""Found by fuzzing: a piece of a compressed stream was duplicated. It could be decompressed and had a valid end, so it
counted as an answer. Only the checksum after that end showed the error.
"""

import gzip

import httpx2
import pytest
from chat_stream import DONE, HELLO, STOP, THERE
from clients import PAYLOAD, client_of
from sockets import EVENTS, End, answer, served

from stormbreak.errors import BrokenAnswerError, StreamBrokenError
from stormbreak.httpx2 import AsyncTransport

PACKED = gzip.compress(HELLO + THERE + STOP + DONE)
WRONG = bytes([PACKED[-8] ^ 1])
CORRUPT = PACKED[:-8] + WRONG + PACKED[-7:]
HEAD = answer(b"", **EVENTS | {"content_encoding": "gzip", "content_length": len(PACKED)})


@pytest.mark.parametrize("together", [True, False])
async def test_a_stream_with_a_wrong_checksum_is_broken(together):
    script = (HEAD, CORRUPT) if together else (HEAD, CORRUPT[:-8], 0.05, CORRUPT[-8:])
    async with served(script) as server, client_of(server) as client:
        with pytest.raises((StreamBrokenError, BrokenAnswerError)):
            async with client.stream("chat/completions", PAYLOAD) as stream:
                _ = [text async for text in stream.texts()]


async def test_a_stream_with_a_wrong_checksum_is_broken_over_an_inner_transport():
    inner = AsyncTransport(inner=httpx2.AsyncHTTPTransport())
    payload = PAYLOAD | {"model": "m", "stream": True}
    async with served((HEAD, CORRUPT)) as server, httpx2.AsyncClient(transport=inner) as http:
        with pytest.raises(httpx2.HTTPError, match="body cannot be decompressed"):
            await http.post(f"{server.base_url}/chat/completions", json=payload)


async def test_a_compressed_stream_without_its_checksum_is_an_answer():
    script = (HEAD, PACKED[:-8], End.CLOSE)
    async with (
        served(script) as server,
        client_of(server) as client,
        client.stream("chat/completions", PAYLOAD) as stream,
    ):
        texts = [text async for text in stream.texts()]

    assert "".join(texts) == "hello there"
