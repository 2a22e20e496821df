"""One call after the other against a real model server: plain, streamed, cancelled, rejected."""

import asyncio
import time

import pytest
from model_server import KEY

from stormbreak import AsyncClient
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import (
    AuthenticationError,
    BrokenAnswerError,
    NotFoundError,
    PromptTooLongError,
    RedirectedError,
    ServerError,
)
from stormbreak.types import Usage

pytestmark = pytest.mark.real

SAY = [{"role": "user", "content": "Name three colours."}]
ONCE = Policy(retry=RetryPolicy(max_attempts=1), limit=FixedLimit(max_in_flight=8))


def payload(**more):
    return {"model": "smollm2", "messages": SAY, "max_tokens": 12, **more}


def at_rest(client):
    """Nothing is in flight or queued."""
    target_states = client.snapshot()["targets"].values()
    return all(
        (target_state["in_flight"], target_state["queued"]) == (0, 0)
        for target_state in target_states
    )


async def test_a_plain_call_returns_text_and_usage(model, client_of):
    async with client_of(model) as client:
        got = await client.chat(SAY, max_tokens=12, temperature=0)

    assert got.text.strip()
    assert 0 < got.usage.output_tokens <= 12
    assert got.usage.input_tokens > 0
    assert got.request_id
    assert at_rest(client)


async def test_a_stream_arrives_in_pieces_with_a_finish_reason(model, client_of, figure):
    async with client_of(model) as client:
        began = time.perf_counter()
        async with client.stream("chat/completions", payload(max_tokens=40)) as stream:
            first = time.perf_counter() - began
            texts = [(time.perf_counter(), text) async for text in stream.texts()]
        figure("first_output_s", round(first, 3))
        figure("tokens_per_s", round((len(texts) - 1) / (texts[-1][0] - texts[0][0]), 1))

        assert len(texts) > 5
        assert texts[0][0] < texts[-1][0]
        async with client.stream("chat/completions", payload()) as stream:
            reasons = [
                choice["finish_reason"]
                async for event in stream
                for choice in event.json()["choices"]
            ]
        assert reasons[-1] in ("stop", "length")
        assert stream.usage == Usage()  # this server counts no tokens of a stream, even if asked
    assert at_rest(client)


async def test_stream_on_wire_gives_the_same_text_as_a_plain_call(model, client_of):
    asked = {"max_tokens": 12, "temperature": 0.0, "seed": 7}
    async with client_of(model, stream_on_wire=True) as streams, client_of(model) as plain:
        got = await streams.chat(SAY, **asked)
        expected = await plain.chat(SAY, **asked)

    assert expected.text == got.text
    assert Usage() == got.usage  # this server reports no usage for streams
    assert expected.usage.output_tokens > 0


async def test_the_server_answers_after_a_cancelled_stream(model, client_of, figure):
    async with client_of(model) as client:
        begun = asyncio.Event()

        async def read():
            async with client.stream("chat/completions", payload(max_tokens=800)) as stream:
                async for _ in stream.texts():
                    begun.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 20.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)

        since = time.perf_counter()
        got = await client.chat(SAY, max_tokens=2)
        figure("next_after_a_cancelled_stream_s", round(time.perf_counter() - since, 2))
        assert got.attempts == 1
        assert at_rest(client)


async def test_only_a_streamed_call_stops_at_the_server_when_cancelled(model, client_of, figure):
    """The server finishes a cancelled plain call, and the next call waits for it."""
    took = {}
    for on_wire in (False, True):
        async with client_of(model, stream_on_wire=on_wire) as client:
            story = [{"role": "user", "content": "Tell a very long story of the sea."}]
            task = asyncio.create_task(client.chat(story, max_tokens=300, min_tokens=300))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert at_rest(client)
            since = time.perf_counter()
            await client.chat(SAY, max_tokens=2)
            took[on_wire] = time.perf_counter() - since
    figure("next_after_a_cancelled_plain_call_s", round(took[False], 2))
    figure("next_after_a_cancelled_call_on_wire_s", round(took[True], 2))

    assert took[True] < took[False]


async def test_the_server_answers_for_an_unknown_model(model, client_of):
    """The server uses its default model and repeats the given name, so a client cannot notice."""
    async with client_of(model) as client:
        got = await client.chat(SAY, model="no-such-model", max_tokens=2)

    assert got.text


@pytest.mark.parametrize(
    ("endpoint", "more", "error", "status"),
    [
        ("no/such/path", {}, NotFoundError, 404),
        ("responses", {}, NotFoundError, 404),
        ("chat/completions/", {}, RedirectedError, 307),
        ("chat/completions", {"messages": SAY * 200}, PromptTooLongError, 400),
        ("embeddings", {"input": "a"}, ServerError, 500),  # the server has no embeddings
        ("chat/completions", {"n": 2}, BrokenAnswerError, 200),  # the server gives one choice
    ],
    ids=["path", "api", "slash", "length", "embeddings", "choices"],
)
async def test_an_error_of_the_server_has_its_class_and_status(
    model, client_of, endpoint, more, error, status
):
    async with client_of(model, policy=ONCE) as client:
        with pytest.raises(error) as caught:
            await client.request(endpoint, payload(**more))

    assert caught.value.status == status
    assert at_rest(client)


async def test_a_wrong_key_is_final(model):
    async with AsyncClient(base_url=model.base_url, api_key=f"{KEY}.wrong", model="m") as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.chat(SAY)

    assert (caught.value.status, caught.value.attempts) == (401, 1)
    assert KEY not in f"{caught.value!r}"
