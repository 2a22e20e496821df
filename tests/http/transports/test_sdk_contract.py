"""The contract of the transports, under each SDK and under none, async and blocking."""

import asyncio
from itertools import permutations

import anthropic
import openai
import pytest
from sdk_clients import KEY, QUICK, WAYS, each_way, in_flight, sdk_client
from sdk_stream_events import HEAD, hello
from sockets import End, failing, served

from stormbreak import explain
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures

TRIPPED = Policy(
    retry_budget=None,
    retry=RetryPolicy(max_attempts=1),
    fail_fast=True,
    breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1), open_duration=30.0),
)
ORDERS = sorted(set(permutations((429, 429, 503))))  # the first is the hardest: see ADR 23
CASES = [(way, ORDERS[0]) for way in WAYS] + [(WAYS[0], order) for order in ORDERS[1:]]


def fault(number, status):
    wait = "retry_after = 0.5\nretry_after_form = 'ms'" if status == 429 else ""
    return f"[[faults]]\nkind = '{status}'\nrequests = [{number}]\n{wait}\n"


async def test_a_call_succeeds_after_two_429s_and_a_503_with_three_retries(stormbreak_provider):
    async def through(sdk, order):
        scenario = "".join(fault(number, status) for number, status in enumerate(order, 1))
        provider = stormbreak_provider(f"[provider]\nservice = 0.01\n{scenario}")
        async with sdk_client(sdk, provider.base_url, "interactive") as (client, _):
            got = await sdk.ask(client)
        assert sdk.text(got).startswith("Answer "), (sdk, order)
        stats = provider.stats()
        assert (stats["arrivals"], stats["early"]) == (1 + 3, 0), (sdk, order)

    await asyncio.gather(*(through(*case) for case in CASES))


@each_way
async def test_a_permanent_429_is_retried_as_often_as_the_policy_allows(sdk):
    async with (
        served(failing(429, retry_after=0)) as server,
        sdk_client(sdk, server.base_url) as (client, _),
    ):
        with pytest.raises(sdk.errors) as caught:
            await sdk.ask(client)
    assert len(server.requests) == QUICK.retry.max_attempts
    headers = caught.value.response.headers
    assert headers["x-stormbreak-attempts"] == str(QUICK.retry.max_attempts)
    assert headers["x-should-retry"] == "false"
    assert explain(caught.value).count("throttled") == QUICK.retry.max_attempts + 1
    assert KEY not in explain(caught.value)


@each_way
async def test_an_exhausted_quota_is_not_retried(stormbreak_provider, sdk):
    kind = "spend_limit" if sdk.module is anthropic else "quota"
    provider = stormbreak_provider(f'[[faults]]\nkind = "{kind}"\n')
    async with sdk_client(sdk, provider.base_url, "interactive") as (client, _):
        with pytest.raises(sdk.errors) as caught:
            await sdk.ask(client)
    assert provider.stats()["arrivals"] == 1
    assert caught.value.response.status_code == 429
    if sdk.module is openai:
        assert caught.value.code == "insufficient_quota"


@each_way
async def test_an_open_circuit_sends_nothing(sdk):
    async with (
        served(failing(500)) as server,
        sdk_client(sdk, server.base_url, TRIPPED) as (client, _),
    ):
        for _ in range(2):
            with pytest.raises(sdk.errors) as caught:
                await sdk.ask(client)
    assert len(server.requests) == 1
    response = caught.value.response
    assert response.status_code == 503
    assert "the circuit is open" in response.text
    assert int(response.headers["retry-after"]) > 1
    assert response.headers["x-stormbreak-attempts"] == "0"
    assert "rejected by breaker" in explain(caught.value)


@each_way
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
async def test_a_cut_stream_raises(sdk, end):
    async with (
        served([HEAD, hello(sdk), end]) as server,
        sdk_client(sdk, server.base_url) as (client, transport),
    ):
        stream = await sdk.ask(client, stream=True)
        with pytest.raises(sdk.errors) as caught:
            await sdk.read(stream)
        assert in_flight(transport) == 0
    assert len(server.requests) == 1
    assert "broken" in explain(caught.value)


@each_way
async def test_an_abandoned_call_frees_its_slot_and_connection(sdk):
    async with (
        served([End.HANG]) as server,
        sdk_client(sdk, server.base_url) as (client, transport),
    ):
        asking = asyncio.create_task(sdk.ask(client))
        await server.asked()
        assert in_flight(transport) == 1
        await sdk.give_up(asking, transport)
        assert in_flight(transport) == 0
        await server.all_closed()


@each_way
async def test_a_stream_abandoned_while_read_frees_its_slot_and_connection(sdk):
    async with (
        served([HEAD, hello(sdk), End.HANG]) as server,
        sdk_client(sdk, server.base_url) as (client, transport),
    ):
        stream = await sdk.ask(client, stream=True)
        reading = asyncio.create_task(sdk.read(stream))
        await asyncio.sleep(0.05)
        assert in_flight(transport) == 1
        await sdk.give_up(reading, transport)
        assert in_flight(transport) == 0
        await server.all_closed()


@each_way
async def test_a_closed_stream_frees_its_slot_and_connection(sdk):
    async with (
        served([HEAD, hello(sdk), End.HANG]) as server,
        sdk_client(sdk, server.base_url) as (client, transport),
    ):
        stream = await sdk.ask(client, stream=True)
        for _ in range(2):
            await sdk.close(stream)
            assert in_flight(transport) == 0
        await server.all_closed()
