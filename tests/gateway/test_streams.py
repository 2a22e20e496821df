"""Streams through the gateway: passed on at once, retried before the first output, never with a false end."""

import asyncio
import json

import pytest
from gateways import (
    CHAT,
    KEY,
    PROVIDER_KEY,
    QUICK,
    read_reply,
    request_bytes,
    running,
    settings,
    until,
    upstream,
)
from table_test import table_test

from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.testing import answer_text

STREAM = {**CHAT, "stream": True}
MESSAGES = {**STREAM, "max_tokens": 100}
RESPONSES = {"model": "main", "input": "tell me", "stream": True}
FAST_RETRY = "[retry.backoff]\nkind = 'constant'\ninitial_delay = 0.01\n[retry_budget]\nratio = 1\n"


def chunk(text=None, **more):
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
    return (
        b"data: "
        + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode()
        + b"\n\n"
    )


STOP, DONE = chunk(finish_reason="stop"), b"data: [DONE]\n\n"
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
)


def streaming(*pieces, end=True):
    """Answer with a stream; a piece may be an asyncio event to wait for."""

    async def reply(request, connection):
        connection.begin(200, "text/event-stream", [("x-request-id", "req_1")])
        for piece in pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                connection.send(piece)
                await asyncio.sleep(0.002)
        connection.end() if end else connection.break_off()

    return reply


async def test_a_stream_passes_through_unchanged_and_at_once(path):
    go = asyncio.Event()
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = streaming(chunk("a"), go, b": comment\n\n", chunk("b"), STOP, DONE)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        assert b"x-request-id: req_1" in head
        assert b"x-stormbreak-attempts: 1" in head
        size = int(await reader.readline(), 16)
        assert await reader.readexactly(size) == chunk("a")
        go.set()
        rest = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert DONE in rest
        assert b": comment" in rest
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        again = await read_reply(reader)
        assert again.body == b"".join([chunk("a"), b": comment\n\n", chunk("b"), STOP, DONE])
        writer.close()
        assert provider.bodies[0] == {**STREAM, "model": "storm-1"}


@table_test(
    ("path_", "payload"),
    [
        ("/v1/chat/completions", STREAM),
        ("/v1/messages", MESSAGES),
        ("/v1/responses", RESPONSES),
    ],
)
async def test_a_stream_is_retried_until_its_first_output(
    path, stormbreak_provider, path_, payload
):
    first = '[[faults]]\nkind = "{}"\nrequests = [{}]\n'
    faults = "".join(first.format(kind, place) for place, kind in enumerate(("reset", "503"), 1))
    provider = stormbreak_provider(QUICK + faults)
    async with running(path, settings(provider.base_url, top=FAST_RETRY)) as gateway:
        reply = await gateway.ask(payload, path_, headers=["anthropic-version: 2023-06-01"])
    assert (reply.status, reply.ending) == (200, "kept")
    assert reply.headers["x-stormbreak-attempts"] == "3"


@table_test(
    ("path_", "payload"),
    [
        ("/v1/chat/completions", STREAM),
        ("/v1/messages", MESSAGES),
        ("/v1/responses", RESPONSES),
    ],
)
@table_test("kind", ["cut_body", "stall"])
async def test_a_broken_stream_ends_with_one_error_and_without_done(
    path, stormbreak_provider, kind, path_, payload
):
    provider = stormbreak_provider(QUICK + f'[[faults]]\nkind = "{kind}"\n')
    text = settings(provider.base_url, top="stall_timeout = 0.2\n")
    async with running(path, text) as gateway:
        reply = await gateway.ask(payload, path_, headers=["anthropic-version: 2023-06-01"])
        assert gateway.metric('outcomes_total{outcome="broken"}') == 1
    assert (reply.status, reply.ending) == (200, "cut")
    errors = [event for event in reply.events if '"error":{' in event]
    assert len(errors) == 1
    assert reply.events[-1] == errors[0]
    assert "[DONE]" not in reply.events


@pytest.mark.parametrize("again", [False, True])
async def test_done_is_not_sent_after_an_incomplete_stream(path, again):
    """An SDK stops at that marker, and would miss an error after it."""
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = streaming(chunk("a"), chunk("b"), DONE, *[DONE] * again)
        reply = await gateway.ask(STREAM)
    assert reply.ending == "cut"
    assert b"[DONE]" not in reply.body
    assert json.loads(reply.events[-1])["error"]["code"] == "stream_broken"


async def test_an_error_event_of_the_provider_is_replaced_by_our_own(path):
    """The error of the provider may repeat the key of the gateway."""
    error = {"error": {"message": f"bad key {PROVIDER_KEY}", "type": "server_error"}}
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = streaming(
            chunk("a"), chunk("b"), b"data: %b\n\n" % json.dumps(error).encode()
        )
        reply = await gateway.ask(STREAM)
    assert (len(reply.events), reply.ending) == (3, "cut")
    assert PROVIDER_KEY.encode() not in reply.body
    assert json.loads(reply.events[-1])["error"]["code"] == "stream_broken"


async def test_no_error_event_follows_an_incomplete_event(path):
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = streaming(chunk("a"), b'data: {"choices": [{"ind', end=False)
        reply = await gateway.ask(STREAM)
    assert reply.ending == "cut"
    assert reply.body == chunk("a") + b'data: {"choices": [{"ind'


