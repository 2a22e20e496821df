"""Answers of the client: text, usage, embeddings, choices, and rejected requests."""

import json

import httpx2
import pytest
from chat_stream import WHOLE
from clients import KEY, ONCE, SAY, client_of, sent_by
from sockets import BODY, answer, failing, served
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.httpx2 import AsyncTransport
from stormbreak.testing import answer_text
from stormbreak.types import Answer, Usage, Verdict


async def test_chat_returns_an_answer_with_text_usage_and_target(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    payload = {"model": "storm-1", "messages": SAY, "temperature": 0.5}
    async with AsyncClient(base_url=provider.base_url, api_key=KEY) as client:
        got = await client.chat(SAY, model="storm-1", temperature=0.5)
        again = await client.request("chat/completions", payload)
    assert isinstance(got, Answer)
    assert got.text == again.text == answer_text(payload)
    assert json.loads(got.raw)["choices"][0]["message"]["content"] == got.text
    assert (got.usage.input_tokens > 0, got.usage.output_tokens) == (True, 14)
    assert (got.attempts, got.waited, got.status, got.cost) == (1, 0.0, 200, None)
    assert got.request_id.startswith("req_")
    assert (got.target.provider, got.target.model) == (f"127.0.0.1:{provider.port}", "storm-1")
    assert got.target == client.target("storm-1")
    assert got.text not in repr(got)
    assert KEY not in f"{got!r} {got.target}"


async def test_an_assembled_stream_equals_the_plain_answer(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    async with AsyncClient(base_url=provider.base_url, model="storm-1") as client:
        plain = await client.chat(SAY)
        stream = await client.chat(SAY, stream=True, stream_options={"include_usage": True})
    assert stream.text == plain.text
    assert stream.usage == plain.usage != Usage()
    one, other = json.loads(stream.raw), json.loads(plain.raw)
    assert one["object"] == other["object"] == "chat.completion"
    assert one["choices"][0]["message"] == other["choices"][0]["message"]


async def test_the_type_of_a_stream_may_have_capitals():
    """RFC 9110, section 8.3.1. Found: a stream that was not requested was broken, and requested again."""
    odd = answer(WHOLE, content_type="Text/Event-Stream; charset=UTF-8")
    async with served(odd, odd) as server:
        async with client_of(server) as client:
            assert (await client.chat(SAY)).attempts == 1
        async with httpx2.AsyncClient(transport=AsyncTransport(ONCE)) as sdk:
            url = f"{server.base_url}/chat/completions"
            got = await sdk.post(url, json={"model": "m", "messages": SAY})
    assert got.json()["choices"]
    assert got.headers["content-type"] == "application/json"


async def test_an_embeddings_request_returns_usage_and_no_text(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    async with AsyncClient(base_url=provider.base_url) as client:
        got = await client.request("embeddings", {"model": "storm-1", "input": ["a", "b"]})
    assert got.text == ""
    assert len(json.loads(got.raw)["data"]) == 2
    assert got.usage.input_tokens > 0


@table_test(
    ("given", "inputs"),
    [
        ("text", 1),
        (["a", "b", "c"], 3),
        ([[1, 2], [3]], 2),
        ([1, 2, 3], 1),
    ],
)
async def test_fewer_or_more_embeddings_than_inputs_are_broken(given, inputs):
    """Found: the client accepted one vector for three inputs."""
    for vectors in (1, 2, 3):
        body = json.dumps({"data": [{"embedding": [0.1]}] * vectors}).encode()
        async with served(answer(body)) as server, client_of(server, ONCE) as client:
            ended = await client.ask(
                "embeddings", json.dumps({"model": "m", "input": given}).encode()
            )
        found = (ended.outcome.verdict, ended.outcome.detail)
        broken = (Verdict.BROKEN, f"{vectors} of {inputs} embeddings")
        assert found == ((Verdict.OK, None) if vectors == inputs else broken)


@table_test("given", [None, [], {"a": 1}, [{"text": "a"}, {"image": "b"}], 5, [None]])
async def test_inputs_of_an_unknown_form_are_not_counted(given):
    body = json.dumps({"data": [{"embedding": [0.1]}] * 3}).encode()
    async with served(answer(body)) as server, client_of(server, ONCE) as client:
        ended = await client.ask("embeddings", json.dumps({"model": "m", "input": given}).encode())
        again = await client.ask("embeddings", b'{"model":"m"}')
        await client.ask("embeddings", b'{"model":"m","input":"\xff"}')
    assert (ended.outcome.verdict, again.outcome.verdict) == (Verdict.OK, Verdict.OK)


async def test_fewer_choices_than_requested_are_reported():
    async with served() as server, client_of(server, ONCE) as client:
        ended = await client.ask("chat/completions", b'{"model":"m","n":2}')
        assert (ended.outcome.verdict, ended.outcome.detail) == (Verdict.OK, "1 of 2 choices")
        ended = await client.ask("chat/completions", b'{"model":"m","n":2,"stream":true}')
        assert (ended.outcome.verdict, ended.outcome.detail) == (Verdict.OK, "1 of 2 choices")
        assert (await client.chat([], n=2)).detail == "1 of 2 choices"
        assert (await client.chat([])).detail is None


@table_test(
    ("code", "status", "shown"),
    [
        ("rate_limit_exceeded", 429, "rate_limit_exceeded"),
        ("RESOURCE_EXHAUSTED", 429, "RESOURCE_EXHAUSTED"),
        ("invalid_request_error", 400, "invalid_request_error"),
        (429, 200, "429"),
        ("our_plan", 400, None),
    ],
)
async def test_a_well_known_error_code_is_not_redacted(code, status, shown):
    """Found: a prompt about an error code hid that code in the answer."""
    body = json.dumps({"model": "m", "prompt": f"What is {code}?"}).encode()
    async with served(failing(status, {"code": code})) as server, client_of(server, ONCE) as client:
        ended = await client.ask("chat/completions", body)
    assert ended.outcome.code == ended.outcome.value.parsed.code == shown


async def test_the_model_of_a_call_overrides_that_of_the_client():
    async with served() as server, client_of(server) as client:
        await client.chat(SAY)
        await client.chat(SAY, model="other")
        await client.request("chat/completions", {"model": "third"})
        await client.request("chat/completions", {"model": None})
    assert [body["model"] for body in sent_by(server)] == ["m", "other", "third", "m"]
    assert [request.line.split()[1] for request in server.requests] == ["/v1/chat/completions"] * 4


async def test_an_invalid_request_is_rejected_before_it_is_sent():
    secret = "canary\ud800"
    async with served() as server:
        async with client_of(server, model=None) as client:
            with pytest.raises(ConfigurationError, match="model is missing"):
                await client.chat(SAY)
        async with client_of(server) as client:
            for payload in ({"x": object()}, {"x": secret}, {"n": "x"}, {"stream": "canary"}):
                with pytest.raises(ConfigurationError) as caught:
                    await client.request("chat/completions", payload)
                assert "canary" not in f"{caught.value} {caught.value.__context__!r}"
            for body in (b"", b"[]", b"{", b'{"model":1}', b"{}", b'{"model":"canary\xff"}'):
                with pytest.raises(ConfigurationError) as caught:
                    await client.ask("chat/completions", body)
                assert "canary" not in f"{caught.value} {caught.value.__context__!r}"
            with pytest.raises(ConfigurationError, match="endpoint"):
                await client.request("https://evil.com/x", {})
        assert not server.requests


async def test_ask_returns_failures_as_values():
    async with served(answer(), failing(400)) as server, client_of(server) as client:
        good = await client.ask("chat/completions", b'{"model":"m"}')
        bad = await client.ask("chat/completions", b'{"model":"m"}')
    assert (good.outcome.verdict, good.outcome.value.body) == (Verdict.OK, BODY)
    assert (bad.outcome.verdict, bad.outcome.status) == (Verdict.INVALID, 400)
    assert sent_by(server)[0] == {"model": "m"}
