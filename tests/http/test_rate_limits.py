"""Quotas on real sockets: headers are read if the policy learns, and token estimates are settled."""

import time
from dataclasses import replace

import pytest
from sockets import answer, served

from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.http.client import AsyncClient

SAY = [{"role": "user", "content": "hello"}]
SPENT = {
    "x_ratelimit_limit_requests": 3,  # the next in 20 s
    "x_ratelimit_remaining_requests": 0,
    "x_ratelimit_reset_requests": "60s",
}
USED = b'{"choices":[{"message":{"content":"fine"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":6}}'


def client_of(server, *, patience=0.5, **quota):
    policy = replace(Policy(patience=patience), rate_limit=RateLimitPolicy(**quota))
    return AsyncClient(base_url=server.base_url, model="m", policy=policy)


async def ended(client, **payload):
    body = (
        b'{"model":"m","messages":[]%b}'
        % "".join(f',"{key}":{value}' for key, value in payload.items()).encode()
    )
    return await client.ask("chat/completions", body)


@pytest.mark.parametrize("learn", [True, False])
async def test_rate_limit_headers_are_respected_if_the_policy_learns(learn):
    async with (
        served(answer(**SPENT)) as server,
        client_of(server, learn_from_headers=learn) as client,
    ):
        began = time.monotonic()
        await client.chat(SAY)
        second = await ended(client)

    assert second.outcome.verdict.value == ("rejected" if learn else "ok")
    if learn:
        assert second.stopped == "quota"
        assert began + 20 <= second.retry_at <= time.monotonic() + 20


async def test_invalid_rate_limit_headers_are_ignored():
    odd = {
        "x_ratelimit_remaining_tokens": "-1",
        "ratelimit": "%%%",
        "x_ratelimit_remaining": "9" * 400,
    }
    async with (
        served(answer(**odd)) as server,
        client_of(server, learn_from_headers=True) as client,
    ):
        for _ in range(3):
            assert (await ended(client)).outcome.verdict.value == "ok"


async def test_a_token_estimate_is_reserved_and_settled_by_usage():
    limited = {
        "tpm": 6000,
        "burst_seconds": 10,
        "patience": 5,
    }  # a busy machine may need some patience
    async with served(answer(USED)) as server, client_of(server, **limited) as client:
        for _ in range(20):  # each reserves more than nine tenths of the burst, and uses ten tokens
            assert (await ended(client, max_tokens=950)).attempts == 1
        huge = await ended(client, max_tokens=20_000)
        after = await ended(client, max_tokens=950)

    assert huge.attempts == after.attempts == 1


async def test_the_token_estimate_counts_without_usage():
    async with served(answer()) as server, client_of(server, tpm=6000, burst_seconds=10) as client:
        await ended(client, max_tokens=950)
        second = await ended(client, max_completion_tokens=950)

    assert second.stopped == "quota"


STREAMED = (
    b'data: {"choices":[{"index":0,"delta":{"content":"fine"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":6}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream_settles_its_token_estimate_at_its_end(usage):
    body = STREAMED if usage else STREAMED[: STREAMED.index(b'data: {"choices":[],')]
    whole = answer(body, content_type="text/event-stream")
    async with served(whole) as server, client_of(server, tpm=6000, burst_seconds=10) as client:
        payload = {"messages": SAY, "max_tokens": 950}
        async with client.stream("chat/completions", payload) as stream:
            assert await anext(stream.texts()) == "fine"
            assert (await ended(client, max_tokens=950)).stopped == "quota"
            async for _ in stream.texts():
                pass
        after = await ended(client, max_tokens=950)

    assert after.attempts == (1 if usage else 0)


async def test_rate_limit_headers_of_a_stream_are_learned():
    whole = answer(STREAMED, content_type="text/event-stream", **SPENT)
    async with served(whole) as server, client_of(server, learn_from_headers=True) as client:
        async with client.stream("chat/completions", {"messages": SAY}) as stream:
            await stream.answer()
        assert (await ended(client)).stopped == "quota"
