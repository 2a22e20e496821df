"""The cost of an answer equals that of the meter, and is computed only on access."""

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from decimal import Decimal

import pytest
from chat_stream import HEAD, HELLO, OPENING
from clients import PAYLOAD, SAY
from metering import price_of, prices, usage
from sockets import End, answer, failing, served
from stream_scene import pieces_of

import stormbreak
from stormbreak import AsyncClient, Client, StreamBrokenError
from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import Place, ToCache, ToDegraded, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.cost.meter import Meter
from stormbreak.cost.price_lookup import price_of as list_price_of
from stormbreak.types import Answer, Target

CALM = "[provider]\nservice = 0.01\n"
CUTS = CALM + '[[faults]]\nkind = "cut_body"\nshare = 0.5\n'
RETRIES = Policy(
    retry=RetryPolicy(max_attempts=9, backoff=Backoff(kind="constant", initial_delay=0.01)),
    retry_budget=None,
    breaker=None,
)
COST = Decimal("0.000030")  # for 10 input and 2 output tokens, at 1 and 10 dollars per million


def priced_answer(**changes):
    choices = [{"message": {"content": "fine"}, "finish_reason": "stop"}]
    counted = {"prompt_tokens": 10, "completion_tokens": 2}
    return answer(json.dumps({"choices": choices, "usage": counted} | changes).encode())


def metered(client, by=price_of):
    meter = Meter(by)
    client.subscribe(meter)
    return meter


def of_use(meter):
    """Return the cost of all useful calls so far; it must be exact."""
    span = meter.snapshot().total.of_use
    assert span.min_usd == span.max_usd
    return span.min_usd


# ---------------------------------------------------------------- the same as the meter


@pytest.mark.parametrize("endpoint", ["chat/completions", "responses", "messages"])
async def test_the_cost_agrees_with_the_meter_in_every_format(endpoint, stormbreak_provider):
    asked = {"model": "m", "messages": SAY, "max_tokens": 40}
    if endpoint == "responses":
        asked = {"model": "m", "input": "hello", "max_output_tokens": 40}
    where = stormbreak_provider(CALM).base_url
    async with AsyncClient(base_url=where, prices=price_of) as client:
        meter = metered(client)
        plain = await client.request(endpoint, asked)
        assert plain.cost == of_use(meter) > 0

        async with client.stream(endpoint, asked) as stream:
            assert stream.cost is None
            async for _ in stream:
                pass
        assert plain.cost + stream.cost == of_use(meter)

        whole = await (await client.stream(endpoint, asked)).answer()
    assert plain.cost + stream.cost + whole.cost == of_use(meter)
    assert min(stream.cost, whole.cost) > 0


async def test_the_cost_excludes_wasted_attempts(stormbreak_provider):
    where = stormbreak_provider(CUTS, seed=3).base_url
    async with AsyncClient(base_url=where, policy=RETRIES, prices=price_of) as client:
        meter = metered(client)
        answers = await asyncio.gather(
            *(client.chat(SAY, model="m", max_tokens=40) for _ in range(20))
        )

    assert sum(each.maybe_processed for each in answers) > 5
    assert sum(each.cost for each in answers) == of_use(meter)
    assert meter.snapshot().total.for_nothing.max_usd > 0


def test_the_blocking_client_has_the_same_costs(stormbreak_provider):
    where = stormbreak_provider(CALM).base_url
    with Client(base_url=where, model="m", prices=price_of) as client:
        meter = metered(client)
        plain = client.chat(SAY)
        with client.stream("chat/completions", PAYLOAD) as stream:
            assert stream.cost is None
            assert list(stream.texts())
        assert plain.cost + stream.cost == of_use(meter) > plain.cost
        assert client.stream("chat/completions", PAYLOAD).answer().cost > 0


async def test_clients_of_a_settings_file_use_its_prices(stormbreak_provider, tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(f'[targets.main]\nbase_url = "{stormbreak_provider(CALM).base_url}"\n')
    async with stormbreak.load(path, prices=price_of) as settings:
        got = await settings.client("main").chat(SAY, model="m")
    assert got.cost == price_of("any", "m").cost_of(got.usage)


async def test_list_prices_are_the_default(stormbreak_provider):
    where = stormbreak_provider(CALM).base_url
    async with AsyncClient("openai", base_url=where, api_key="any") as client:
        meter = metered(client, by=list_price_of)
        got = await client.chat(SAY, model="gpt-4.1")
    assert got.cost == list_price_of("openai", "gpt-4.1").cost_of(got.usage) == of_use(meter)


async def test_cached_input_tokens_cost_less():
    counted = {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 10},
    }
    async with (
        served(priced_answer(usage=counted)) as server,
        AsyncClient(base_url=server.base_url, prices=price_of) as client,
    ):
        got = await client.chat(SAY, model="m")
    assert got.cost == Decimal("0.000021")


# ---------------------------------------------------------------- fallbacks


