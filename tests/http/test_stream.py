"""Streams to the caller: what comes, how it ends, how it breaks, and that nothing of it stays behind."""

import asyncio
import gc
import json
import traceback
import warnings

import pytest
from sockets import End, answer, failing, served

from stormbreak.core.backoff import Constant
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import (
    AttemptTimeoutError,
    InvalidRequestError,
    RejectedError,
    StreamBrokenError,
    UpstreamError,
)
from stormbreak.http.client import AsyncClient
from stormbreak.http.source import KEPT
from stormbreak.testing import answer_text
from stormbreak.types import Usage, Verdict

SAY = {"messages": [{"role": "user", "content": "hello"}]}
EVENTS = {"content_type": "text/event-stream"}
QUICK = Policy(budget=None, retry=RetryPolicy(attempts=3, backoff=Constant(seconds=0.01)))


def chunk(content=None, finish=None, **more):
    delta = {"role": "assistant"} if content is None else {"content": content}
    said = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(said).encode() + b"\n\n"


OPENING = chunk()
HELLO, THERE = chunk("hello"), chunk(" there")
STOP = chunk("", "stop", usage={"prompt_tokens": 3, "completion_tokens": 2})
DONE = b"data: [DONE]\n\n"
WHOLE = OPENING + HELLO + THERE + STOP + DONE
HEAD = answer(b"", **EVENTS | {"content_length": len(WHOLE)})
ENDLESS = answer(b"", **EVENTS | {"content_length": 10**7})
WHOLE_ANSWER = HEAD + WHOLE


def client_of(server, **more):
    return AsyncClient(base_url=server.base_url, model="m", **{"policy": QUICK} | more)


def lane_of(client):
    return client.engine.lane(client.target("m"))


@pytest.fixture
async def scene():
    """Serve scripts to a client; in the end nothing may be in flight, and no connection be left open."""
    opened = []

    class Scene:
        async def of(self, *scripts, **more):
            self.serving = served(*scripts)
            self.server = await self.serving.__aenter__()
            self.client = client_of(self.server, **more)
            opened.append(self)
            return self

        def stream(self, **more):
            return self.client.stream("chat/completions", SAY | more)

        @property
        def in_flight(self):
            return lane_of(self.client).slots.in_flight

    yield Scene()
    gc.collect()
    for each in opened:
        assert each.in_flight == 0
        await each.client.close()
        await each.server.all_closed()
        await each.serving.__aexit__(None, None, None)


async def pieces_of(iterator, upto=None):
    got = []
    async for each in iterator:
        got.append(each)
        if len(got) == upto:
            break
    return got


# ------------------------------------------------------------------ what comes


async def test_events(scene):
    await scene.of(WHOLE_ANSWER)
    async with scene.stream() as stream:
        assert (stream.status, stream.attempts, stream.usage) == (200, 1, None)
        events = await pieces_of(stream)

    texts = [event.json()["choices"][0]["delta"].get("content") for event in events]
    assert texts == [None, "hello", " there", ""]
    assert stream.usage == Usage(input_tokens=3, output_tokens=2)
    assert repr(events[1]) == f"StreamEvent('', {len(events[1].data)} bytes)"
    assert await pieces_of(stream) == []


async def test_texts(scene):
    await scene.of(WHOLE_ANSWER)
    async with scene.stream() as stream:
        assert await pieces_of(stream.texts()) == ["hello", " there"]


async def test_raw_bytes_are_those_that_came(scene):
    odd = OPENING.replace(b"\n", b"\r\n") + b": a comment\n\n" + WHOLE[len(OPENING) :]
    pieces = [odd[at : at + 7] for at in range(0, len(odd), 7)]
    await scene.of((answer(b"", **EVENTS | {"content_length": len(odd)}), *pieces))
    async with scene.stream() as stream:
        assert b"".join(await pieces_of(stream.raw())) == odd


async def test_an_answer(scene):
    await scene.of(WHOLE_ANSWER)
    stream = await scene.stream()
    got = await stream.answer()

    assert (got.text, got.usage.output_tokens, got.attempts) == ("hello there", 2, 1)
    assert json.loads(got.raw)["choices"][0]["finish_reason"] == "stop"
    assert (await stream.answer()).text == got.text


async def test_events_are_handed_over_while_the_answer_is_still_written(scene):
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
async def test_a_server_that_answers_in_one_piece(scene, way):
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


async def test_an_answer_without_output(scene):
    nothing = OPENING + STOP + DONE
    await scene.of(HEAD.replace(str(len(WHOLE)).encode(), str(len(nothing)).encode()) + nothing)
    async with scene.stream() as stream:
        assert await pieces_of(stream.texts()) == []
    assert stream.usage.input_tokens == 3


async def test_the_embedded_provider_is_understood(stormbreak_provider):
    async with (
        AsyncClient(base_url=stormbreak_provider(speed=50).base_url, model="m") as client,
        client.stream("chat/completions", SAY) as stream,
    ):
        text = "".join(await pieces_of(stream.texts()))

    assert text == answer_text(SAY | {"model": "m"})
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
async def test_what_is_asked_for(scene, given, options):
    await scene.of(WHOLE_ANSWER)
    async with scene.stream(**given) as stream:
        await stream.answer()
    (request,) = scene.server.requests
    body = json.loads(request.body)

    assert (body["stream"], body.get("stream_options", "none")) == (True, options)
    assert request.headers["accept"] == "text/event-stream"


