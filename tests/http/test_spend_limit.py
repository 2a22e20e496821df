"""Spend limits in clients, settings and transports."""

import json

import httpx2
import pytest
from metering import prices
from table_test import table_test

import stormbreak
from stormbreak import AsyncClient
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.list_prices import ListPrices
from stormbreak.cost.spend_gate import SpendAccounts, spend_accounts
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import Origin
from stormbreak.http.request import NO_BOUND, RequestTemplate
from stormbreak.http.routing import Route
from stormbreak.httpx2 import AsyncTransport, Transport
from stormbreak.types import Target, Usage

MESSAGES = [{"role": "user", "content": "hi"}]
CALM = """
[provider]
service = 0.01
use_max_tokens = true
"""


def body(**more):
    return json.dumps({"model": "m", "messages": MESSAGES, **more}).encode()


@table_test(
    ("endpoint", "provider", "field"),
    [
        ("chat/completions", "acme", "max_tokens"),
        ("chat/completions", "openai", "max_completion_tokens"),
        ("responses", "openai", "max_output_tokens"),
        ("messages", "anthropic", "max_tokens"),
    ],
)
def test_the_output_limit_is_set_in_the_field_of_its_endpoint(endpoint, provider, field):
    template = RequestTemplate(endpoint, body())
    template.limit_output(77, provider)

    assert json.loads(template._body)[field] == 77
    assert template.token_bound().output_tokens == 77


@table_test("name", ["max_tokens", "max_completion_tokens"])
def test_an_output_limit_of_the_request_is_kept(name):
    template = RequestTemplate("chat/completions", body(**{name: 5}))
    template.limit_output(77, "openai")

    assert json.loads(template._body) == json.loads(body(**{name: 5}))


@table_test(
    ("endpoint", "fields", "bound"),
    [
        ("chat/completions", {"max_completion_tokens": 5, "max_tokens": 900}, 900),
        ("chat/completions", {"max_completion_tokens": 900, "max_tokens": 5}, 900),
        ("chat/completions", {"max_output_tokens": 5}, None),
        ("responses", {"max_tokens": 5}, None),
        ("messages", {"max_completion_tokens": 5}, None),
        ("chat/completions", {"max_completion_tokens": "900", "max_tokens": 5}, None),
        ("chat/completions", {"max_completion_tokens": 5, "max_tokens": -1}, None),
        ("completions", {"max_tokens": 5, "n": 2, "best_of": 4}, 20),
        ("completions", {"max_tokens": 5, "n": 4, "best_of": 2}, 20),
    ],
)
def test_a_field_that_a_server_may_ignore_is_no_bound(endpoint, fields, bound):
    found = RequestTemplate(endpoint, body(**fields)).token_bound()

    assert (found and found.output_tokens) == bound


@table_test("wrong", ["900", -1, 0, 900.0, [900], True, 10**8])
def test_an_invalid_output_limit_is_replaced_in_each_field(wrong):
    given = body(max_tokens=5, max_completion_tokens=wrong)
    template = RequestTemplate("chat/completions", given)
    template.limit_output(77, "mistral")

    assert json.loads(template._body) == json.loads(body(max_tokens=77))
    assert template.token_bound().output_tokens == 77


def test_an_invalid_best_of_is_rejected():
    with pytest.raises(ConfigurationError, match="best_of"):
        RequestTemplate("completions", body(max_tokens=5, best_of="20"))


def test_the_output_limit_uses_the_field_of_each_provider():
    template = RequestTemplate("chat/completions", body())
    template.limit_output(77, "openai")
    origin = Origin("https://a.example/v1")
    sent = [
        json.loads(template.prepare(Route(Target(provider, model), origin, None)).body)
        for provider, model in (("openai", "m"), ("mistral", "other"))
    ]

    assert [each.get("max_completion_tokens") for each in sent] == [77, None]
    assert [each.get("max_tokens") for each in sent] == [None, 77]


@table_test(
    ("prompt", "tokens"),
    [
        ("one", 20),
        (["one", "two", "three"], 60),
        ([5, 6, 7], 20),
        ([[5, 6], [7]], 40),
        (None, 20),
        ([], None),
        ({"id": "stored"}, None),
    ],
)
def test_each_prompt_of_a_completion_multiplies_the_bound(prompt, tokens):
    asked = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 5, "n": 4}).encode()
    bound = RequestTemplate("completions", asked).token_bound()

    assert (bound and bound.output_tokens) == tokens


@table_test("endpoint", ["moderations", "messages/count_tokens"])
def test_free_endpoints_get_no_output_limit(endpoint):
    template = RequestTemplate(endpoint, body())
    template.limit_output(77, "openai")

    assert json.loads(template._body) == json.loads(body())
    assert template.token_bound() == Usage()


def test_an_unknown_endpoint_gets_no_output_limit():
    template = RequestTemplate("images/generations", body())
    template.limit_output(77, "openai")

    assert json.loads(template._body) == json.loads(body())
    assert template.token_bound() is None


