"""False usage in each format: an invalid count spends the whole reservation and is never billed as known."""

import json
from decimal import Decimal

import pytest
import streamed
from metering import prices
from sockets import answer, served
from table_test import table_test

from stormbreak import AsyncClient
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.meter import Meter

ASKED = {
    "chat/completions": {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 50,
    },
    "messages": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50},
    "responses": {"model": "m", "input": "hi", "max_output_tokens": 50},
}
FIELDS = {
    "chat/completions": ("prompt_tokens", "completion_tokens"),
    "messages": ("input_tokens", "output_tokens"),
    "responses": ("input_tokens", "output_tokens"),
}
FORMATS = table_test("endpoint", list(ASKED))
EACH_WAY = table_test("is_streamed", [False, True])


def whole(endpoint, usage):
    if endpoint == "messages":
        body = streamed.whole_message(["ho"]) | {"usage": usage}
    elif endpoint == "responses":
        body = streamed.whole_response(["ho"], usage=usage)
    else:
        message = {"role": "assistant", "content": "ho"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}
    return answer(json.dumps(body).encode())


def stream(endpoint, *usages):
    """A stream with several usages in sequence."""
    if endpoint == "messages":
        last = streamed.typed("message_stop")
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        more = [streamed.typed("message_delta", delta=end, usage=usage) for usage in usages]
        events = [*streamed.message(["ho"])[:-2], *more, last]
    elif endpoint == "responses":
        events = streamed.response(["ho"], usage=usages[-1])
    else:
        more = [streamed.event({"id": "c", "choices": [], "usage": usage}) for usage in usages]
        events = [*streamed.chat(["ho"])[:-2], *more, streamed.DONE]
    return answer(b"".join(events), content_type="text/event-stream")


async def spent_on(endpoint, script, *, is_streamed):
    """Return the spent share of the reservation, the amount, and the bill."""
    policy = Policy(spend=SpendPolicy(max_usd=1.0))

    def price_of(provider, model):
        return prices(provider, model, into="3", out="15", cached="0.3", written="3.75", hour="6")

    meter = Meter(price_of)
    seen = []
    async with (
        served(script) as server,
        AsyncClient(
            base_url=server.base_url, api_key="-", policy=policy, prices=price_of
        ) as client,
    ):
        client.subscribe(meter)
        client.subscribe(seen.append)
        if is_streamed:
            async with client.stream(endpoint, ASKED[endpoint]) as events:
                async for _ in events:
                    pass
        else:
            await client.request(endpoint, ASKED[endpoint])
        (spend,) = client.snapshot()["spend"]
    bound = next(event.bound for event in seen if hasattr(event, "bound"))
    reserved = price_of("", "").max_cost_within(bound)
    return Decimal(spend["spent"]) / reserved, Decimal(spend["spent"]), meter.snapshot().total


@FORMATS
@EACH_WAY
@pytest.mark.parametrize(
    ("entry", "output"),
    [(10**30, 5), (5, 10**30), (-5, 5), (5, -5), ("5", 5), (5, 0.5), (True, 5), ([5], 5), ({}, 5)],
)
async def test_an_invalid_token_count_spends_the_whole_reservation(
    endpoint, is_streamed, entry, output
):
    usage = dict(zip(FIELDS[endpoint], (entry, output), strict=True))
    script = stream(endpoint, usage) if is_streamed else whole(endpoint, usage)
    share, _, bill = await spent_on(endpoint, script, is_streamed=is_streamed)

    assert share == 1
    assert (bill.useful.attempts, bill.used_uncounted.attempts) == (0, 1)


@FORMATS
@EACH_WAY
async def test_usage_above_the_reservation_is_spent(endpoint, is_streamed):
    usage = dict(zip(FIELDS[endpoint], (100_000, 0), strict=True))
    script = stream(endpoint, usage) if is_streamed else whole(endpoint, usage)
    _, spent, bill = await spent_on(endpoint, script, is_streamed=is_streamed)

    assert spent == bill.in_all.min_usd == bill.in_all.max_usd


@FORMATS
async def test_the_last_usage_of_a_stream_counts_once(endpoint):
    first, last = (dict(zip(FIELDS[endpoint], counts, strict=True)) for counts in ((7, 1), (9, 2)))
    script = stream(endpoint, first, last)
    _, spent, bill = await spent_on(endpoint, script, is_streamed=True)

    assert bill.attempts == 1
    assert bill.useful.output_tokens == 2
    assert spent == bill.useful.usd


@FORMATS
@EACH_WAY
async def test_an_answer_without_usage_spends_the_whole_reservation(endpoint, is_streamed):
    script = stream(endpoint, None) if is_streamed else whole(endpoint, None)
    share, *_ = await spent_on(endpoint, script, is_streamed=is_streamed)

    assert share == 1


@EACH_WAY
@table_test("written", [-1, 10**30, "5", 0.5, True, {}, [5]])
@pytest.mark.parametrize("name", ["flat", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"])
async def test_an_invalid_count_of_cache_writes_spends_the_whole_reservation(
    name, written, is_streamed
):
    counts = {"cache_creation_input_tokens": written}
    if name != "flat":
        counts = {"cache_creation_input_tokens": 5, "cache_creation": {name: written}}
    usage = {"input_tokens": 5, "output_tokens": 5, **counts}
    script = stream("messages", usage) if is_streamed else whole("messages", usage)
    share, _, bill = await spent_on("messages", script, is_streamed=is_streamed)

    assert share == 1
    assert (bill.useful.attempts, bill.used_uncounted.attempts) == (0, 1)


@EACH_WAY
async def test_cache_writes_are_spent_at_their_price(is_streamed):
    kept = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 20}
    usage = {"input_tokens": 10, "cache_read_input_tokens": 30, "output_tokens": 2}
    usage |= {"cache_creation_input_tokens": 120, "cache_creation": kept}
    script = stream("messages", usage) if is_streamed else whole("messages", usage)
    _, spent, bill = await spent_on("messages", script, is_streamed=is_streamed)

    cost = Decimal(3) * 10 + Decimal("0.3") * 30 + Decimal("3.75") * 100 + 6 * 20 + 15 * 2
    assert spent == bill.useful.usd == cost / 10**6
    assert (bill.useful.cache_write_tokens, bill.useful.cache_write_1h_tokens) == (120, 20)