async def test_a_fallback_costs_its_own_price_and_a_local_answer_nothing():
    throttled = failing(429, {"code": "rate_limit_exceeded"}, retry_after="30")
    place = {"model": "small"}
    async with (
        served(priced_answer(), throttled) as first,
        served(priced_answer(), throttled) as second,
    ):
        rules = (
            ToTargets(targets=(Place(base_url=second.base_url, **place),)),
            ToCache(),
            ToDegraded(text="later"),
        )
        policy = Policy(fallback=rules, retry=RetryPolicy(max_attempts=1), cooldown=False)
        async with AsyncClient(
            base_url=first.base_url, model="m", policy=policy, prices=price_of
        ) as client:
            meter = metered(client)
            got = [await client.chat(SAY) for _ in range(3)]
            got.append(await client.chat([{"role": "user", "content": "another"}]))
            async with client.stream("chat/completions", {"messages": SAY[:0]}) as stream:
                assert [text async for text in stream.texts()] == ["later"]

    assert [(each.source, each.target.model, each.cost) for each in got[:2]] == [
        ("target", "m", COST),
        ("fallback", "small", COST / 10),
    ]
    assert [(each.source, each.cost) for each in got[2:]] == [("cache", 0), ("degraded", 0)]
    assert got[2].usage == usage(10, 2)
    assert (stream.source, stream.cost) == ("degraded", 0)
    assert of_use(meter) == COST + COST / 10


# ---------------------------------------------------------------- unknown costs


@pytest.mark.parametrize(
    ("by", "model", "changes"),
    [
        (price_of, "secret", {}),
        (price_of, "m", {"usage": {}}),
        (price_of, "m", {"usage": None}),
        (list_price_of, "gpt-4.1", {}),  # this server is not a listed provider
        (None, "m", {}),
    ],
    ids=["no price", "no counts", "no usage", "no such provider", "by default"],
)
async def test_the_cost_is_none_without_a_price_or_usage(by, model, changes):
    async with (
        served(priced_answer(**changes)) as server,
        AsyncClient(base_url=server.base_url, model=model, prices=by) as client,
    ):
        assert (await client.chat(SAY)).cost is None


async def test_the_cost_is_none_with_an_incomplete_price():
    def half(provider, model):
        whole = prices(provider, model)
        return replace(whole, standard=replace(whole.standard, output=None))

    async with (
        served(priced_answer()) as server,
        AsyncClient(base_url=server.base_url, model="m", prices=half) as client,
    ):
        assert (await client.chat(SAY)).cost is None


async def test_the_cost_is_none_without_list_prices(monkeypatch):
    monkeypatch.setattr("stormbreak.cost.list_prices.find_spec", lambda _: None)
    async with (
        served(priced_answer()) as server,
        AsyncClient("openai", base_url=server.base_url, api_key="any") as client,
    ):
        assert (await client.chat(SAY, model="a-model-not-used-elsewhere")).cost is None


async def test_the_cost_of_a_broken_stream_is_none(scene):
    await scene.of((HEAD + OPENING + HELLO, End.RESET))
    async with scene.stream() as stream:
        with pytest.raises(StreamBrokenError):
            await pieces_of(stream)
    assert stream.cost is None


def test_the_cost_of_an_answer_made_by_hand_is_none():
    made = Answer(
        text="", usage=usage(1, 1), target=Target("p", "m"), attempts=1, waited=0.0, raw=b""
    )
    assert made.cost is None


def test_a_notebook_shows_the_text_only_if_enabled(monkeypatch):
    made = Answer(
        text="2 < 3\nyes",
        usage=usage(1, 1),
        target=Target("p", "m"),
        attempts=1,
        waited=0.0,
        raw=b"",
    )
    assert made._repr_html_() is None
    monkeypatch.setattr(Answer, "show_in_notebooks", True)
    assert "2 &lt; 3\nyes" in made._repr_html_()
    assert "yes" not in repr(made)


# ---------------------------------------------------------------- only on access


async def test_prices_are_looked_up_only_on_access():
    asked = []

    def noted(provider, model):
        asked.append(model)
        return price_of(provider, model)

    async with (
        served(priced_answer()) as server,
        AsyncClient(base_url=server.base_url, model="m", prices=noted) as client,
    ):
        got = await client.chat(SAY)
        assert "cost" not in repr(got)
    assert asked == []
    assert got.cost == COST
    assert asked == ["m"]


def test_a_call_does_not_import_the_list_prices():
    code = """
import sys
import threading
from stormbreak import Client
from stormbreak.testing import serve
with serve("calm") as provider, Client("openai", base_url=provider.base_url, api_key="x") as client:
    answer = client.chat([{"role": "user", "content": "hello"}], model="gpt-4.1")
    print("genai_prices" in sys.modules, answer.cost > 0, "genai_prices" in sys.modules)
"""
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == "False True True\n"


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
async def test_a_copied_or_pickled_answer_keeps_its_cost(travel):
    def own(provider, model):
        return price_of(provider, model)

    async with (
        served(priced_answer()) as server,
        AsyncClient(base_url=server.base_url, model="m", prices=own) as client,
    ):
        got = await client.chat(SAY)
    came = travel(got)
    assert came == got
    assert came.cost == COST


class Deal:
    """Prices of a user, which cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()

    def price_of(self, provider, model):
        with self.lock:
            return price_of(provider, model)


async def test_an_answer_with_prices_that_cannot_be_copied_becomes_a_dict():
    async with (
        served(priced_answer()) as server,
        AsyncClient(base_url=server.base_url, model="m", prices=Deal().price_of) as client,
    ):
        got = await client.chat(SAY)
    assert asdict(got)["costs"].usd == got.cost == COST