async def test_a_connection_is_used_again_after_a_right_end(scene):
    await scene.of(WHOLE_ANSWER)
    for _ in range(3):
        async with scene.stream() as stream:
            await pieces_of(stream)

    assert [request.connection for request in scene.server.requests] == [1, 1, 1]


async def test_a_complete_answer_does_not_wait_for_a_server_that_never_ends_it(scene, monkeypatch):
    monkeypatch.setattr("stormbreak.http.source.GRACE", 0.05)
    await scene.of((ENDLESS + WHOLE, End.HANG))
    async with scene.stream() as stream:
        assert await pieces_of(stream.texts()) == ["hello", " there"]
    await scene.server.all_closed()


async def test_one_way_of_reading_and_one_reader(scene):
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


# ------------------------------------------------------------------ before the first output


@pytest.mark.parametrize(
    "bad",
    [
        failing(500),
        failing(429, retry_after="0"),
        (ENDLESS + OPENING, End.CLOSE),
        (ENDLESS, End.RESET),
        (ENDLESS + OPENING + b"data: {no json}\n\n", End.HANG),
        (
            ENDLESS + OPENING + HELLO + b"data: {no json}\n\n",
            End.HANG,
        ),  # nobody has seen the output
        (ENDLESS + OPENING + b'data: {"error": {"message": "no", "code": 500}}\n\n', End.HANG),
        answer(b"", **EVENTS),
        (End.CLOSE,),
    ],
)
async def test_what_fails_before_the_first_output_is_repeated_unseen(scene, bad):
    await scene.of(bad, WHOLE_ANSWER)
    async with scene.stream() as stream:
        assert b"".join(await pieces_of(stream.raw())) == WHOLE

    assert stream.attempts == 2
    keys = {request.headers["idempotency-key"] for request in scene.server.requests}
    assert (len(scene.server.requests), len(keys)) == (2, 1)


async def test_a_final_error_is_raised_as_ever(scene):
    await scene.of(failing(400))
    with pytest.raises(InvalidRequestError):
        await scene.stream()
    with pytest.raises(InvalidRequestError):
        async with scene.stream():
            pass


async def test_the_attempt_timeout_is_one_to_the_first_output(scene):
    policy = Policy(attempt_timeout=0.5, retry=RetryPolicy(attempts=1))
    slow = (ENDLESS + OPENING, 1.0, HELLO, End.HANG)
    steady = (HEAD + OPENING + HELLO, 0.6, THERE + STOP + DONE)
    await scene.of(steady, slow, policy=policy)
    async with scene.stream() as stream:
        assert len(await pieces_of(stream.texts())) == 2
    with pytest.raises(AttemptTimeoutError):
        await scene.stream()


async def test_a_head_that_does_not_come_is_silence(scene):
    policy = Policy(idle_timeout=0.1, retry=RetryPolicy(attempts=1))
    await scene.of((End.HANG,), (ENDLESS, End.HANG), policy=policy)
    for _ in range(2):
        with pytest.raises(AttemptTimeoutError) as raised:
            await scene.stream()
        assert raised.value.ended.outcome.detail == "went silent"


async def test_who_was_never_sent_is_told_so(scene):
    await scene.of(WHOLE_ANSWER)
    with pytest.raises(RejectedError):
        await scene.client.stream("chat/completions", SAY, deadline=1e-9)


# ------------------------------------------------------------------ after it

