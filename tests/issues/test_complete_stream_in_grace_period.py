"""A server sends everything up to `[DONE]` and keeps the connection open. A deadline, a cancel or a drop in the grace
period after that lost a complete and paid answer.
"""

import asyncio
import gc
import json
import warnings
from dataclasses import replace

import pytest
from clients import ONCE, SAY, client_of
from sockets import CHUNKED, End, served
from streamed import DONE, chat, chunk, event, message, response
from table_test import table_test

from stormbreak.errors import StreamBrokenError, UpstreamError
from stormbreak.events import CallCancelled, CallEnded
from stormbreak.http.response import StreamedBody

FORMATS = {"chat/completions": chat, "messages": message, "responses": response}
TEXTS = ["Hello", " there"]


def chunked(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def kept_open(*events):
    return [CHUNKED, chunked(b"".join(events)), End.HANG]


@pytest.fixture(autouse=True)
def _long_grace(monkeypatch):
    monkeypatch.setattr("stormbreak.http.response.GRACE", 30.0)


@pytest.fixture
def whole(monkeypatch):
    """Is set when a client has read an answer to its end."""
    event_, feed = asyncio.Event(), StreamedBody._feed

    def feed_and_note(self, chunk, reader):
        feed(self, chunk, reader)
        if reader.whole:
            event_.set()

    monkeypatch.setattr(StreamedBody, "_feed", feed_and_note)
    return event_


def end_events(client):
    ends = []
    client.engine.listeners.append(
        lambda event_: (
            ends.append(event_) if isinstance(event_, CallEnded | CallCancelled) else None
        )
    )
    return ends


def assert_settled(ends):
    (end,) = ends
    assert isinstance(end, CallEnded), end
    assert end.verdict == "ok"
    assert end.usage.output_tokens


async def read_to_the_end(stream, seen):
    async for _ in stream:
        seen.set()


@table_test("endpoint", FORMATS)
@table_test("way", ["events", "answer", "late answer"])
async def test_a_deadline_in_the_grace_period_returns_the_streamed_answer(endpoint, way):
    async with served(kept_open(*FORMATS[endpoint](TEXTS))) as server, client_of(server) as client:
        ends = end_events(client)
        async with asyncio.timeout(20), client.stream(endpoint, {}, deadline=0.5) as stream:
            if way == "events":
                assert "".join([text async for text in stream.texts()]) == "Hello there"
            else:
                if way == "late answer":
                    await asyncio.sleep(0.8)
                assert (await stream.answer()).text == "Hello there"
        assert stream.usage.output_tokens
        await server.all_closed()
        assert_settled(ends)


@pytest.mark.parametrize("on_wire", [True, False])
async def test_a_deadline_in_the_grace_period_returns_the_answer_of_a_call(on_wire):
    more = {} if on_wire else {"stream": True}
    async with (
        served(kept_open(*chat(TEXTS))) as server,
        client_of(server, stream_on_wire=on_wire) as client,
    ):
        ends = end_events(client)
        async with asyncio.timeout(20):
            answer = await client.chat(SAY, deadline=0.5, **more)
        assert answer.text == "Hello there"
        assert len(server.requests) == 1
        await server.all_closed()
        assert_settled(ends)


async def test_a_deadline_in_the_grace_period_returns_an_empty_answer():
    async with served(kept_open(*chat([]))) as server, client_of(server) as client:
        ends = end_events(client)
        async with (
            asyncio.timeout(20),
            client.stream("chat/completions", {}, deadline=0.5) as stream,
        ):
            assert (await stream.answer()).text == ""
        assert_settled(ends)


async def test_a_cancel_in_the_grace_period_settles_the_stream_as_ok(whole):
    async with served(kept_open(*chat(TEXTS))) as server, client_of(server) as client:
        ends, seen = end_events(client), asyncio.Event()
        stream = await client.stream("chat/completions", {})
        reading = asyncio.create_task(read_to_the_end(stream, seen))
        await whole.wait()
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await server.all_closed()
        assert_settled(ends)


async def test_a_cancel_in_the_grace_period_settles_the_call_as_ok(whole):
    async with served(kept_open(*chat(TEXTS))) as server, client_of(server) as client:
        ends = end_events(client)
        asking = asyncio.ensure_future(client.chat(SAY, stream=True))
        await whole.wait()
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asking
        assert caught.type is asyncio.CancelledError
        await server.all_closed()
        assert_settled(ends)


async def test_a_timeout_of_the_caller_in_the_grace_period_raises(whole):
    async with served(kept_open(*chat(TEXTS))) as server, client_of(server) as client:
        ends = end_events(client)

        async def asked():
            async with asyncio.timeout(20) as timeout:
                limit.append(timeout)
                await client.chat(SAY, stream=True)

        limit = []
        asking = asyncio.ensure_future(asked())
        await whole.wait()
        limit[0].reschedule(asyncio.get_running_loop().time() + 0.1)
        with pytest.raises(TimeoutError):
            await asking
        assert_settled(ends)


async def test_a_stream_dropped_after_its_usage_is_settled_as_ok():
    async with served(kept_open(*chat(TEXTS))) as server, client_of(server) as client:
        ends = end_events(client)
        stream = await client.stream("chat/completions", {})
        async for event_ in stream:
            if event_.json().get("usage"):
                break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del stream
            gc.collect()
        await asyncio.sleep(0)
        await server.all_closed()
        assert_settled(ends)


async def test_closing_the_client_in_the_grace_period_settles_the_stream_as_ok(whole):
    async with served(kept_open(*chat(TEXTS))) as server, client_of(server) as client:
        ends, seen = end_events(client), asyncio.Event()
        stream = await client.stream("chat/completions", {})
        reading = asyncio.create_task(read_to_the_end(stream, seen))
        await whole.wait()
        await asyncio.sleep(0.1)
        await client.close()
        await reading
        assert_settled(ends)


# ------------------------------------------------------------------ a finish reason alone is not the end


def stop_in_every_chunk(text):
    return event({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}],
                  "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})  # fmt: skip


async def requested(client):
    return (await client.request("chat/completions", {"stream": True})).text


async def streamed(client):
    async with client.stream("chat/completions", {}) as stream:
        return "".join([text async for text in stream.texts()])


async def awaited(client):
    async with client.stream("chat/completions", {}) as stream:
        return (await stream.answer()).text


WAYS = [requested, streamed, awaited]


@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_with_a_finish_reason_in_every_chunk_may_pause(way, monkeypatch):
    monkeypatch.setattr("stormbreak.http.response.GRACE", 0.05)
    first, second = map(stop_in_every_chunk, TEXTS)
    script = [CHUNKED, chunked(first), 0.4, chunked(second + DONE), b"0\r\n\r\n"]
    async with served(script) as server, client_of(server) as client, asyncio.timeout(20):
        assert await way(client) == "Hello there"
        assert len(server.requests) == 1


@table_test("end", [End.CLOSE, End.RESET, End.HANG])
@table_test("way", WAYS)
async def test_a_stream_cut_after_a_finish_reason_alone_is_broken(way, end):
    script = [CHUNKED, chunked(stop_in_every_chunk("Hello")), end]
    policy = replace(ONCE, stall_timeout=0.2)
    async with served(script) as server, client_of(server, policy) as client, asyncio.timeout(20):
        with pytest.raises((StreamBrokenError, UpstreamError)):
            await way(client)


@pytest.mark.parametrize("way", WAYS)
async def test_a_finish_reason_and_the_end_of_the_body_complete_a_stream(way):
    whole = b"".join([chunk("Hello", role="assistant"), chunk(None, "stop")])
    script = [CHUNKED, chunked(whole), b"0\r\n\r\n"]
    async with served(script) as server, client_of(server) as client, asyncio.timeout(20):
        assert await way(client) == "Hello"
        assert json.loads(server.requests[0].body)["stream"]
