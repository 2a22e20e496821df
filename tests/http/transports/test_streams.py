"""Streams through the door: what of them comes, how they break, and that nothing of them stays behind."""

import asyncio
import gc
import json
import time
import warnings

import anthropic
import httpx2
import openai
import pytest
from door_streams import HEAD, chunk, event, hello
from doors import MESSAGE, QUICK, SAY, SDKS, door, each_sdk, in_flight, until
from sockets import BODY, EVENTS, End, answer, failing, served
from table_test import table_test


def early_error(sdk):
    error = {"type": "rate_limit_error", "message": "slower", "code": 429}
    if sdk.module is anthropic:
        return answer(event("error", error=error), **EVENTS)
    return answer(b"data: " + json.dumps({"error": error}).encode() + b"\n\n", **EVENTS)


@each_sdk
async def test_a_stream_comes_whole(stormbreak_provider, sdk):
    provider = stormbreak_provider("calm", speed=20)
    async with door(sdk, provider.base_url) as (client, transport):
        stream = await sdk.ask(client, stream=True)
        assert in_flight(transport) == 1
        assert len(await sdk.read(stream)) > 3
        assert in_flight(transport) == 0
        assert stream.response.headers["x-stormbreak-attempts"] == "1"
    assert provider.stats()["arrivals"] == 1


@table_test("kind", ["comments", "crlf", "cr", "no_done", "tiny_chunks"])
async def test_bytes_are_untouched(stormbreak_provider, kind):
    provider = stormbreak_provider(f'[[faults]]\nkind = "{kind}"\n', speed=20)
    payload = {"model": "m", "messages": SAY, "stream": True}
    url = f"{provider.base_url}/chat/completions"
    async with door(SDKS[0], provider.base_url) as (client, _), httpx2.AsyncClient() as bare:
        through = await client._client.post(url, json=payload)
        direct = await bare.post(url, json=payload)
    assert len(through.content) == len(direct.content)
    assert through.content[-14:] == direct.content[-14:]


@each_sdk
async def test_an_answer_in_one_piece_comes_as_events(sdk):
    """An SDK finds no events in it: its caller got a stream without text, and no error."""
    whole = MESSAGE if sdk.module is anthropic else answer()
    async with served(whole) as server, door(sdk, server.base_url) as (client, _):
        stream = await sdk.ask(client, stream=True)
        events = await sdk.read(stream)
        assert stream.response.headers["content-type"] == "text/event-stream"
    if sdk.module is anthropic:
        assert [each.type for each in events][-1] == "message_stop"
        assert [each.delta.text for each in events if each.type == "content_block_delta"] == [
            "fine"
        ]
    else:
        said = json.loads(BODY)["choices"][0]
        assert [each.choices[0].delta.content for each in events] == [said["message"]["content"]]
        assert events[0].choices[0].finish_reason == said["finish_reason"]
    assert len(server.requests) == 1


@each_sdk
async def test_a_stream_without_an_end_raises(sdk):
    head = answer(hello(sdk), **EVENTS)
    async with served(head) as server, door(sdk, server.base_url) as (client, _):
        stream = await sdk.ask(client, stream=True)
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            await sdk.read(stream)
    assert len(server.requests) == 1


@table_test("finish", ["error", "abort", "insufficient_system_resource"])
async def test_a_stream_that_the_server_aborted_raises_before_its_end_marker(finish):
    """The SDK of openai stops at the marker, and would take half an answer for a whole one."""
    end = chunk("", finish) + b"data: [DONE]\n\n"
    handed_over = asyncio.Event()
    script = [HEAD, chunk("hello"), lambda *_: handed_over.wait(), end, End.CLOSE]
    async with served(script) as server, door(SDKS[0], server.base_url) as (client, _):
        stream = await SDKS[0].ask(client, stream=True)
        handed_over.set()
        with pytest.raises(openai.APIConnectionError):
            await SDKS[0].read(stream)
    assert len(server.requests) == 1


@each_sdk
async def test_until_the_first_output_attempts_are_repeated(sdk):
    scripts = [failing(503), early_error(sdk), [HEAD, End.CLOSE], [HEAD, hello(sdk), End.HANG]]
    async with served(*scripts) as server, door(sdk, server.base_url) as (client, _):
        stream = await sdk.ask(client, stream=True)
        assert stream.response.headers["x-stormbreak-attempts"] == "4"
        await sdk.close(stream)
        await server.all_closed()
    assert len(server.requests) == 4


@each_sdk
async def test_an_error_before_any_output_has_its_status(sdk):
    async with served(early_error(sdk)) as server, door(sdk, server.base_url) as (client, _):
        with pytest.raises(sdk.module.RateLimitError, match="slower"):
            await sdk.ask(client, stream=True)
    assert len(server.requests) == QUICK.retry.max_attempts


@each_sdk
async def test_the_timeout_bounds_the_time_to_the_first_output(sdk):
    async with (
        served([HEAD, End.HANG]) as server,
        door(sdk, server.base_url, timeout=0.3, max_retries=1) as (client, _),
    ):
        began = time.monotonic()
        with pytest.raises(sdk.module.APITimeoutError):
            await sdk.ask(client, stream=True)
        assert time.monotonic() - began < 20
        await server.all_closed()
    assert len(server.requests) == 1


@each_sdk
async def test_and_then_only_silence(sdk):
    more = hello(SDKS[0]) if sdk.module is openai else event("ping")
    slow = [HEAD, hello(sdk), *[0.1, more] * 8, End.HANG]
    async with (
        served(slow) as server,
        door(sdk, server.base_url, timeout=0.5) as (client, _),
    ):
        stream = await sdk.ask(client, stream=True)
        began = time.monotonic()
        with pytest.raises((openai.APITimeoutError, httpx2.ReadTimeout)):
            await sdk.read(stream)
        assert time.monotonic() - began > 1.2
        await server.all_closed()


async def test_one_that_is_dropped_holds_nothing():
    sdk = SDKS[0]
    async with (
        served([HEAD, hello(sdk), End.HANG]) as server,
        door(sdk, server.base_url) as (client, transport),
    ):
        stream = await sdk.ask(client, stream=True)
        with warnings.catch_warnings(action="ignore"):  # it warns, unless its delivery goes first
            del stream
            gc.collect()
            await until(lambda: in_flight(transport) == 0)
        await server.all_closed()
