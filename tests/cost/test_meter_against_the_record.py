"""The meter against the bill of the embedded provider, in a storm on real sockets."""

import asyncio
import random
import time
from contextlib import suppress
from decimal import Decimal

import pytest
from metering import prices, usage

from stormbreak import AsyncClient, scope
from stormbreak.core.backoff import Backoff
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.accounts import Bill
from stormbreak.cost.meter import Meter
from stormbreak.errors import CallError
from stormbreak.events import Returned
from stormbreak.provider.counters import Billed
from stormbreak.provider.formats.registry import request_digest

CALLS = 600
AT_ONCE = 40  # a busy machine also answers them in time
STORM = """
[provider]
slots = 30
service = 0.05
variation = 0.6
max_service = 0.4
queue = 300

[[faults]]
kind = "429"
share = 0.05
retry_after = 0.05
retry_after_form = "ms"

[[faults]]
kind = "500"
share = 0.04

[[faults]]
kind = "reset"
share = 0.02

[[faults]]
kind = "hang"
share = 0.02

[[faults]]
kind = "stall"
share = 0.06

[[faults]]
kind = "cut_body"
share = 0.04

[[faults]]
kind = "error_in_200"
share = 0.03

[[faults]]
kind = "cut_stream"
share = 0.06

[[faults]]
kind = "stream_reset"
share = 0.03
"""
POLICY = Policy(
    attempt_timeout=1.0,
    stall_timeout=1.0,
    retry=RetryPolicy(max_attempts=5, backoff=Backoff(initial_delay=0.02, max_delay=0.1)),
    retry_budget=BudgetPolicy(ratio=1.0, capacity=1000.0),
    breaker=None,
    hedge=HedgePolicy(delay=0.25, percentile=None),
)


def payload(number):
    text = f"call {number} " + "word " * (number % 50)
    message = {"role": "user", "content": text}
    return {"model": "m", "messages": [message], "max_tokens": 20 + number % 7}


async def call(client, number, chance):
    """Send one call: plain, streamed, read in part, or cancelled."""
    kind = chance.choice(["plain", "plain", "stream", "part", "cancelled"])
    with scope(labels={"n": str(number)}), suppress(CallError, TimeoutError):
        if kind == "plain":
            await client.request("chat/completions", payload(number))
        elif kind == "cancelled":
            async with asyncio.timeout(chance.uniform(0.0, 0.1)):
                await client.request("chat/completions", payload(number))
        else:
            async with client.stream("chat/completions", payload(number)) as stream:
                async for _ in stream:
                    if kind == "part" and chance.random() < 0.3:
                        break


async def storm(client):
    chance, numbers = random.Random(1), iter(range(CALLS))

    async def work():
        for number in numbers:
            await call(client, number, chance)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


def all_billed(provider):
    """Return the bill when the provider has ended all its work."""
    while (stats := provider.stats())["in_service"] or stats["queue"]:
        time.sleep(0.05)
    return provider.billed()


def prices_of(provider, model):
    return prices(provider, model, into="3", out="15", written="3.75", hour="6")


def cost(billed):
    _, into, out, written, hour = billed
    used = usage(into, out, written=written, hour=hour)
    return prices_of("", "").cost_of(used)


async def test_known_costs_are_exact_and_the_rest_lies_within_its_range(stormbreak_provider):
    provider = stormbreak_provider(STORM, seed=3)
    meter = Meter(prices_of, max_names=CALLS)
    events = []
    async with AsyncClient(base_url=provider.base_url, api_key="any", policy=POLICY) as client:
        client.subscribe(meter)
        client.subscribe(events.append)
        await storm(client)
    record = all_billed(provider)

    bills = meter.snapshot()
    assert not bills.under_way
    assert bills.total.is_whole
    known = [event.usage for event in events if isinstance(event, Returned) and event.usage]
    assert len(known) > CALLS / 5
    assert bills.total.useful.usd == sum(prices_of("", "").cost_of(used) for used in known)
    exact = 0
    for number in range(CALLS):
        billed = cost(record.get(request_digest(payload(number)), Billed()))
        span = bills.labels.get(f"n={number}", Bill()).in_all
        assert span.min_usd <= billed <= span.max_usd
        exact += span.min_usd == span.max_usd > 0
    assert exact > CALLS / 5
    in_all = sum(map(cost, record.values()))
    assert bills.total.in_all.min_usd < in_all < bills.total.in_all.max_usd
    # Losing hedges depend on chance.
    assert {"cut", "cancelled", "timeout", "broken"} <= set(bills.waste)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("endpoint", ["chat/completions", "responses", "messages"])
async def test_every_format_reports_its_usage(endpoint, streamed, stormbreak_provider):
    provider = stormbreak_provider("[provider]\nservice = 0.01\nuse_max_tokens = true\n")
    asked = payload(1) | {"max_tokens": 40}
    if endpoint == "responses":
        asked = {"model": "m", "input": "hello", "max_output_tokens": 40}
    meter = Meter(prices_of)
    async with AsyncClient(base_url=provider.base_url, api_key="any") as client:
        client.subscribe(meter)
        if streamed:
            async with client.stream(endpoint, asked) as stream:
                async for _ in stream:
                    pass
        else:
            await client.request(endpoint, asked)
    (billed,) = all_billed(provider).values()

    assert billed.output_tokens == 40
    assert meter.snapshot().total.in_all == (cost(billed), cost(billed))


MARKS = [{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}, None]


def with_marks():
    """A message with parts cached for five minutes, for an hour, and not at all."""
    parts = [{"type": "text", "text": f"{mark} " * 200, "cache_control": mark} for mark in MARKS]
    return payload(1) | {"system": parts[:1], "messages": [{"role": "user", "content": parts[1:]}]}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_cache_writes_are_billed_exactly(streamed, stormbreak_provider):
    provider = stormbreak_provider("[provider]\nservice = 0.01\n")
    meter = Meter(prices_of)
    limit = Policy(spend=SpendPolicy(max_usd=1.0))
    async with AsyncClient(
        base_url=provider.base_url, api_key="any", policy=limit, prices=prices_of
    ) as client:
        client.subscribe(meter)
        if streamed:
            async with client.stream("messages", with_marks()) as answer:
                async for _ in answer:
                    pass
        else:
            answer = await client.request("messages", with_marks())
        (spend,) = client.snapshot()["spend"]
    (billed,) = all_billed(provider).values()

    assert 0 < billed.cache_write_1h_tokens < billed.cache_write_tokens < billed.input_tokens
    assert cost(billed) == answer.cost == meter.snapshot().total.useful.usd
    assert Decimal(spend["spent"]) == cost(billed)
    plain = billed._replace(cache_write_tokens=0, cache_write_1h_tokens=0)
    assert cost(billed) > cost(plain)
