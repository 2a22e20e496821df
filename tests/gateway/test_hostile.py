"""Malicious clients and providers do not affect other clients, and cannot inject headers, bodies or log lines."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from gateways import CHAT, KEY, running, settings, upstream
from table_test import table_test

from stormbreak.http.h1.server_connection import ServerResponse

SLOW = 200  # connections that are slow on purpose
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
BODY = HEAD + b"Authorization: Bearer %b\r\nContent-Length: 1000\r\n\r\n{" % KEY.encode()


async def trickle(port, start):
    """Send a byte now and then; return what the gateway sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    reading = asyncio.create_task(reader.read())
    while not reading.done():
        writer.write(b"x")
        await asyncio.wait({reading}, timeout=0.05)
    writer.close()
    return reading.result()


@pytest.mark.parametrize("start", [HEAD, BODY], ids=["head", "body"])
async def test_slow_requests_get_a_408_and_delay_no_other_client(path, start):
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        server = gateway.gateway._server
        server.bounds = replace(server.bounds, head_timeout=0.5, min_body_rate=1e4)
        attacks = [asyncio.create_task(trickle(server.port, start)) for _ in range(SLOW)]
        asked = 0
        while not all(attack.done() for attack in attacks):
            began = time.monotonic()
            assert (await gateway.ask()).status == 200
            assert time.monotonic() - began < 60  # a busy machine is no failure
            asked += 1
        for attack in attacks:
            assert attack.result().startswith(b"HTTP/1.1 408 ")
        assert asked > 1
        assert len(provider.seen) == asked


@pytest.mark.parametrize(
    "value",
    [b"a\rb", b"a\nevil: b", b"a\r\n evil: b", b"a\x00evil"],
    ids=["CR", "LF", "fold", "NUL"],
)
async def test_a_header_of_a_provider_with_a_line_break_is_a_502(path, value):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: %b\r\n" % value
        writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, running(path, settings(url, top="[retry]\nmax_attempts = 1\n")) as gateway:
        reply = await gateway.ask()
    assert reply.status == 502
    assert "evil" not in reply.headers
    assert "x-request-id" not in reply.headers


async def test_a_client_header_with_a_line_break_is_rejected_and_not_sent(path):
    """An `anthropic-beta` that is not plain text is rejected before anything is sent."""
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        for value in ("a\rx-evil: b", "a\nx-evil: b", "a\r\n x-evil: b", "a\0b"):
            reply = await gateway.ask(headers=[f"anthropic-beta: {value}"])
            assert reply.status == 400
        assert provider.seen == []


@pytest.mark.parametrize(
    "extra",
    [
        '"model": "dear"',
        '"mod\\u0065l": "dear"',
        '"Model": "dear"',
        '"temperature": 0, "temperature": 1',
        '"Max_Tokens": 100000',
        '"\u017ftream": true',
        # a duplicate field, with as many commas as without
        '"a\\u002cb": 0, "model": "dear"',
        '"a,b": [0, 1], "model": "dear"',
        '"model": "dear, dear", "a": "b,"',
    ],
)
async def test_a_body_with_ambiguous_fields_is_rejected(path, extra):
    """A provider may take the first of two models, and the gateway checks the last."""
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        body = f'{{{extra}, "messages": [], "model": "smart"}}'.encode()
        reply = await gateway.ask(body)
        assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_body")
        assert provider.seen == []


@pytest.mark.parametrize("model", ["any\nforged line", "any\x00", "any\u2028", "any" + "x" * 1000])
async def test_a_model_name_of_a_client_cannot_forge_a_log_line(path, caplog, model):
    caplog.set_level("INFO")
    some = 'models = { "any*" = "main" }'
    text = settings("http://127.0.0.1:9/v1", gateway=some).replace('model = "storm-1"', "")
    async with running(path, text) as gateway:
        reply = await gateway.ask({"model": model, "messages": []})
    assert reply.status == 404
    lines = [record.getMessage() for record in caplog.records]
    assert any("404" in line for line in lines)
    assert all(line.isprintable() and len(line) < 300 for line in lines)


async def test_whitespace_around_a_client_key_is_ignored(path):
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        for header in (f"x-api-key: {KEY} \t ", f"x-api-key: \t{KEY}"):
            assert (await gateway.ask(key=None, headers=[header])).status == 200


@table_test("status", [600, 999])
@table_test("stream", [False, True])
async def test_an_upstream_status_outside_http_is_a_broken_answer(path, status, stream):
    """Found: the gateway passed it on."""
    once = "[retry]\nmax_attempts = 1\n"
    async with upstream() as provider, running(path, settings(provider.url, top=once)) as gateway:
        provider.reply = ServerResponse(status, json.dumps({"error": {"message": "odd"}}).encode())
        reply = await gateway.ask({**CHAT, "stream": stream})
    assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_broken")
    assert reply.headers["x-should-retry"] == "false"
