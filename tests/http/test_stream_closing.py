"""Streams that are cancelled, closed or dropped, or outlive their loop, leave nothing behind."""

import asyncio
import warnings

import pytest
from chat_stream import (
    CUT,
    DONE,
    ENDLESS,
    HELLO,
    OPENING,
    STOP,
    WHOLE_ANSWER,
)
from clients import PAYLOAD, target_state_of
from sockets import End
from stream_scene import pieces_of

from stormbreak.errors import (
    StreamBrokenError,
    UpstreamError,
)
from stormbreak.http.client import AsyncClient
from stormbreak.types import Usage


async def test_a_cancel_while_reading_closes_the_connection(scene):
    await scene.of((CUT, End.HANG))
    stream = await scene.stream()
    reading = asyncio.create_task(pieces_of(stream))
    await asyncio.sleep(0.05)
    assert scene.in_flight == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert scene.in_flight == 0
    await scene.server.all_closed()
    with pytest.raises(RuntimeError, match="closed"):
        await anext(stream)


async def test_a_cancel_while_opening_closes_the_connection(scene):
    await scene.of((ENDLESS + OPENING, End.HANG))
    opening = asyncio.ensure_future(scene.stream())
    await scene.server.asked()
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await scene.server.all_closed()


async def test_closing_a_stream_is_idempotent_and_counts_no_outcome(scene):
    await scene.of((CUT, End.HANG))
    async with scene.stream() as stream:
        assert await anext(stream.texts()) == "hello"
        await stream.aclose()
        assert scene.in_flight == 0
    await stream.aclose()
    await scene.server.all_closed()
    assert target_state_of(scene.client).admission.service == 0.0
    with pytest.raises(RuntimeError, match="closed"):
        await anext(stream.texts())
    assert "closed" in repr(stream)


async def test_a_stream_read_to_its_end_marker_is_a_success(scene):
    await scene.of((ENDLESS + OPENING + HELLO + STOP + DONE, End.HANG))
    async with scene.stream() as stream:
        await anext(stream)
    assert target_state_of(scene.client).admission.service > 0.0
    assert stream.usage == Usage(input_tokens=3, output_tokens=2)


async def test_a_dropped_stream_is_closed_with_a_warning(scene):
    await scene.of((CUT, End.HANG))
    stream = await scene.stream()
    with pytest.warns(ResourceWarning, match="never closed"):
        del stream
    assert scene.in_flight == 0
    await scene.server.all_closed()


async def test_an_ended_stream_may_be_dropped_without_a_warning(scene):
    await scene.of(WHOLE_ANSWER, (CUT, End.CLOSE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = await scene.stream()
        await stream.answer()
        del stream
        stream = await scene.stream()
        with pytest.raises(UpstreamError):
            await stream.answer()
        del stream


async def test_closing_the_client_breaks_its_streams(scene):
    await scene.of((CUT, End.HANG))
    async with scene.stream() as stream:
        await scene.client.close()
        with pytest.raises(StreamBrokenError):
            await pieces_of(stream)


def test_a_stream_that_outlives_its_loop_frees_its_slot(stormbreak_provider):
    client = AsyncClient(base_url=stormbreak_provider(speed=50).base_url, model="m")

    async def open_one():
        return await client.stream("chat/completions", PAYLOAD)

    stream = asyncio.run(open_one())
    assert target_state_of(client).slots.in_flight == 1
    asyncio.run(stream.aclose())
    assert target_state_of(client).slots.in_flight == 0
    dropped = asyncio.run(open_one())
    with pytest.warns(ResourceWarning, match="never closed"):
        del dropped
    assert target_state_of(client).slots.in_flight == 0
