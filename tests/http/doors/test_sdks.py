"""The SDKs over our door: what they get, what they raise, and how often something is sent."""

import asyncio
import json

import anthropic
import openai
import pytest
from doors import KEY, MESSAGE, ONCE, QUICK, SDKS, door, each_sdk, in_flight
from sockets import End, answer, failing, free_port, served

from stormbreak import explain
from stormbreak.core.backoff import Constant
from stormbreak.core.circuit import BreakerPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures

FINE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "fine"},
                "finish_reason": "stop",
            }
        ],
    }
).encode()


def good(sdk):
    return MESSAGE if sdk.module is anthropic else answer(FINE)


@each_sdk
@pytest.mark.parametrize(
    ("throttled", "overloaded", "policy"), [((2, 3), 1, "interactive"), ((1, 2), 3, QUICK)]
)
async def test_through_two_429s_and_a_503(stormbreak_provider, sdk, throttled, overloaded, policy):
    provider = stormbreak_provider(f"""
        [provider]
        service = 0.01
        [[trouble]]
        kind = "429"
        retry_after = 0.5
        form = "ms"
        requests = {list(throttled)}
        [[trouble]]
        kind = "503"
        requests = [{overloaded}]
    """)
    async with door(sdk, provider.base_url, policy) as (client, _):
        said = await sdk.ask(client)
    assert sdk.text(said).startswith("Answer ")
    stats = provider.stats()
    assert stats["arrivals"] == 1 + 3
    assert stats["early"] == 0


@each_sdk
async def test_a_permanent_429_costs_what_the_policy_says(sdk):
    async with (
        served(failing(429, retry_after=0)) as server,
        door(sdk, server.base_url) as (client, _),
    ):
        with pytest.raises(sdk.module.RateLimitError) as caught:
            await sdk.ask(client)
    assert len(server.requests) == QUICK.retry.attempts
    headers = caught.value.response.headers
    assert headers["x-stormbreak-attempts"] == str(QUICK.retry.attempts)
    assert headers["x-should-retry"] == "false"
    assert explain(caught.value).count("throttled") == QUICK.retry.attempts + 1
    assert KEY not in explain(caught.value)


@each_sdk
async def test_a_used_up_quota_is_asked_for_once(stormbreak_provider, sdk):
    kind = "quota" if sdk.module is openai else "spend_limit"
    provider = stormbreak_provider(f'[[trouble]]\nkind = "{kind}"\n')
    async with door(sdk, provider.base_url, "interactive") as (client, _):
        with pytest.raises(sdk.module.RateLimitError) as caught:
            await sdk.ask(client)
    assert provider.stats()["arrivals"] == 1
    if sdk.module is openai:
        assert caught.value.code == "insufficient_quota"


@each_sdk
async def test_the_message_of_an_error_is_the_provider_s_own(sdk):
    said = {"message": "hello is no such model", "type": "invalid_request_error"}
    async with (
        served(failing(400, said, x_request_id="req_1")) as server,
        door(sdk, server.base_url) as (client, _),
    ):
        with pytest.raises(sdk.module.BadRequestError, match="hello is no such model") as caught:
            await sdk.ask(client)
    assert caught.value.response.headers["x-request-id"] == "req_1"


TRIPPED = Policy(
    budget=None,
    retry=RetryPolicy(attempts=1),
    fail_fast=True,
    breaker=BreakerPolicy(trip=ConsecutiveFailures(threshold=1), open_for=30.0),
)


@each_sdk
async def test_an_open_circuit_sends_nothing(sdk):
    async with (
        served(failing(500)) as server,
        door(sdk, server.base_url, TRIPPED) as (client, _),
    ):
        with pytest.raises(sdk.module.InternalServerError):
            await sdk.ask(client)
        with pytest.raises(sdk.module.InternalServerError, match="the circuit is open") as caught:
            await sdk.ask(client)
    assert len(server.requests) == 1
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) > 1
    assert caught.value.response.headers["x-stormbreak-attempts"] == "0"
    assert "rejected by breaker" in explain(caught.value)


@each_sdk
async def test_a_cooldown_that_is_too_long_is_a_rate_limit_error(sdk):
    async with (
        served(failing(429, retry_after=600)) as server,
        door(sdk, server.base_url) as (client, _),
    ):
        for _ in range(2):
            with pytest.raises(sdk.module.RateLimitError) as caught:
                await sdk.ask(client)
    assert len(server.requests) == 1
    assert int(caught.value.response.headers["retry-after"]) >= 599


@each_sdk
async def test_a_lost_connection_is_what_it_was_and_not_tried_again_by_the_sdk(sdk):
    policy = Policy(budget=None, retry=RetryPolicy(attempts=2, backoff=Constant(seconds=0.0)))
    async with (
        served([End.CLOSE]) as server,
        door(sdk, server.base_url, policy, max_retries=1) as (client, _),
    ):
        with pytest.raises(sdk.module.APIConnectionError) as caught:
            await sdk.ask(client)
    assert len(server.requests) == 2
    notes = "\n".join(caught.value.__cause__.__notes__)
    assert notes.count("reset") == 3
    assert notes == explain(caught.value)


