"""Failures of streams: retried before the first output, raised after it."""

import asyncio
import traceback

import pytest
from chat_stream import (
    CUT,
    DONE,
    ENDLESS,
    HEAD,
    HELLO,
    OPENING,
    STOP,
    THERE,
    WHOLE,
    WHOLE_ANSWER,
    chunk,
)
from clients import PAYLOAD, THRICE
from sockets import EVENTS, End, answer, failing
from stream_scene import pieces_of

from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import (
    AttemptTimeoutError,
    InvalidRequestError,
    RejectedError,
    StreamBrokenError,
)
from stormbreak.http.stream_source import KEPT
from stormbreak.types import Verdict

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
        ),  # the caller has not seen the output
        (ENDLESS + OPENING + b'data: {"error": {"message": "no", "code": 500}}\n\n', End.HANG),
        answer(b"", **EVENTS),
        (End.CLOSE,),
    ],
)
async def test_a_failure_before_the_first_output_is_retried(scene, bad):
    await scene.of(bad, WHOLE_ANSWER)
    async with scene.stream() as stream:
        assert b"".join(await pieces_of(stream.raw())) == WHOLE

    assert stream.attempts == 2
    keys = {request.headers["idempotency-key"] for request in scene.server.requests}
    assert (len(scene.server.requests), len(keys)) == (2, 1)


async def test_a_final_error_is_raised_when_the_stream_is_opened(scene):
    await scene.of(failing(400))
    with pytest.raises(InvalidRequestError):
        await scene.stream()
    with pytest.raises(InvalidRequestError):
        async with scene.stream():
            pass


async def test_the_attempt_timeout_of_a_stream_ends_at_the_first_output(scene, jump):
    policy = Policy(attempt_timeout=60.0, retry=RetryPolicy(max_attempts=1))
    begun = asyncio.Event()

    async def pass_time(*_):
        await begun.wait()
        jump(60.0)
        await asyncio.sleep(0.05)

    async def pass_time_at_once(*_):
        jump(60.0)

    slow = (ENDLESS + OPENING, pass_time_at_once, End.HANG)
    steady = (HEAD + OPENING + HELLO, pass_time, THERE + STOP + DONE)
    await scene.of(steady, slow, policy=policy)
    async with scene.stream() as stream:
        begun.set()
        assert len(await pieces_of(stream.texts())) == 2
    with pytest.raises(AttemptTimeoutError):
        await scene.stream()


async def test_the_idle_timeout_applies_to_the_head_of_a_stream(scene):
    policy = Policy(idle_timeout=0.1, retry=RetryPolicy(max_attempts=1))
    await scene.of((End.HANG,), (ENDLESS, End.HANG), policy=policy)
    for _ in range(2):
        with pytest.raises(AttemptTimeoutError) as raised:
            await scene.stream()
        assert raised.value.ended.outcome.detail == "went silent"


async def test_a_stream_past_its_deadline_is_rejected_unsent(scene):
    await scene.of(WHOLE_ANSWER)
    with pytest.raises(RejectedError):
        await scene.client.stream("chat/completions", PAYLOAD, deadline=1e-9)


# ------------------------------------------------------------------ after the first output


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
        if way != "raw" or not name.startswith("no ")  # a reader of raw bytes decodes them itself
    ],
)
async def test_a_break_after_the_first_output_raises_and_is_not_retried(scene, name, way):
    script, verdict, detail = BREAKS[name]
    await scene.of(
        script,
        WHOLE_ANSWER,
        policy=Policy(idle_timeout=0.4 if name == "silent" else 10.0, retry=THRICE.retry),
    )
    got = []

    async def read(stream):
        if way == "answer":
            await stream.answer()
        iterator = {"events": stream.__aiter__, "texts": stream.texts, "raw": stream.raw}[way]()
        async for each in iterator:
            got.append(each)  # noqa: PERF401 - the pieces before the break count

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
    with pytest.raises(StreamBrokenError):  # raised again at the next read
        await stream.next_chunk()


async def test_an_event_that_cannot_be_assembled_breaks_the_stream_at_once(scene):
    """Found: only after more bytes, which the server may never send."""
    await scene.of((CUT + chunk(5), End.HANG))
    async with scene.stream() as stream, asyncio.timeout(30):
        with pytest.raises(StreamBrokenError):
            await stream.answer()


async def test_the_deadline_bounds_the_whole_stream(scene, jump):
    async def pass_time(*_):
        jump(60.0)

    await scene.of((ENDLESS + OPENING, *[HELLO, 0.05] * 4, pass_time, *[HELLO, 0.05] * 1000))
    with pytest.raises(StreamBrokenError) as raised:
        async with scene.client.stream("chat/completions", PAYLOAD, deadline=60.0) as stream:
            await pieces_of(stream)

    assert (raised.value.verdict, raised.value.attempts) == (Verdict.TIMEOUT, 1)
    assert len(scene.server.requests) == 1


async def test_the_deadline_ends_an_unread_stream(scene, jump):
    await scene.of((CUT, End.HANG))
    stream = await scene.client.stream("chat/completions", PAYLOAD, deadline=60.0)
    jump(60.0)
    await scene.server.all_closed()
    assert scene.in_flight == 0
    assert await pieces_of(stream.texts(), upto=1) == ["hello"]
    with pytest.raises(StreamBrokenError):
        await pieces_of(stream.texts())


async def test_the_time_of_the_caller_does_not_count_as_idle(scene):
    await scene.of(
        (HEAD, OPENING + HELLO, 0.05, THERE + STOP + DONE), policy=Policy(idle_timeout=0.6)
    )
    async with scene.stream() as stream:
        texts = stream.texts()
        assert await anext(texts) == "hello"
        await asyncio.sleep(0.9)
        assert await pieces_of(texts) == [" there"]


async def test_a_broken_long_stream_keeps_its_last_bytes(scene):
    long = chunk("x" * 10_000)
    await scene.of((ENDLESS + OPENING + HELLO, *[long] * 60, End.CLOSE))
    with pytest.raises(StreamBrokenError) as raised:
        async with scene.stream() as stream:
            await pieces_of(stream)

    assert KEPT <= len(raised.value.received) < KEPT + 2**18
    assert (OPENING + HELLO + long * 60).endswith(raised.value.received)
