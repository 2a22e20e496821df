"""Streams through the transport: their events, how they break, and that they leave nothing behind."""

import asyncio
import gc
import json
import time
import warnings

import anthropic
import httpx2
import openai
import pytest
from sdk_clients import MESSAGE, QUICK, SAY, SDKS, each_sdk, in_flight, sdk_client, until
from sdk_stream_events import HEAD, chunk, event, hello
from sockets import BODY, EVENTS, End, answer, failing, served
from table_test import table_test


def early_error(sdk):
    error = {"type": "rate_limit_error", "message": "slower", "code": 429}
    if sdk.module is anthropic:
        return answer(event("error", error=error), **EVENTS)
    return answer(b"data: " + json.dumps({"error": error}).encode() + b"\n\n", **EVENTS)


@each_sdk
async def test_a_stream_is_read_to_its_end(stormbreak_provider, sdk):
    provider = stormbreak_provider("calm", speed=20)
    async with sdk_client(sdk, provider.base_url) as (client, transport):
        stream = await sdk.ask(client, stream=True)
        assert in_flight(transport) == 1
        assert len(await sdk.read(stream)) > 3
        assert in_flight(transport) == 0
        assert stream.response.headers["x-stormbreak-attempts"] == "1"
    assert provider.stats()["arrivals"] == 1


@table_test("kind", ["comments", "crlf", "cr", "no_done", "tiny_chunks"])
async def test_the_bytes_of_a_stream_are_unchanged(stormbreak_provider, kind):
    provider = stormbreak_provider(f'[[faults]]\nkind = "{kind}"\n', speed=20)
    payload = {"model": "m", "messages": SAY, "stream": True}
    url = f"{provider.base_url}/chat/completions"
    async with sdk_client(SDKS[0], provider.base_url) as (client, _), httpx2.AsyncClient() as bare:
        through = await client._client.post(url, json=payload)
        direct = await bare.post(url, json=payload)
    assert len(through.content) == len(direct.content)
    assert through.content[-14:] == direct.content[-14:]


@each_sdk
async def test_a_plain_answer_to_a_stream_request_becomes_events(sdk):
    """Without events an SDK would return a stream without text and without an error."""
    whole = MESSAGE if sdk.module is anthropic else answer()
    async with served(whole) as server, sdk_client(sdk, server.base_url) as (client, _):
        stream = await sdk.ask(client, stream=True)
        events = await sdk.read(stream)
        assert stream.response.headers["content-type"] == "text/event-stream"
    if sdk.module is anthropic:
        assert [each.type for each in events][-1] == "message_stop"
        assert [each.delta.text for each in events if each.type == "content_block_delta"] == [
            "fine"
        ]
    else:
        choice = json.loads(BODY)["choices"][0]
        assert [each.choices[0].delta.content for each in events] == [choice["message"]["content"]]
        assert events[0].choices[0].finish_reason == choice["finish_reason"]
    assert len(server.requests) == 1


@each_sdk
async def test_a_stream_without_an_end_raises(sdk):
    head = answer(hello(sdk), **EVENTS)
    async with served(head) as server, sdk_client(sdk, server.base_url) as (client, _):
        stream = await sdk.ask(client, stream=True)
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            await sdk.read(stream)
    assert len(server.requests) == 1


@table_test("finish", ["error", "abort", "insufficient_system_resource"])
async def test_a_stream_aborted_by_the_server_raises_before_its_end_marker(finish):
    """The SDK of openai stops at the marker, and would accept an incomplete answer."""
    end = chunk("", finish) + b"data: [DONE]\n\n"
    handed_over = asyncio.Event()
    script = [HEAD, chunk("hello"), lambda *_: handed_over.wait(), end, End.CLOSE]
    async with served(script) as server, sdk_client(SDKS[0], server.base_url) as (client, _):
        stream = await SDKS[0].ask(client, stream=True)
        handed_over.set()
        with pytest.raises(openai.APIConnectionError):
            await SDKS[0].read(stream)
    assert len(server.requests) == 1


@each_sdk
async def test_a_stream_is_retried_until_its_first_output(sdk):
    scripts = [failing(503), early_error(sdk), [HEAD, End.CLOSE], [HEAD, hello(sdk), End.HANG]]
    async with served(*scripts) as server, sdk_client(sdk, server.base_url) as (client, _):
        stream = await sdk.ask(client, stream=True)
        assert stream.response.headers["x-stormbreak-attempts"] == "4"
        await sdk.close(stream)
        await server.all_closed()
    assert len(server.requests) == 4


@each_sdk
async def test_an_error_before_any_output_has_its_status(sdk):
    async with served(early_error(sdk)) as server, sdk_client(sdk, server.base_url) as (client, _):
        with pytest.raises(sdk.module.RateLimitError, match="slower"):
            await sdk.ask(client, stream=True)
    assert len(server.requests) == QUICK.retry.max_attempts


@each_sdk
async def test_the_timeout_of_the_sdk_bounds_the_time_to_the_first_output(sdk):
    async with (
        served([HEAD, End.HANG]) as server,
        sdk_client(sdk, server.base_url, timeout=0.3, max_retries=1) as (client, _),
    ):
        began = time.monotonic()
        with pytest.raises(sdk.module.APITimeoutError):
            await sdk.ask(client, stream=True)
        assert time.monotonic() - began < 20
        await server.all_closed()
    assert len(server.requests) == 1


@each_sdk
async def test_the_timeout_of_the_sdk_bounds_silence_after_the_first_output(sdk):
    more = hello(SDKS[0]) if sdk.module is openai else event("ping")
    slow = [HEAD, hello(sdk), *[0.1, more] * 8, End.HANG]
    async with (
        served(slow) as server,
        sdk_client(sdk, server.base_url, timeout=0.5) as (client, _),
    ):
        stream = await sdk.ask(client, stream=True)
        began = time.monotonic()
        with pytest.raises((openai.APITimeoutError, httpx2.ReadTimeout)):
            await sdk.read(stream)
        assert time.monotonic() - began > 1.2
        await server.all_closed()


async def test_a_dropped_stream_frees_its_slot_and_connection():
    sdk = SDKS[0]
    async with (
        served([HEAD, hello(sdk), End.HANG]) as server,
        sdk_client(sdk, server.base_url) as (client, transport),
    ):
        stream = await sdk.ask(client, stream=True)
        with warnings.catch_warnings(action="ignore"):  # it may warn
            del stream
            gc.collect()
            await until(lambda: in_flight(transport) == 0)
        await server.all_closed()