@each_sdk
async def test_nobody_listens(sdk):
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with door(sdk, url, ONCE, max_retries=0) as (client, _):
        with pytest.raises(sdk.module.APIConnectionError) as caught:
            await sdk.ask(client)
    assert type(caught.value.__cause__).__name__ == "ConnectError"


@each_sdk
async def test_the_timeout_of_a_plain_call_bounds_all_of_it(sdk):
    async with (
        served([End.HANG]) as server,
        door(sdk, server.base_url, timeout=0.3, max_retries=1) as (client, _),
    ):
        with pytest.raises(sdk.module.APITimeoutError):
            await sdk.ask(client)
        assert len(server.requests) == 1
        with pytest.raises(sdk.module.APITimeoutError):  # a call of its own, and no retry
            await sdk.ask(client)
    assert len(server.requests) == 2


@each_sdk
@pytest.mark.parametrize(
    ("inside", "raised"),
    [
        ({"message": "slower", "type": "rate_limit_error", "code": 429}, "RateLimitError"),
        ({"message": "no", "type": "server_error", "code": 500}, "InternalServerError"),
    ],
)
async def test_an_error_inside_a_200_is_raised(sdk, inside, raised):
    async with (
        served(answer(json.dumps({"error": inside}).encode())) as server,
        door(sdk, server.base_url) as (client, _),
    ):
        with pytest.raises(getattr(sdk.module, raised), match=inside["message"]):
            await sdk.ask(client)
    assert len(server.requests) == QUICK.retry.attempts


@each_sdk
async def test_what_is_no_answer_is_raised(sdk):
    html = answer(b"<html>hello", content_type="text/html")
    async with served(html) as server, door(sdk, server.base_url) as (client, _):
        with pytest.raises(sdk.module.InternalServerError) as caught:
            await sdk.ask(client)
    assert caught.value.status_code == 502
    assert "hello" not in str(caught.value)
    assert len(server.requests) == QUICK.retry.attempts


@each_sdk
async def test_a_cut_body_is_asked_for_again(sdk):
    cut = [good(sdk)[:-5], End.CLOSE]
    async with served(cut, good(sdk)) as server, door(sdk, server.base_url) as (client, _):
        assert sdk.text(await sdk.ask(client)) == "fine"
    assert len(server.requests) == 2


@each_sdk
async def test_a_cancel_leaves_nothing_behind(sdk):
    async with (
        served([End.HANG]) as server,
        door(sdk, server.base_url) as (client, transport),
    ):
        asking = asyncio.create_task(sdk.ask(client))
        await server.asked()
        assert in_flight(transport) == 1
        await sdk.give_up(asking, transport)
        assert in_flight(transport) == 0
        await server.all_closed()


@each_sdk
async def test_headers_are_passed_on(sdk):
    async with served(good(sdk)) as server, door(sdk, server.base_url) as (client, _):
        own = {"x-mine": "1", "x-stormbreak-priority": "batch", "connection": "close"}
        await sdk.ask(client, extra_headers=own)
        await sdk.ask(client, extra_headers={"idempotency-key": "mine"})
    first, second = (request.headers for request in server.requests)
    assert first["x-mine"] == "1"
    assert not [name for name in first if name.startswith("x-stormbreak")]
    assert first["idempotency-key"] != second["idempotency-key"] == "mine"
    assert KEY in str(first)
    assert str(sdk.module.__version__) in str(first)


@each_sdk
async def test_attempts_share_an_idempotency_key(sdk):
    async with (
        served(failing(500), good(sdk)) as server,
        door(sdk, server.base_url) as (client, _),
    ):
        await sdk.ask(client)
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1


async def test_a_redirect_is_not_followed_by_anybody():
    async with (
        served(failing(307, location="http://localhost:1/v1/chat/completions")) as server,
        door(SDKS[0], server.base_url) as (client, _),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await SDKS[0].ask(client)
    assert caught.value.status_code == 307
    assert len(server.requests) == 1


async def test_a_stream_is_plain_on_the_wire_only(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with door(SDKS[0], provider.base_url, stream_on_wire=True) as (client, _):
        said = await SDKS[0].ask(client)
        assert said.usage.completion_tokens > 0
        assert said.choices[0].message.content.startswith("Answer ")
    assert provider.stats()["arrivals"] == 1


async def test_targets_are_told_apart():
    async with (
        served(answer(FINE)) as one,
        served(answer(FINE)) as other,
        door(SDKS[0], one.base_url) as (client, transport),
    ):
        await SDKS[0].ask(client)
        for changed in ({"base_url": other.base_url}, {"api_key": "another-key-987654321"}):
            await SDKS[0].ask(client.with_options(**changed))
        await client.chat.completions.create(model="other", messages=[])
        targets = transport.snapshot()["targets"]
        assert one.opened == 1  # whatever the key
    assert len(targets) == 4
    assert KEY not in str(targets)
