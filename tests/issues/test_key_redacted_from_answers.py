"""The redaction of the API key changed answers: with the placeholder key "anything" of LiteLLM, that word became "[...]".

A successful answer is never changed, neither for the caller, an SDK, a stream, OUTPUT nor the cache.
"""

import json

import httpx2
import pytest
from chat_stream import DONE, STOP, chunk
from sockets import EVENTS, answer, served

from stormbreak import AsyncClient
from stormbreak.errors import InvalidRequestError
from stormbreak.httpx2 import AsyncTransport

KEYS = ["anything", "sk-canary-0123456789abcdef"]
PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def whole(key):
    choice = {"message": {"content": f"Ask me {key}"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice]}).encode()


def streamed(key):
    return answer(chunk(f"Ask me {key}") + STOP + DONE, **EVENTS)


@pytest.mark.parametrize("key", KEYS)
async def test_a_plain_answer_that_contains_the_key_is_unchanged(key):
    body = whole(key)
    async with (
        served(answer(body)) as server,
        AsyncClient(base_url=server.base_url, api_key=key) as client,
    ):
        got = await client.request("chat/completions", PAYLOAD)

    assert (got.text, got.raw) == (f"Ask me {key}", body)


@pytest.mark.parametrize("key", KEYS)
async def test_a_stream_that_contains_the_key_is_unchanged(key):
    async with (
        served(streamed(key)) as server,
        AsyncClient(base_url=server.base_url, api_key=key) as client,
    ):
        put_together = await client.request("chat/completions", PAYLOAD | {"stream": True})
        async with client.stream("chat/completions", PAYLOAD) as stream:
            passed = "".join([text async for text in stream.texts()])
        async with client.stream("chat/completions", PAYLOAD) as stream:
            awaited = await stream.answer()

    assert [put_together.text, passed, awaited.text] == [f"Ask me {key}"] * 3
    assert json.loads(awaited.raw)["choices"][0]["message"]["content"] == f"Ask me {key}"


@pytest.mark.parametrize("key", KEYS)
async def test_an_answer_to_an_sdk_that_contains_the_key_is_unchanged(key):
    body = whole(key)
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        served(answer(body)) as server,
        httpx2.AsyncClient(transport=AsyncTransport()) as http,
    ):
        url = f"{server.base_url}/chat/completions"
        got = await http.post(url, json=PAYLOAD, headers=headers)

    assert got.content == body


async def test_an_error_that_contains_the_key_is_redacted():
    key = KEYS[1]
    error = {"message": f"{key} may not", "code": key}
    async with (
        served(answer(json.dumps({"error": error}).encode(), 400)) as server,
        AsyncClient(base_url=server.base_url, api_key=key) as client,
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await client.request("chat/completions", PAYLOAD)
        ended = await client.ask("chat/completions", json.dumps(PAYLOAD).encode())

    assert "canary" not in str(caught.value)
    assert json.loads(ended.outcome.value.body)["error"] == {
        "message": "[...] may not",
        "code": "[...]",
    }
