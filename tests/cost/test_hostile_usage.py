"""Providers that lie about usage, in each format: what cannot be believed spends all that was set aside, and is on no bill as known."""

import json
from decimal import Decimal

import pytest
import streamed
from metering import prices
from sockets import answer, served

from stormbreak import AsyncClient
from stormbreak.core.policy import Policy
from stormbreak.core.spend import SpendPolicy
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
WORDS = {
    "chat/completions": ("prompt_tokens", "completion_tokens"),
    "messages": ("input_tokens", "output_tokens"),
    "responses": ("input_tokens", "output_tokens"),
}
FORMATS = pytest.mark.parametrize("endpoint", list(ASKED))
EACH_WAY = pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])


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
    """A stream with usages that follow each other."""
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
    """The share of what was set aside that was spent, and the bill."""
    policy = Policy(spend=SpendPolicy(usd=1.0))

    def price_of(provider, model):
        return prices(provider, model, into="3", out="15", cached="0.3")

    meter = Meter(price_of)
    heard = []
    async with (
        served(script) as server,
        AsyncClient(
            base_url=server.base_url, api_key="-", policy=policy, prices=price_of
        ) as client,
    ):
        client.subscribe(meter)
        client.subscribe(heard.append)
        if is_streamed:
            async with client.stream(endpoint, ASKED[endpoint]) as events:
                async for _ in events:
                    pass
        else:
            await client.request(endpoint, ASKED[endpoint])
        (purse,) = client.snapshot()["spend"]
    bound = next(event.bound for event in heard if hasattr(event, "bound"))
    most = price_of("", "").cost_of(bound)
    return Decimal(purse["spent"]) / most, Decimal(purse["spent"]), meter.snapshot().total


@FORMATS
@EACH_WAY
@pytest.mark.parametrize(
    ("entry", "output"),
    [(10**30, 5), (5, 10**30), (-5, 5), (5, -5), ("5", 5), (5, 0.5), (True, 5), ([5], 5), ({}, 5)],
)
async def test_what_is_no_count_spends_all(endpoint, is_streamed, entry, output):
    usage = dict(zip(WORDS[endpoint], (entry, output), strict=True))
    script = stream(endpoint, usage) if is_streamed else whole(endpoint, usage)
    share, _, bill = await spent_on(endpoint, script, is_streamed=is_streamed)

    assert share == 1
    assert (bill.useful.attempts, bill.useful_open.attempts) == (0, 1)


@FORMATS
@EACH_WAY
async def test_more_than_was_set_aside_is_spent_too(endpoint, is_streamed):
    usage = dict(zip(WORDS[endpoint], (100_000, 0), strict=True))
    script = stream(endpoint, usage) if is_streamed else whole(endpoint, usage)
    _, spent, bill = await spent_on(endpoint, script, is_streamed=is_streamed)

    assert spent == bill.in_all.least == bill.in_all.most


@FORMATS
async def test_of_usages_that_follow_each_other_the_last_counts_and_once(endpoint):
    first, last = (dict(zip(WORDS[endpoint], counts, strict=True)) for counts in ((7, 1), (9, 2)))
    script = stream(endpoint, first, last)
    _, spent, bill = await spent_on(endpoint, script, is_streamed=True)

    assert bill.attempts == 1
    assert bill.useful.output_tokens == 2
    assert spent == bill.useful.usd


@FORMATS
@EACH_WAY
async def test_an_answer_without_usage_spends_all(endpoint, is_streamed):
    script = stream(endpoint, None) if is_streamed else whole(endpoint, None)
    share, *_ = await spent_on(endpoint, script, is_streamed=is_streamed)

    assert share == 1
