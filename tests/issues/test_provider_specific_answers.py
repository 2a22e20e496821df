"""Reported by users: final answers were retried and valid ones were rejected, in the client and in SDKs."""

import asyncio
import json

import httpx2
import openai
import pytest
from clients import SAY, client_of
from sockets import answer, served
from streamed import DONE, chunk, event

from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError, FilteredError
from stormbreak.httpx2 import AsyncTransport
from stormbreak.types import Usage, Verdict

EVENTS = {"content_type": "text/event-stream"}
PROHIBITED = {"choices": [{"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}]}
STREAMED = event(PROHIBITED) + DONE
TEXTS = [
    event({"object": "text_completion", "choices": [{"index": 0, "text": text}]})
    for text in ("Hi", " there")
]
TEXT_END = event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
TEXT_USAGE = event({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2}})


def json_answer(body):
    return answer(json.dumps(body).encode())


def in_events(*events):
    return answer(b"".join(events), **EVENTS)


def sdk_of(server):
    http = httpx2.AsyncClient(transport=AsyncTransport())
    return openai.AsyncOpenAI(base_url=server.base_url, api_key="k", http_client=http)


async def test_a_filtered_answer_is_not_retried():
    async with served(json_answer(PROHIBITED)) as server, client_of(server, Policy()) as client:
        with pytest.raises(FilteredError) as caught:
            await client.chat(SAY)
        assert caught.value.code == "prohibited_content"
        for _ in range(20):
            ended = await client.ask("chat/completions", b'{"model":"m","messages":[]}')
            assert ended.outcome.verdict is Verdict.FILTERED
        (target,) = client.snapshot()["targets"].values()
    assert len(server.requests) == 21
    assert target["circuit"] == "closed"


async def test_a_filtered_stream_is_not_retried():
    async with served(in_events(STREAMED)) as server, client_of(server) as client:
        with pytest.raises(FilteredError):
            async with client.stream("chat/completions", {"model": "m", "messages": SAY}):
                pass
        with pytest.raises(FilteredError):
            await client.chat(SAY, stream=True)
    assert len(server.requests) == 2


async def test_an_sdk_gets_a_filtered_answer_unchanged():
    """Users of the SDK check the finish reason."""
    azure = {"choices": [{"index": 0, "message": {}, "finish_reason": "content_filter"}]}
    asked = {"model": "m", "messages": SAY}
    async with served(json_answer(azure)) as server, sdk_of(server) as client:
        got = await client.chat.completions.create(**asked)
        assert got.choices[0].finish_reason == "content_filter"
    async with served(in_events(STREAMED)) as server, sdk_of(server) as client:
        reasons = [
            part.choices[0].finish_reason
            async for part in await client.chat.completions.create(**asked, stream=True)
        ]
        assert reasons == ["content_filter: PROHIBITED_CONTENT"]
    assert len(server.requests) == 1


async def test_an_aborted_answer_to_an_sdk_is_retried():
    half = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "abort"}]}
    async with served(json_answer(half)) as server, sdk_of(server) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="m", messages=SAY)
    assert len(server.requests) > 1


async def test_text_completions_can_be_streamed():
    script = in_events(*TEXTS, TEXT_END, TEXT_USAGE, DONE)
    payload = {"model": "m", "prompt": "Say"}
    async with served(script) as server, client_of(server) as client:
        got = await client.request("completions", payload | {"stream": True})
        assert (got.text, got.usage) == ("Hi there", Usage(input_tokens=2, output_tokens=2))
        async with client.stream("completions", payload) as stream:
            assert "".join([text async for text in stream.texts()]) == "Hi there"
        assert stream.usage == got.usage
    assert len(server.requests) == 2
    assert json.loads(server.requests[1].body)["stream_options"] == {"include_usage": True}


async def test_an_sdk_streams_text_completions_through_the_engine():
    async with served(in_events(*TEXTS, TEXT_END, DONE)) as server, sdk_of(server) as client:
        stream = await client.completions.create(model="m", prompt="Say", stream=True)
        texts = [part.choices[0].text async for part in stream]
        assert stream.response.headers["x-stormbreak-attempts"] == "1"
    assert "".join(texts) == "Hi there"


async def test_a_stream_without_the_end_of_each_prompt_is_broken():
    async with served(in_events(*TEXTS, TEXT_END)) as server, client_of(server) as client:
        body = b'{"model":"m","prompt":["a","b"],"stream":true}'
        ended = await client.ask("completions", body, attempts=1)
    assert ended.outcome.verdict is Verdict.BROKEN


@pytest.mark.parametrize("deferred", [True, 1])
async def test_a_deferred_call_is_rejected_before_it_is_sent(deferred):
    async with served(json_answer({"request_id": "f1"})) as server, client_of(server) as client:
        with pytest.raises(ConfigurationError, match="deferred"):
            await client.chat(SAY, deferred=deferred)
        assert not server.requests
        body = b'{"model":"m","messages":[]}'  # a gateway may defer by itself
        assert (await client.ask("chat/completions", body)).outcome.verdict is Verdict.INVALID
    assert len(server.requests) == 1


@pytest.mark.parametrize("deferred", [None, False])
async def test_a_call_that_is_not_deferred_is_sent(deferred):
    async with served() as server, client_of(server) as client:
        assert (await client.chat(SAY, deferred=deferred)).text


async def test_a_byte_order_mark_is_removed_from_json():
    body = b'\xef\xbb\xbf{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
    async with served(answer(body)) as server, client_of(server) as client:
        got = await client.chat(SAY)
        assert json.loads(got.raw.decode())  # a row of a batch contains it unchanged
    assert got.text == "Hi"
    assert len(server.requests) == 1


async def test_fewer_choices_than_n_are_accepted():
    async with (
        served(
            json_answer({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
        ) as server,
        client_of(server) as client,
    ):
        got = await client.chat(SAY, n=3)
    assert (got.text, got.detail) == ("Hi", "1 of 3 choices")
    assert len(server.requests) == 1


async def test_a_stream_aborted_after_its_first_text_raises():
    abort = chunk(None, "insufficient_system_resource")
    whole = in_events(chunk("Hi"), abort, DONE)
    at = whole.index(abort)
    first_text_read = asyncio.Event()
    script = [whole[:at], lambda *_: first_text_read.wait(), whole[at:]]
    async with served(script) as server, client_of(server) as client:
        stream = await client.stream("chat/completions", {"model": "m", "messages": SAY})
        first_text_read.set()
        with pytest.raises(Exception, match="overloaded"):
            async for _ in stream.texts():
                pass
    assert len(server.requests) == 1


async def test_an_unrequested_stream_is_assembled():
    """Some gateways stream every answer. It is paid, and a retry would give the same."""
    script = in_events(chunk("Hi"), chunk(None, "stop"), DONE)
    async with served(script) as server, client_of(server) as client:
        got = await client.chat(SAY)
        assert (got.text, json.loads(got.raw)["choices"][0]["finish_reason"]) == ("Hi", "stop")
    async with served(script) as server, sdk_of(server) as client:
        completion = await client.chat.completions.create(model="m", messages=SAY)
        assert completion.choices[0].message.content == "Hi"
    assert len(server.requests) == 1


async def test_an_incomplete_unrequested_stream_is_broken():
    script = in_events(chunk("Hi"))
    async with served(script) as server, client_of(server) as client:
        ended = await client.ask("chat/completions", b'{"model":"m","messages":[]}', attempts=1)
    assert ended.outcome.verdict is Verdict.BROKEN
    assert len(server.requests) == 1