@table_test(
    ("endpoint", "more", "why"),
    [
        ("chat/completions", {}, NO_BOUND),
        ("chat/completions", {"service_tier": "priority"}, "its service_tier may cost more"),
        ("responses", {"prompt": {"id": "p"}}, "its prompt may cost more"),
        ("messages", {"x": [{"type": "document"}]}, "its document may cost more"),
        ("completions", {"prompt": 5}, "its prompts cannot be counted"),
    ],
)
def test_an_unbounded_request_has_a_reason(endpoint, more, why):
    assert RequestTemplate(endpoint, body(**more)).unbounded_reason().startswith(why)


def test_max_tokens_null_gets_the_output_limit():
    template = RequestTemplate("chat/completions", body(max_tokens=None))
    template.limit_output(77, "acme")

    assert template.token_bound().output_tokens == 77


def test_a_request_without_a_spend_limit_is_unchanged():
    assert json.loads(RequestTemplate("chat/completions", body())._body) == json.loads(body())


def engine(usd, **more):
    policy = Policy(spend=SpendPolicy(max_usd=usd, **more))
    return Engine(
        policy, SpendAccounts(lambda provider, model: prices(provider, model, into="3", out="15"))
    )


async def test_a_request_without_a_bound_is_a_400_for_the_sdk():
    transport = AsyncTransport(engine(1.0))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:9/v1") as client:
        answer = await client.post("/chat/completions", json={"model": "m", "messages": MESSAGES})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "stormbreak_cost"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/responses", {"model": "m", "input": "hi", "background": True}),
        ("/chat/completions", {"messages": MESSAGES, "max_tokens": 5}),
        ("/chat/completions", {"model": "m", "messages": MESSAGES, "deferred": True}),
    ],
)
async def test_a_request_that_cannot_be_counted_is_rejected_under_a_spend_limit(
    path, sent, stormbreak_provider
):
    provider = stormbreak_provider(CALM)
    transport = AsyncTransport(engine(1.0, max_output_tokens=5))
    async with httpx2.AsyncClient(transport=transport, base_url=provider.base_url) as client:
        answer = await client.post(path, json=sent)
    with httpx2.Client(transport=Transport(engine(1.0)), base_url=provider.base_url) as client:
        same = client.post(path, json=sent)

    assert (answer.status_code, same.status_code) == (400, 400)
    assert answer.json()["error"]["code"] == "stormbreak_cost"
    assert "cannot be counted" in answer.json()["error"]["message"]
    assert provider.stats()["arrivals"] == 0


async def test_an_upload_passes_under_a_spend_limit(stormbreak_provider):
    provider = stormbreak_provider(CALM)
    transport = AsyncTransport(engine(1.0))
    async with httpx2.AsyncClient(transport=transport, base_url=provider.base_url) as client:
        answer = await client.post("/files", files={"file": ("a.jsonl", b"{}")})

    assert answer.status_code == 400  # by the provider: the purpose is missing


async def test_a_transport_enforces_a_spend_limit_on_an_sdk(stormbreak_provider):
    provider = stormbreak_provider(CALM)
    transport = AsyncTransport(engine(0.01, max_output_tokens=300))
    async with httpx2.AsyncClient(transport=transport, base_url=provider.base_url) as client:
        answers = [
            await client.post("/chat/completions", json={"model": "m", "messages": MESSAGES})
            for _ in range(4)
        ]
        listed = await client.get("/models", headers={"accept": "application/json"})

    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 429, 429]
    assert answers[0].json()["usage"]["completion_tokens"] == 300
    assert answers[2].json()["error"]["code"] == "stormbreak_spend"
    assert listed.status_code == 200


def test_a_spend_limit_without_prices_fails_when_the_client_is_created(monkeypatch):
    monkeypatch.setattr("stormbreak.cost.list_prices.find_spec", lambda _: None)
    monkeypatch.setattr("stormbreak.cost.price_lookup._list_price", lambda *_: _market())
    policy = Policy(spend=SpendPolicy(max_usd=1.0))
    with pytest.raises(ConfigurationError, match="genai-prices"):
        AsyncClient(base_url="http://127.0.0.1:9/v1", api_key="-", policy=policy)


def _market():
    return ListPrices().find("openai", "x")


def test_a_reloaded_spend_limit_keeps_what_was_spent(tmp_path):
    path = tmp_path / "s.toml"
    text = (
        '[targets.a]\nbase_url = "http://127.0.0.1:9/v1"\n[spend]\nmax_usd = {}\nperiod = 86400\n'
    )
    path.write_text(text.format("5"))
    settings = stormbreak.load(path)
    account = spend_accounts(settings.engine).account(settings.now.policy.spend)
    account.spend(3)
    path.write_text(text.format("8.5"))
    settings.reload()

    (state,) = settings.engine.snapshot()["spend"]
    assert (state["limit"], state["spent"]) == ("8.5", "3")


def test_a_spend_limit_around_a_function_is_rejected():
    with pytest.raises(
        ConfigurationError, match=r"spend\.max_usd must be absent around a function"
    ):
        stormbreak.resilient(Policy(spend=SpendPolicy(max_usd=1.0)))
