"""Found by review: a 401 whose body was cut, silent or badly compressed was a broken answer and was retried, and such a
429 lost its Retry-After. The head of an error decides, independent of its body.
"""

import asyncio
import json

import pytest
from clients import KEY, ONCE, PAYLOAD, THRICE, client_of
from sockets import CHUNKED, End, failing, served

from stormbreak.errors import AuthenticationError, OverloadedError, RedirectedError, ThrottledError
from stormbreak.http.h1 import connection
from stormbreak.types import Verdict

LATER = 0.02  # seconds, so that the head has been read
CUT = {"content_length": 500}


async def plain(client):
    await client.request("chat/completions", PAYLOAD)


async def assembled(client):
    await client.request("chat/completions", PAYLOAD | {"stream": True})


async def handed_over(client):
    async with client.stream("chat/completions", PAYLOAD) as stream:
        await stream.answer()


WAYS = pytest.mark.parametrize("ask", [plain, assembled, handed_over])


@WAYS
@pytest.mark.parametrize(
    "script",
    [
        [failing(401, **CUT), End.CLOSE],
        [failing(401, **CUT), End.RESET],
        [failing(401, **CUT), End.HANG],
        [failing(401, content_encoding="gzip")],
        [failing(401, content_encoding="br")],
        [CHUNKED.replace(b"200 OK", b"401 No"), LATER, b"zz\r\n"],
    ],
    ids=["cut", "reset", "silent", "no gzip", "another encoding", "no chunk"],
)
async def test_a_final_error_with_a_missing_body_is_not_retried(monkeypatch, ask, script):
    monkeypatch.setattr(connection, "ERROR_SILENCE", 0.1)
    async with served(script) as server, client_of(server, THRICE, api_key=KEY) as client:
        with pytest.raises(AuthenticationError):
            await asyncio.wait_for(ask(client), 30.0)
        await client.close()
        await server.all_closed()
        assert len(server.requests) == 1


@WAYS
@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (307, {"location": "https://elsewhere.example/v1"}, RedirectedError),
        (429, {}, ThrottledError),
        (503, {}, OverloadedError),
    ],
)
async def test_the_status_decides_an_error_with_a_cut_body(ask, status, headers, error):
    script = [failing(status, **headers, **CUT), End.CLOSE]
    async with served(script) as server, client_of(server, ONCE) as client:
        with pytest.raises(error):
            await ask(client)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_429_with_a_cut_body_keeps_its_retry_after(streams):
    body = json.dumps({"model": "m", "messages": [], "stream": streams}).encode()
    script = [failing(429, retry_after=30, **CUT), End.CLOSE]
    async with served(script) as server, client_of(server, ONCE) as client:
        ended = await client.ask("chat/completions", body)

    assert (ended.outcome.verdict, ended.outcome.retry_after) == (Verdict.THROTTLED, 30.0)


@WAYS
async def test_the_received_part_of_an_error_body_is_read(ask):
    script = [failing(429, {"code": "insufficient_quota"}, **CUT), End.CLOSE]
    async with served(script) as server, client_of(server, THRICE) as client:
        with pytest.raises(Exception, match="billing"):
            await ask(client)
        assert len(server.requests) == 1
