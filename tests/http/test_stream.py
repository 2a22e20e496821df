"""Streams to the caller, in each way of reading."""

import asyncio
import json

import pytest
from chat_stream import (
    DONE,
    ENDLESS,
    HEAD,
    HELLO,
    OPENING,
    STOP,
    THERE,
    WHOLE,
    WHOLE_ANSWER,
)
from clients import PAYLOAD
from sockets import EVENTS, End, answer
from stream_scene import pieces_of

from stormbreak.http.client import AsyncClient
from stormbreak.testing import answer_text
from stormbreak.types import Usage


async def test_a_stream_yields_events_and_its_usage(scene):
    await scene.of(WHOLE_ANSWER)
    async with scene.stream() as stream:
        assert (stream.status, stream.attempts, stream.usage) == (200, 1, None)
        events = await pieces_of(stream)

    texts = [event.json()["choices"][0]["delta"].get("content") for event in events]
    assert texts == [None, "hello", " there", ""]
    assert stream.usage == Usage(input_tokens=3, output_tokens=2)
    assert repr(events[1]) == f"StreamEvent('', {len(events[1].data)} bytes)"
    assert await pieces_of(stream) == []


async def test_texts_yields_the_text_of_each_event(scene):
    await scene.of(WHOLE_ANSWER)
    async with scene.stream() as stream:
        assert await pieces_of(stream.texts()) == ["hello", " there"]


async def test_raw_yields_the_bytes_of_the_server_unchanged(scene):
    odd = OPENING.replace(b"\n", b"\r\n") + b": a comment\n\n" + WHOLE[len(OPENING) :]
    pieces = [odd[at : at + 7] for at in range(0, len(odd), 7)]
    await scene.of((answer(b"", **EVENTS | {"content_length": len(odd)}), *pieces))
    async with scene.stream() as stream:
        assert b"".join(await pieces_of(stream.raw())) == odd


async def test_answer_assembles_the_stream(scene):
    await scene.of(WHOLE_ANSWER)
    stream = await scene.stream()
    got = await stream.answer()

    assert (got.text, got.usage.output_tokens, got.attempts) == ("hello there", 2, 1)
    assert json.loads(got.raw)["choices"][0]["finish_reason"] == "stop"
    assert (await stream.answer()).text == got.text


async def test_events_are_yielded_before_the_answer_is_complete(scene):
    go = asyncio.Event()

    async def wait(*_):
        await go.wait()

    await scene.of((HEAD + OPENING, HELLO, wait, THERE + STOP + DONE))
    async with scene.stream() as stream:
        texts = stream.texts()
        assert await anext(texts) == "hello"
        assert scene.in_flight == 1
        go.set()
        assert await pieces_of(texts) == [" there"]
        assert scene.in_flight == 0


@pytest.mark.parametrize("way", ["events", "texts", "raw", "answer"])
async def test_a_plain_answer_is_read_in_each_way(scene, way):
    await scene.of(answer())
    async with scene.stream() as stream:
        if way == "events":
            (event,) = await pieces_of(stream)
            assert event.json()["choices"][0]["message"]["content"] == "fine"
        elif way == "texts":
            assert await pieces_of(stream.texts()) == ["fine"]
        elif way == "raw":
            assert json.loads(b"".join(await pieces_of(stream.raw())))["choices"]
        else:
            assert (await stream.answer()).text == "fine"


async def test_a_stream_without_output_is_valid(scene):
    nothing = OPENING + STOP + DONE
    await scene.of(HEAD.replace(str(len(WHOLE)).encode(), str(len(nothing)).encode()) + nothing)
    async with scene.stream() as stream:
        assert await pieces_of(stream.texts()) == []
    assert stream.usage.input_tokens == 3


async def test_the_client_reads_streams_of_the_embedded_provider(stormbreak_provider):
    async with (
        AsyncClient(base_url=stormbreak_provider(speed=50).base_url, model="m") as client,
        client.stream("chat/completions", PAYLOAD) as stream,
    ):
        text = "".join(await pieces_of(stream.texts()))

    assert text == answer_text(PAYLOAD | {"model": "m"})
    assert stream.usage.output_tokens > 0
    assert stream.request_id


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": False}),
        ({"stream_options": None}, "none"),
        ({"stream": False}, {"include_usage": True}),
    ],
)
async def test_a_stream_requests_usage_unless_the_payload_decides(scene, given, options):
    await scene.of(WHOLE_ANSWER)
    async with scene.stream(**given) as stream:
        await stream.answer()
    (request,) = scene.server.requests
    body = json.loads(request.body)

    assert (body["stream"], body.get("stream_options", "none")) == (True, options)
    assert request.headers["accept"] == "text/event-stream"


async def test_a_connection_is_reused_after_a_complete_stream(scene):
    await scene.of(WHOLE_ANSWER)
    for _ in range(3):
        async with scene.stream() as stream:
            await pieces_of(stream)

    assert [request.connection for request in scene.server.requests] == [1, 1, 1]


async def test_a_complete_stream_does_not_wait_for_the_end_of_the_body(scene, monkeypatch):
    monkeypatch.setattr("stormbreak.http.response.GRACE", 0.05)
    await scene.of((ENDLESS + WHOLE, End.HANG))
    async with scene.stream() as stream:
        assert await pieces_of(stream.texts()) == ["hello", " there"]
    await scene.server.all_closed()


async def test_a_stream_allows_one_way_of_reading_and_one_reader(scene):
    await scene.of((ENDLESS + OPENING + HELLO, End.HANG))
    async with scene.stream() as stream:
        texts = stream.texts()
        assert await anext(texts) == "hello"
        for other in (stream.raw, stream.__aiter__):
            with pytest.raises(RuntimeError, match="read as texts"):
                other()
        reading = asyncio.ensure_future(anext(texts))
        await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(texts)
        reading.cancel()
