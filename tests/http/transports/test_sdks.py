"""The SDKs over our transport: their answers, their exceptions, and the number of requests."""

import asyncio
import json

import anthropic
import httpx2
import openai
import pytest
from sdk_clients import KEY, MESSAGE, ONCE, QUICK, SAY, SDKS, each_sdk, sdk_client
from sockets import End, answer, failing, free_port, served

from stormbreak import explain
from stormbreak.core.backoff import Backoff
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy

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
async def test_an_error_has_the_message_of_the_provider(sdk):
    error = {"message": "hello is no such model", "type": "invalid_request_error"}
    async with (
        served(failing(400, error, x_request_id="req_1")) as server,
        sdk_client(sdk, server.base_url) as (client, _),
    ):
        with pytest.raises(sdk.module.BadRequestError, match="hello is no such model") as caught:
            await sdk.ask(client)
    assert caught.value.response.headers["x-request-id"] == "req_1"


@each_sdk
async def test_a_cooldown_that_is_too_long_is_a_rate_limit_error(sdk):
    async with (
        served(failing(429, retry_after=600)) as server,
        sdk_client(sdk, server.base_url) as (client, _),
    ):
        for _ in range(2):
            with pytest.raises(sdk.module.RateLimitError) as caught:
                await sdk.ask(client)
    assert len(server.requests) == 1
    assert int(caught.value.response.headers["retry-after"]) >= 599


@each_sdk
async def test_a_lost_connection_is_not_retried_by_the_sdk(sdk):
    policy = Policy(
        retry_budget=None,
        retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.0)),
    )
    async with (
        served([End.CLOSE]) as server,
        sdk_client(sdk, server.base_url, policy, max_retries=1) as (client, _),
    ):
        with pytest.raises(sdk.module.APIConnectionError) as caught:
            await sdk.ask(client)
    assert len(server.requests) == 2
    notes = "\n".join(caught.value.__cause__.__notes__)
    assert notes.count("reset") == 3
    assert notes == explain(caught.value)


@each_sdk
async def test_a_refused_connection_raises_connect_error(sdk):
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with sdk_client(sdk, url, ONCE, max_retries=0) as (client, _):
        with pytest.raises(sdk.module.APIConnectionError) as caught:
            await sdk.ask(client)
    assert type(caught.value.__cause__).__name__ == "ConnectError"


@each_sdk
async def test_the_timeout_of_the_sdk_bounds_the_whole_plain_call(sdk):
    async with (
        served([End.HANG]) as server,
        sdk_client(sdk, server.base_url, timeout=0.3, max_retries=1) as (client, _),
    ):
        with pytest.raises(sdk.module.APITimeoutError):
            await sdk.ask(client)
        assert len(server.requests) == 1
        with pytest.raises(sdk.module.APITimeoutError):  # a new call, and not a retry
            await sdk.ask(client)
    assert len(server.requests) == 2


@each_sdk
async def test_the_connect_timeout_of_the_sdk_is_respected(sdk, full_port):
    spans = httpx2.Timeout(60, connect=0.2)
    url = f"http://127.0.0.1:{full_port}/v1"
    async with sdk_client(sdk, url, ONCE, timeout=spans, max_retries=0) as (client, _):
        async with asyncio.timeout(30):
            with pytest.raises(sdk.module.APITimeoutError) as caught:
                await sdk.ask(client)
    assert type(caught.value.__cause__).__name__ == "ConnectTimeout"


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
        sdk_client(sdk, server.base_url) as (client, _),
    ):
        with pytest.raises(getattr(sdk.module, raised), match=inside["message"]):
            await sdk.ask(client)
    assert len(server.requests) == QUICK.retry.max_attempts


@each_sdk
async def test_html_in_place_of_an_answer_raises_a_502(sdk):
    html = answer(b"<html>hello", content_type="text/html")
    async with served(html) as server, sdk_client(sdk, server.base_url) as (client, _):
        with pytest.raises(sdk.module.InternalServerError) as caught:
            await sdk.ask(client)
    assert caught.value.status_code == 502
    assert "hello" not in str(caught.value)
    assert len(server.requests) == QUICK.retry.max_attempts


@each_sdk
async def test_a_cut_body_is_retried(sdk):
    cut = [good(sdk)[:-5], End.CLOSE]
    async with served(cut, good(sdk)) as server, sdk_client(sdk, server.base_url) as (client, _):
        assert sdk.text(await sdk.ask(client)) == "fine"
    assert len(server.requests) == 2


@each_sdk
async def test_headers_are_passed_on(sdk):
    async with served(good(sdk)) as server, sdk_client(sdk, server.base_url) as (client, _):
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
        sdk_client(sdk, server.base_url) as (client, _),
    ):
        await sdk.ask(client)
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1


async def test_a_redirect_is_not_followed_by_transport_or_sdk():
    async with (
        served(failing(307, location="http://localhost:1/v1/chat/completions")) as server,
        sdk_client(SDKS[0], server.base_url) as (client, _),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await SDKS[0].ask(client)
    assert caught.value.status_code == 307
    assert len(server.requests) == 1


async def test_a_call_streamed_on_the_wire_is_a_plain_answer_for_the_sdk(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with sdk_client(SDKS[0], provider.base_url, stream_on_wire=True) as (client, _):
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=SAY)
        assert raw.headers["content-type"] == "application/json"
        parsed = raw.parse()
        assert parsed.usage.completion_tokens > 0
        assert parsed.choices[0].message.content.startswith("Answer ")
    assert provider.stats()["arrivals"] == 1


async def test_a_call_streamed_on_the_wire_accepts_an_event_stream():
    async with (
        served(failing(400)) as server,
        sdk_client(SDKS[0], server.base_url, stream_on_wire=True) as (client, _),
    ):
        with pytest.raises(openai.BadRequestError):
            await SDKS[0].ask(client)
    (request,) = server.requests
    assert request.headers["accept"] == "text/event-stream"
    assert json.loads(request.body)["stream"] is True


async def test_address_key_and_model_make_separate_targets():
    async with (
        served(answer(FINE)) as one,
        served(answer(FINE)) as other,
        sdk_client(SDKS[0], one.base_url) as (client, transport),
    ):
        await SDKS[0].ask(client)
        for changed in ({"base_url": other.base_url}, {"api_key": "another-key-987654321"}):
            await SDKS[0].ask(client.with_options(**changed))
        await client.chat.completions.create(model="other", messages=[])
        targets = transport.snapshot()["targets"]
        assert one.opened == 1  # one connection for both keys
    assert len(targets) == 4
    assert KEY not in str(targets)
