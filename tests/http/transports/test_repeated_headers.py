"""Repeated response headers reach the SDK unchanged and in order."""

import asyncio
from importlib import import_module

import pytest
from chat_stream import WHOLE
from sdk_clients import QUICK
from sockets import End, answer, served

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
COOKIES = ["a=1; Path=/", "b=2; Expires=Thu, 01 Jan 2099 00:00:00 GMT", "c=caf\u00e9"]
LINES = [
    *(f"set-cookie: {each}" for each in COOKIES),
    "vary: origin",
    "X-Stormbreak-Odd: 1",
    "Vary: accept",
]
WAYS = {
    "an answer": ("chat/completions", PAYLOAD),
    "a stream": ("chat/completions", PAYLOAD | {"stream": True}),
    "an error": ("embeddings", {"model": "m", "input": "hello"}),
    "pass through": ("images/generations", PAYLOAD),
}


def several(whole):
    """Return the answer with all the lines in its head."""
    head, _, body = whole.partition(b"\r\n\r\n")
    return b"\r\n".join([head, *(line.encode() for line in LINES), b"", b""]) + body


SCRIPTS = {
    "an answer": several(answer()),
    "a stream": [
        several(answer(b"", content_type="text/event-stream", content_length=len(WHOLE))),
        WHOLE,
    ],
    "an error": several(answer(b'{"error":{"message":"no"}}', 400)),
    "pass through": several(answer()),
}


@pytest.fixture(params=["awaits", "blocks"])
def post(lib, request, over):
    """Send one request through our transport, of either kind."""
    ours = import_module(f"stormbreak.{lib.__name__}")

    async def awaits(url, payload):
        inner = lib.AsyncHTTPTransport() if over == "inner" else None
        async with lib.AsyncClient(transport=ours.AsyncTransport(QUICK, inner=inner)) as http:
            return await http.post(url, json=payload), dict(http.cookies)

    def at_once(url, payload):
        inner = lib.HTTPTransport() if over == "inner" else None
        with lib.Client(transport=ours.Transport(QUICK, inner=inner)) as http:
            return http.post(url, json=payload), dict(http.cookies)

    async def blocks(url, payload):
        return await asyncio.to_thread(at_once, url, payload)

    return awaits if request.param == "awaits" else blocks


@pytest.mark.parametrize("way", WAYS)
async def test_repeated_headers_are_passed_on_unchanged(post, way):
    path, payload = WAYS[way]
    async with served(SCRIPTS[way]) as server:
        response, cookie_jar = await post(f"{server.base_url}/{path}", payload)
    assert response.headers.get_list("vary") == ["origin", "accept"]
    cookies = [value for name, value in response.headers.raw if name.lower() == b"set-cookie"]
    assert cookies == [each.encode() for each in COOKIES]
    assert {"a": "1", "b": "2"}.items() <= cookie_jar.items()


async def test_our_own_header_replaces_repeated_ones(post):
    twice = answer().replace(
        b"\r\n\r\n", b"\r\nx-should-retry: true\r\nx-should-retry: true\r\n\r\n", 1
    )
    async with served(twice) as server:
        response, _ = await post(f"{server.base_url}/chat/completions", PAYLOAD)
    assert response.headers.get_list("x-should-retry") == ["false"]


async def test_a_repeated_location_header_is_removed(post, over):
    there = b"\r\nlocation: http://elsewhere.invalid/x\r\nlocation: /v1/there\r\n\r\n"
    async with served([answer(status=302).replace(b"\r\n\r\n", there, 1), End.CLOSE]) as server:
        response, _ = await post(f"{server.base_url}/files", PAYLOAD)
    assert all("elsewhere" not in each for each in response.headers.get_list("location"))
