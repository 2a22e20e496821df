"""Five hundred concurrent calls on real sockets with answers of maximum length: the bill never exceeds the limit."""

import asyncio
from decimal import Decimal

import pytest
from metering import prices, usage

from stormbreak import AsyncClient
from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.errors import CallError, RejectedError

AT_ONCE = 500
LIMIT = 2.0  # about 0.0156 dollars for each call
LONG = """
[provider]
slots = 400
service = 0.05
use_max_tokens = true

[[faults]]
kind = "cut_stream"
share = 0.1

[[faults]]
kind = "stream_reset"
share = 0.1

[[faults]]
kind = "500"
share = 0.1
"""


def price_of(provider, model):
    return prices(provider, model, into="3", out="15")


def payload(number, **more):
    message = {"role": "user", "content": f"call {number}"}
    return {"model": "m", "messages": [message], **more}


def policy(**spend):
    return Policy(
        spend=SpendPolicy(**spend),
        limit=FixedLimit(max_in_flight=AT_ONCE),
        retry=RetryPolicy(max_attempts=5, backoff=Backoff(initial_delay=0.02, max_delay=0.1)),
        breaker=None,
        patience=5.0,
    )


def billed(provider):
    cost = price_of("", "").cost_of
    return sum(
        cost(usage(each.input_tokens, each.output_tokens)) for each in provider.billed().values()
    )


async def test_the_bill_never_exceeds_the_limit(stormbreak_provider):
    provider = stormbreak_provider(LONG)
    seen = []

    async def call(client, number):
        asked = payload(number, max_tokens=1000)
        try:
            if number % 2:
                await client.request("chat/completions", asked)
            else:
                async with client.stream("chat/completions", asked) as stream:
                    await stream.answer()
        except RejectedError as error:
            return error.ended.stopped
        except CallError:
            return "failed"
        finally:
            seen.append(billed(provider))
        return "answered"

    rules = policy(max_usd=LIMIT)
    async with AsyncClient(
        base_url=provider.base_url, api_key="any", policy=rules, prices=price_of
    ) as client:
        fates = await asyncio.gather(*(call(client, number) for number in range(AT_ONCE)))
        (spend,) = client.snapshot()["spend"]

    assert max(seen) <= Decimal(str(LIMIT))
    assert billed(provider) <= Decimal(spend["spent"]) <= Decimal(str(LIMIT))
    assert billed(provider) > Decimal("1.5")  # and the limit was used
    assert Decimal(spend["reserved"]) == 0
    assert fates.count("answered") > 80
    assert fates.count("spend") > 250


async def test_max_output_tokens_bounds_a_request_without_a_bound(stormbreak_provider):
    provider = stormbreak_provider(LONG)
    rules = policy(max_usd=LIMIT, max_output_tokens=50)
    async with AsyncClient(
        base_url=provider.base_url, api_key="any", policy=rules, prices=price_of
    ) as client:
        answer = await client.request("chat/completions", payload(1))
        async with client.stream("chat/completions", payload(2)) as stream:
            streamed = await stream.answer()

    assert (answer.usage.output_tokens, streamed.usage.output_tokens) == (50, 50)


async def test_a_request_without_a_bound_is_rejected():
    async with AsyncClient(
        base_url="http://127.0.0.1:9/v1", api_key="-", policy=policy(max_usd=1.0), prices=price_of
    ) as client:
        with pytest.raises(RejectedError, match="nothing in the request bounds what it costs"):
            await client.request("chat/completions", payload(1))


async def test_a_model_without_a_price_is_rejected():
    async with AsyncClient(
        base_url="http://127.0.0.1:9/v1", api_key="-", policy=policy(max_usd=1.0)
    ) as client:
        with pytest.raises(RejectedError, match=r"no price is known for m at 127\.0\.0\.1:9"):
            await client.request("chat/completions", payload(1, max_tokens=10))


@pytest.mark.parametrize(("ttl", "fits"), [("5m", True), ("1h", False)])
async def test_a_cache_for_an_hour_reserves_its_higher_price(ttl, fits, stormbreak_provider):
    provider = stormbreak_provider("[provider]\nservice = 0.01\n")
    control = {"type": "ephemeral", "ttl": ttl}
    part = {"type": "text", "text": "word " * 20_000, "cache_control": control}
    asked = {"model": "m", "messages": [{"role": "user", "content": [part]}], "max_tokens": 10}

    def written(provider, model):
        return prices(provider, model, into="3", out="15", written="3.75", hour="6")

    async with AsyncClient(
        base_url=provider.base_url, api_key="any", policy=policy(max_usd=0.5), prices=written
    ) as client:
        if fits:
            assert (await client.request("messages", asked)).usage.cache_write_tokens > 20_000
        else:
            with pytest.raises(RejectedError, match=r"it may cost 0\.6"):
                await client.request("messages", asked)