CUT = ENDLESS + OPENING + HELLO
BREAKS = {
    "cut": ((CUT, End.CLOSE), Verdict.BROKEN, "body was cut"),
    "reset": ((CUT, End.RESET), Verdict.BROKEN, "body was cut"),
    "silent": ((CUT, End.HANG), Verdict.TIMEOUT, "went silent"),
    "ends early": (
        (answer(OPENING + HELLO, **EVENTS),), Verdict.BROKEN, "stream ended without finish_reason",
    ),
    "no json": ((CUT, 0.02, b"data: {no json}\n\n", End.HANG), Verdict.BROKEN, "invalid json in an event"),
    "no utf-8": (
        (CUT, 0.02, b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', End.HANG), Verdict.BROKEN, "invalid json in an event",
    ),
    "error event": (
        (CUT, 0.02, b'data: {"error":{"message":"secret","code":"overloaded_error"}}\n\n', End.HANG), Verdict.OVERLOADED, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "way"),
    [
        (name, way)
        for name in BREAKS
        for way in ("events", "texts", "raw", "answer")
        if way != "raw" or not name.startswith("no ")  # who reads raw bytes has to decode them
    ],
)
async def test_what_breaks_is_raised_and_not_sent_again(scene, name, way):
    script, verdict, detail = BREAKS[name]
    await scene.of(
        script,
        WHOLE_ANSWER,
        policy=Policy(idle_timeout=0.4 if name == "silent" else 10.0, retry=QUICK.retry),
    )
    got = []

    async def read(stream):
        if way == "answer":
            await stream.answer()
        iterator = {"events": stream.__aiter__, "texts": stream.texts, "raw": stream.raw}[way]()
        async for each in iterator:
            got.append(each)  # noqa: PERF401 - what comes before it breaks counts

    async with scene.stream() as stream:
        with pytest.raises(StreamBrokenError) as raised:
            await read(stream)
    error = raised.value

    assert (error.verdict, error.attempts, error.ended.stopped) == (verdict, 1, "committed")
    if detail is not None:
        assert error.ended.outcome.detail == detail
    assert error.received.startswith(OPENING + HELLO)
    assert "hello" not in f"{error}{error!r}{stream!r}"
    assert "secret" not in "".join(traceback.format_exception(error))
    assert len(scene.server.requests) == 1
    if way == "texts":
        assert got == ["hello"]
    elif way == "events":
        assert all("choices" in event.json() for event in got)
    elif way == "raw":
        assert b"".join(got) == error.received
    with pytest.raises(StreamBrokenError):  # once more, if it is asked again
        await stream.piece()


async def test_the_deadline_bounds_the_whole(scene):
    await scene.of((ENDLESS + OPENING, *[HELLO, 0.05] * 100))
    with pytest.raises(StreamBrokenError) as raised:
        async with scene.client.stream("chat/completions", SAY, deadline=1.2) as stream:
            await pieces_of(stream)

    assert raised.value.ended.outcome.own_deadline
    assert len(scene.server.requests) == 1


async def test_the_deadline_ends_one_that_nobody_reads(scene):
    await scene.of((CUT, End.HANG))
    stream = await scene.client.stream("chat/completions", SAY, deadline=1.2)
    await scene.server.all_closed()
    assert scene.in_flight == 0
    assert await pieces_of(stream.texts(), upto=1) == ["hello"]
    with pytest.raises(StreamBrokenError):
        await pieces_of(stream.texts())


async def test_a_caller_who_takes_his_time_is_not_silence(scene):
    await scene.of(
        (HEAD, OPENING + HELLO, 0.05, THERE + STOP + DONE), policy=Policy(idle_timeout=0.6)
    )
    async with scene.stream() as stream:
        texts = stream.texts()
        assert await anext(texts) == "hello"
        await asyncio.sleep(0.9)
        assert await pieces_of(texts) == [" there"]


async def test_of_a_long_stream_the_end_is_kept(scene):
    long = chunk("x" * 10_000)
    await scene.of((ENDLESS + OPENING + HELLO, *[long] * 60, End.CLOSE))
    with pytest.raises(StreamBrokenError) as raised:
        async with scene.stream() as stream:
            await pieces_of(stream)

    assert KEPT <= len(raised.value.received) < KEPT + 2**18
    assert (OPENING + HELLO + long * 60).endswith(raised.value.received)


# ------------------------------------------------------------------ what is given up


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


async def test_closing_is_idempotent_and_counts_as_nothing(scene):
    await scene.of((CUT, End.HANG))
    async with scene.stream() as stream:
        assert await anext(stream.texts()) == "hello"
        await stream.aclose()
        assert scene.in_flight == 0
    await stream.aclose()
    await scene.server.all_closed()
    assert lane_of(scene.client).admission.service == 0.0
    with pytest.raises(RuntimeError, match="closed"):
        await anext(stream.texts())
    assert "closed" in repr(stream)


async def test_who_leaves_at_the_end_marker_has_had_a_whole_answer(scene):
    await scene.of((ENDLESS + OPENING + HELLO + STOP + DONE, End.HANG))
    async with scene.stream() as stream:
        await anext(stream)
    assert lane_of(scene.client).admission.service > 0.0
    assert stream.usage == Usage(input_tokens=3, output_tokens=2)


async def test_a_stream_that_is_dropped_is_closed_with_a_warning(scene):
    await scene.of((CUT, End.HANG))
    stream = await scene.stream()
    with pytest.warns(ResourceWarning, match="never closed"):
        del stream
    assert scene.in_flight == 0
    await scene.server.all_closed()


async def test_one_that_has_ended_may_be_dropped(scene):
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


async def test_a_client_that_is_closed_breaks_its_streams(scene):
    await scene.of((CUT, End.HANG))
    async with scene.stream() as stream:
        await scene.client.close()
        with pytest.raises(StreamBrokenError):
            await pieces_of(stream)


def test_one_that_outlives_its_loop(stormbreak_provider):
    client = AsyncClient(base_url=stormbreak_provider(speed=50).base_url, model="m")

    async def open_one():
        return await client.stream("chat/completions", SAY)

    stream = asyncio.run(open_one())
    assert lane_of(client).slots.in_flight == 1
    asyncio.run(stream.aclose())
    assert lane_of(client).slots.in_flight == 0
    dropped = asyncio.run(open_one())
    with pytest.warns(ResourceWarning, match="never closed"):
        del dropped
    assert lane_of(client).slots.in_flight == 0
