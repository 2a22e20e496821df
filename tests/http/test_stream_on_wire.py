"""Plain chat completions streamed on the wire: equal answers, and an engine that sees the first output."""

import asyncio
import json

import pytest
from clients import SAY, sent_by, target_state_of
from sockets import EVENTS, answer, served

from stormbreak.http.client import AsyncClient
from stormbreak.testing import answer_text
from stormbreak.types import Usage

OPENING = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
OUTPUT = b'data: {"choices":[{"index":0,"delta":{"content":"fine"},"finish_reason":"stop"}]}\n\n'


def client_of(base_url, **more):
    return AsyncClient(base_url=base_url, model="m", **{"stream_on_wire": True} | more)


def begun_at(client):
    """Return the estimate of the target for first outputs."""
    return target_state_of(client).diagnosis._first_output_estimate


async def test_an_answer_streamed_on_the_wire_equals_the_plain_one(stormbreak_provider):
    url = stormbreak_provider(speed=50).base_url
    async with client_of(url) as streams, client_of(url, stream_on_wire=False) as plain:
        got, expected = await asyncio.gather(streams.chat(SAY), plain.chat(SAY))

    assert got.text == expected.text == answer_text({"model": "m", "messages": SAY})
    assert got.usage == expected.usage != Usage()
    one, other = json.loads(got.raw), json.loads(expected.raw)
    assert one.keys() == other.keys()
    assert one["choices"][0] == other["choices"][0] | {"logprobs": None}


async def test_a_call_streamed_on_the_wire_requests_usage():
    async with (
        served(answer(OPENING + OUTPUT, **EVENTS)) as server,
        client_of(server.base_url) as client,
    ):
        await client.chat(SAY, temperature=0.5)

    assert sent_by(server) == [
        {
            "model": "m",
            "messages": SAY,
            "temperature": 0.5,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert server.requests[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize(
    ("on_wire", "asked"), [(False, {}), (True, {"stream": False}), (True, {"modalities": ["text"]})]
)
async def test_a_call_with_delivery_options_is_not_streamed_on_the_wire(on_wire, asked):
    async with (
        served(answer()) as server,
        client_of(server.base_url, stream_on_wire=on_wire) as client,
    ):
        assert (await client.chat(SAY, **asked)).text == "fine"

    assert "stream_options" not in sent_by(server)[0]
    assert sent_by(server)[0].get("stream", False) is False


async def test_embeddings_are_not_streamed_on_the_wire(stormbreak_provider):
    async with client_of(stormbreak_provider(speed=50).base_url) as client:
        got = await client.request("embeddings", {"input": "a"})

    assert len(json.loads(got.raw)["data"]) == 1


async def test_a_plain_answer_to_a_call_streamed_on_the_wire_is_read():
    async with served(answer()) as server, client_of(server.base_url) as client:
        assert (await client.chat(SAY)).text == "fine"
        assert begun_at(client).serving == 0


@pytest.mark.parametrize(("on_wire", "asked"), [(True, {}), (False, {"stream": True})])
async def test_the_engine_is_notified_of_the_first_output_only(on_wire, asked):
    serving, ask = [], asyncio.Event()

    async def look(_, writer):
        await ask.wait()
        ask.clear()

    head = answer(b"", **EVENTS | {"content_length": len(OPENING + OUTPUT)})
    script = (head + OPENING, look, OUTPUT[:-1], look, OUTPUT[-1:])
    async with (
        served(script) as server,
        client_of(server.base_url, stream_on_wire=on_wire) as client,
    ):
        calling = asyncio.create_task(client.chat(SAY, **asked))
        await server.asked()
        for _ in range(2):  # the opening, then all of the output except its last line break
            await asyncio.sleep(0.05)
            serving.append(begun_at(client).serving)
            ask.set()
        await calling
        serving.append(begun_at(client).serving)
        proven = begun_at(client).at(asyncio.get_running_loop().time())
    assert serving == [0, 0, 0]
    assert proven == 1