async def test_a_client_that_does_not_read_pauses_the_provider(path):
    sent, enough = [], asyncio.Event()

    async def flood(request, connection):
        connection.begin(200, "text/event-stream", [])
        while not enough.is_set():
            connection.send(chunk("z" * 30_000))
            sent.append(1)
            await connection.drained()
        connection.send(STOP + DONE)
        connection.end()

    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = flood
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", gateway.gateway.port, limit=1 << 16
        )
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        await until(lambda: len(sent) > 20)
        reader._transport.pause_reading()
        before = 0
        while before < len(sent) < 4_000:  # kernel buffers may hold a thousand chunks
            before = len(sent)
            await asyncio.sleep(0.3)
        assert len(sent) < 4_000
        enough.set()
        reader._transport.resume_reading()
        reply = await read_reply(reader)
        assert reply.body.count(b"z" * 30_000) == len(sent)
        writer.close()


@pytest.mark.parametrize("mode", ["cancel", "finish"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_on_disconnect_cancels_or_finishes_the_call(path, mode, when):
    go, ended = asyncio.Event(), []

    async def reply(request, connection):
        try:
            if when == "after":
                connection.begin(200, "text/event-stream", [])
                connection.send(chunk("a"))
            await go.wait()
            if when == "before":
                connection.begin(200, "text/event-stream", [])
            connection.send(chunk("b") + STOP + DONE)
            connection.end()
            ended.append("whole")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    text = f'on_disconnect = "{mode}"'
    async with (
        upstream() as provider,
        running(path, settings(provider.url, gateway=text)) as gateway,
    ):
        provider.reply = reply
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        if when == "after":
            await reader.readuntil(b"\r\n\r\n")
        await until(lambda: provider.seen)
        writer.close()
        if mode == "finish":
            await asyncio.sleep(0.05)
            go.set()
        await until(lambda: ended)
        outcome = {"cancel": "left", "finish": "ok"}[mode]
        await until(lambda: gateway.metric(f'outcomes_total{{outcome="{outcome}"}}') == 1)
    assert ended == [{"cancel": "cancelled", "finish": "whole"}[mode]]


async def test_waiting_comments_are_sent_and_a_later_error_is_an_event(path):
    go = asyncio.Event()
    text = "waiting_comment = {}"
    async with (
        upstream() as provider,
        running(path, settings(provider.url, gateway=text.format(0.02))) as gateway,
    ):
        provider.reply = streaming(go, chunk("a"), STOP, DONE)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        for _ in range(2):
            await reader.readuntil(b": waiting\n\n")
        go.set()
        rest = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert [each in rest for each in (chunk("a"), STOP, DONE)] == [True] * 3
        writer.close()

        async def late(request, connection):
            await go.wait()
            connection.respond(bad)

        go.clear()
        bad = ServerResponse(400, b'{"error":{"message":"bad"}}')
        provider.reply = late
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        head = await reader.readuntil(b": waiting\n\n")
        go.set()
        rest = await reader.read()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b'"error"' in rest
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"\r\n0\r\n\r\n")
        writer.close()
    async with (
        upstream() as provider,
        running(path, settings(provider.url, gateway=text.format(60))) as gateway,
    ):
        provider.reply = bad
        assert (await gateway.ask(STREAM)).status == 400  # early enough for a status


async def test_usage_is_sent_only_if_the_client_requested_it(path):
    pieces = chunk("a"), STOP, USAGE[:9], USAGE[9:] + b"data: [DO", b"NE]\n\n"
    limits = "tpm = 100000\n"
    async with upstream() as provider, running(path, settings(provider.url, key=limits)) as gateway:
        provider.reply = streaming(*pieces)
        reply = await gateway.ask(STREAM)
        assert provider.bodies[-1]["stream_options"] == {"include_usage": True}
        assert reply.body == chunk("a") + STOP + DONE
        asked = {**STREAM, "stream_options": {"include_usage": True}}
        reply = await gateway.ask(asked)
        assert reply.body == chunk("a") + STOP + USAGE + DONE


async def test_a_plain_answer_to_a_stream_request_becomes_events(path):
    """Without events an SDK would return a stream without text and without an error."""
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        reply = await gateway.ask(STREAM)
    assert reply.headers["content-type"] == "text/event-stream"
    answer, done = reply.events
    assert json.loads(answer)["choices"][0]["delta"]["content"] == "Hello."
    assert done == "[DONE]"


async def test_a_plain_answer_may_be_streamed_from_the_provider(path, stormbreak_provider):
    provider = stormbreak_provider(QUICK)
    text = settings(provider.base_url).replace(
        'model = "storm-1"', 'model = "storm-1"\nstream_on_wire = true'
    )
    async with running(path, text) as gateway:
        reply = await gateway.ask()
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["choices"][0]["message"]["content"] == answer_text(
        {**CHAT, "model": "storm-1"}
    )


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection(
    path, stormbreak_provider
):
    provider = stormbreak_provider(QUICK)
    data = request_bytes("/v1/chat/completions", STREAM, key=KEY).replace(
        b"HTTP/1.1", b"HTTP/1.0", 1
    )
    async with running(path, settings(provider.base_url)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(data)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert b"transfer-encoding" not in head
    assert body.endswith(DONE)
