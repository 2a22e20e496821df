"""Escaped characters of a URL were escaped again, so a server that checks a signature would reject the request."""

import httpx2
import pytest
from sdk_clients import QUICK, SAY
from sockets import served

from stormbreak.httpx2 import AsyncTransport

PAYLOAD = {"model": "m", "messages": SAY}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/model/a%3A0/invoke",
        "/v1/files/a%2Fb%20c%7E?x=a%2Bb&y=%3A&z=a+b&e=",
        "/v1/a%3Ab/chat/completions?k=%3A",
    ],
)
async def test_an_escaped_url_is_sent_unchanged(path):
    async with (
        served() as server,
        httpx2.AsyncClient(transport=AsyncTransport(QUICK)) as client,
    ):
        await client.post(f"http://127.0.0.1:{server.port}{path}", json=PAYLOAD)
    assert server.requests[0].line == f"POST {path} HTTP/1.1"
