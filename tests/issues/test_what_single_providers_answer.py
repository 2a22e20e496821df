"""Found from outside: answers that are final were sent for again, and good ones were refused, through client and SDK."""

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


def said(body):
    return answer(json.dumps(body).encode())


def in_events(*events):
    return answer(b"".join(events), **EVENTS)


def sdk_of(server):
    http = httpx2.AsyncClient(transport=AsyncTransport())
    return openai.AsyncOpenAI(base_url=server.base_url, api_key="k", http_client=http)


async def test_a_filtered_answer_is_sent_for_once():
    async with served(said(PROHIBITED)) as server, client_of(server, Policy()) as client:
        with pytest.raises(FilteredError) as caught:
            await client.chat(SAY)
        assert caught.value.code == "prohibited_content"
        for _ in range(20):
            ended = await client.ask("chat/completions", b'{"model":"m","messages":[]}')
            assert ended.outcome.verdict is Verdict.FILTERED
        (target,) = client.snapshot()["targets"].values()
    assert len(server.requests) == 21
    assert target["circuit"] == "closed"


async def test_a_filtered_stream_is_sent_for_once():
    async with served(in_events(STREAMED)) as server, client_of(server) as client:
        with pytest.raises(FilteredError):
            async with client.stream("chat/completions", {"model": "m", "messages": SAY}):
                pass
        with pytest.raises(FilteredError):
            await client.chat(SAY, stream=True)
    assert len(server.requests) == 2


async def test_an_sdk_gets_a_filtered_answer_as_it_came():
    """Its user looks for the finish reason."""
    azure = {"choices": [{"index": 0, "message": {}, "finish_reason": "content_filter"}]}
    asked = {"model": "m", "messages": SAY}
    async with served(said(azure)) as server, sdk_of(server) as client:
        got = await client.chat.completions.create(**asked)
        assert got.choices[0].finish_reason == "content_filter"
    async with served(in_events(STREAMED)) as server, sdk_of(server) as client:
        reasons = [
            part.choices[0].finish_reason
            async for part in await client.chat.completions.create(**asked, stream=True)
        ]
        assert reasons == ["content_filter: PROHIBITED_CONTENT"]
    assert len(server.requests) == 1


async def test_an_sdk_gets_no_half_answer():
    half = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "abort"}]}
    async with served(said(half)) as server, sdk_of(server) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="m", messages=SAY)
    assert len(server.requests) > 1


async def test_text_completions_are_streamed():
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


async def test_each_prompt_must_be_answered_to_its_end():
    async with served(in_events(*TEXTS, TEXT_END)) as server, client_of(server) as client:
        body = b'{"model":"m","prompt":["a","b"],"stream":true}'
        ended = await client.ask("completions", body, attempts=1)
    assert ended.outcome.verdict is Verdict.BROKEN


@pytest.mark.parametrize("deferred", [True, 1])
async def test_a_deferred_answer_is_refused_before_it_is_asked_for(deferred):
    async with served(said({"request_id": "f1"})) as server, client_of(server) as client:
        with pytest.raises(ConfigurationError, match="deferred"):
            await client.chat(SAY, deferred=deferred)
        assert not server.requests
        await_job = b'{"model":"m","messages":[]}'  # a gateway may defer by itself
        assert (await client.ask("chat/completions", await_job)).outcome.verdict is Verdict.INVALID
    assert len(server.requests) == 1


@pytest.mark.parametrize("deferred", [None, False])
async def test_what_is_not_deferred_is_asked_for(deferred):
    async with served() as server, client_of(server) as client:
        assert (await client.chat(SAY, deferred=deferred)).text


async def test_json_is_kept_without_its_byte_order_mark():
    body = b'\xef\xbb\xbf{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
    async with served(answer(body)) as server, client_of(server) as client:
        got = await client.chat(SAY)
        assert json.loads(got.raw.decode())  # a row of a batch holds it as it is
    assert got.text == "Hi"
    assert len(server.requests) == 1


async def test_n_that_a_server_passes_over_is_paid_once():
    async with (
        served(
            said({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
        ) as server,
        client_of(server) as client,
    ):
        got = await client.chat(SAY, n=3)
    assert (got.text, got.detail) == ("Hi", "1 of 3 choices")
    assert len(server.requests) == 1


async def test_half_a_stream_is_told_when_it_was_handed_over():
    abort = chunk(None, "insufficient_system_resource")
    whole = in_events(chunk("Hi"), abort, DONE)
    at = whole.index(abort)
    handed_over = asyncio.Event()
    script = [whole[:at], lambda *_: handed_over.wait(), whole[at:]]
    async with served(script) as server, client_of(server) as client:
        stream = await client.stream("chat/completions", {"model": "m", "messages": SAY})
        handed_over.set()
        with pytest.raises(Exception, match="overloaded"):
            async for _ in stream.texts():
                pass
    assert len(server.requests) == 1


async def test_a_stream_that_nobody_asked_for_is_read():
    """Some gateways stream whatever they are asked for: it was paid, and would come again."""
    script = in_events(chunk("Hi"), chunk(None, "stop"), DONE)
    async with served(script) as server, client_of(server) as client:
        got = await client.chat(SAY)
        assert (got.text, json.loads(got.raw)["choices"][0]["finish_reason"]) == ("Hi", "stop")
    async with served(script) as server, sdk_of(server) as client:
        completion = await client.chat.completions.create(model="m", messages=SAY)
        assert completion.choices[0].message.content == "Hi"
    assert len(server.requests) == 1


async def test_a_stream_that_nobody_asked_for_must_be_whole():
    script = in_events(chunk("Hi"))
    async with served(script) as server, client_of(server) as client:
        ended = await client.ask("chat/completions", b'{"model":"m","messages":[]}', attempts=1)
    assert ended.outcome.verdict is Verdict.BROKEN
    assert len(server.requests) == 1
