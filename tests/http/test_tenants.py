"""Limits of tenants over real sockets: in clients, streams, transports under SDKs, and settings files."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import httpx
import httpx2
import openai
import pytest
from metering import prices
from table_test import table_test

import stormbreak
import stormbreak.httpx
from stormbreak import AsyncClient, Client, Policy, RejectedError, scope
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.httpx2 import AsyncTransport, Transport

SAY = [{"role": "user", "content": "hi"}]
ASK = {"messages": SAY, "stream": True}
ONE = TenantLimits(rpm=6)  # one call now, the next in ten seconds
SLOT = TenantLimits(max_in_flight=1)
HASTY = Policy(patience=1.0)
CALM = "[provider]\nservice = 0.01\nuse_max_tokens = true\n"
PRICES = partial(prices, into="3", out="15")


@pytest.fixture
def client(stormbreak_provider):
    """Make a client of a provider with these limits of tenants."""
    provider = stormbreak_provider(CALM)

    def client(kind=AsyncClient, /, policy=HASTY, **tenants):
        return kind(
            base_url=provider.base_url,
            api_key="-",
            model="m",
            policy=policy,
            prices=PRICES,
            tenants=tenants,
        )

    return client


def spending(usd, **more):
    return TenantLimits(spend=SpendPolicy(max_usd=usd, **more))


def tenant_state(client, name="acme"):
    return client.snapshot()["tenants"][name]


# ---------------------------------------------------------------- clients


async def test_the_rate_of_a_tenant_binds_only_that_tenant(client):
    async with client(acme=ONE) as made:
        await made.chat(SAY, tenant="acme")
        with pytest.raises(RejectedError, match=r"tenant acme: .* \(quota\)"):
            await made.chat(SAY, tenant="acme")
        with scope(tenant="acme"), pytest.raises(RejectedError):
            await made.chat(SAY)
        with scope(tenant="acme"):
            await made.chat(SAY, tenant="other")
        await asyncio.gather(
            *(made.chat(SAY, tenant=name) for name in ("other", "") for _ in "123")
        )


def test_a_blocking_client_enforces_the_rate_of_a_tenant(client):
    with client(Client, acme=ONE) as made:
        made.chat(SAY, tenant="acme")
        with pytest.raises(RejectedError, match="tenant acme"):
            made.chat(SAY, tenant="acme")
        made.chat(SAY)


def test_threads_that_wait_for_a_tenant_slot_are_served(client):
    with (
        client(Client, policy=Policy(), acme=TenantLimits(max_in_flight=2)) as made,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = [*pool.map(lambda _: made.chat(SAY, tenant="acme"), range(20))]

        assert len(answers) == 20
        assert (tenant_state(made)["in_flight"], tenant_state(made)["queued"]) == (0, 0)


async def test_calls_that_wait_for_a_tenant_slot_are_served(client):
    async with client(policy=Policy(), acme=TenantLimits(max_in_flight=2)) as made:
        answers = await asyncio.gather(*(made.chat(SAY, tenant="acme") for _ in range(20)))

        assert len(answers) == 20
        assert (tenant_state(made)["in_flight"], tenant_state(made)["queued"]) == (0, 0)


async def test_a_stream_holds_its_tenant_slot_until_it_is_closed(client):
    async with client(acme=SLOT) as made:
        async with made.stream("chat/completions", ASK, tenant="acme"):
            second = asyncio.create_task(made.chat(SAY, tenant="acme"))
            await asyncio.sleep(0.1)
            assert (second.done(), tenant_state(made)["held_by"]) == (False, "limit")
        await second


async def test_a_dropped_stream_frees_its_tenant_slot(client):
    async with client(acme=SLOT) as made:
        stream = await made.stream("chat/completions", ASK, tenant="acme")
        kept = [stream]
        del stream
        with pytest.warns(ResourceWarning):
            kept.clear()
        await made.chat(SAY, tenant="acme")


async def test_a_cancelled_call_frees_its_tenant_slot(client):
    async with client(acme=SLOT) as made:
        for seconds in (0.0, 0.001, 0.005):
            task = asyncio.create_task(made.chat(SAY, tenant="acme"))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await made.chat(SAY, tenant="acme")


# ---------------------------------------------------------------- money

FAULTY = """
[provider]
service = 0.02
use_max_tokens = true

[[faults]]
kind = "503"
share = 0.2

[[faults]]
kind = "cut_body"
share = 0.2
"""


async def test_200_concurrent_calls_never_exceed_the_spend_limit_of_a_tenant(stormbreak_provider):
    """The provider counts, including answers that were cut."""
    provider = stormbreak_provider(FAULTY, seed=3)
    limit = spending(0.05, max_output_tokens=100)
    policy = Policy(patience=60.0, retry=RetryPolicy(max_attempts=2))
    async with AsyncClient(
        base_url=provider.base_url,
        api_key="-",
        model="m",
        policy=policy,
        prices=PRICES,
        tenants={"acme": limit},
    ) as made:
        names = [("acme", "m"), ("acme", "m"), ("acme", "m"), ("other", "other")] * 50
        calls = [made.chat(SAY, tenant=tenant, model=model) for tenant, model in names]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        account = tenant_state(made)["spend"]

    mine = [each for n, each in enumerate(ended) if n % 4 != 3]
    answered = [each for each in mine if isinstance(each, stormbreak.Answer)]
    rejected = [each for each in mine if isinstance(each, RejectedError)]
    assert all("tenant acme" in str(each) and each.policy == "spend" for each in rejected)
    assert answered
    assert rejected
    assert Decimal(account["reserved"]) == 0
    assert sum(each.cost for each in answered) <= Decimal(account["spent"])
    assert Decimal("0.045") <= Decimal(account["spent"]) <= Decimal("0.05")
    billed = provider.stats()["billed"]["m"]
    assert (
        billed["input_tokens"] * 3 + billed["output_tokens"] * 15 <= 50_000
    )  # millionths of a USD
    others = [each for n, each in enumerate(ended) if n % 4 == 3]
    assert not [each for each in others if isinstance(each, RejectedError)]


async def test_the_smaller_output_limit_of_tenant_and_policy_applies(client):
    policy = Policy(spend=SpendPolicy(max_usd=1.0, max_output_tokens=9))
    limit = spending(1.0, max_output_tokens=5)
    async with client(policy=policy, acme=limit) as made:
        answers = [await made.chat(SAY, tenant=name) for name in ("acme", "other")]

    assert [each.usage.output_tokens for each in answers] == [5, 9]


async def test_an_unbounded_call_is_rejected_only_for_a_tenant_with_a_spend_limit(client):
    async with client(acme=spending(1.0)) as made:
        with pytest.raises(RejectedError, match=r"tenant acme: .*\(cost\)"):
            await made.chat(SAY, tenant="acme")
        await made.chat(SAY, tenant="acme", max_tokens=5)
        await made.chat(SAY)
        assert Decimal(tenant_state(made)["spend"]["spent"]) > 0


async def test_a_stream_counts_its_real_cost_for_the_tenant(client):
    async with client(acme=spending(1.0)) as made:
        asked = {**ASK, "max_tokens": 5}
        async with made.stream("chat/completions", asked, tenant="acme") as stream:
            await stream.answer()
        assert Decimal(tenant_state(made)["spend"]["spent"]) == stream.cost


# ---------------------------------------------------------------- under SDKs

HEADERS = {"x-stormbreak-tenant": "acme"}


@table_test(
    ("library", "transport"),
    [(httpx2, AsyncTransport), (httpx, stormbreak.httpx.AsyncTransport)],
)
async def test_a_transport_reads_the_tenant_from_its_header(
    library, transport, stormbreak_provider
):
    provider = stormbreak_provider(CALM)
    made = transport(HASTY, tenants={"acme": ONE})
    async with library.AsyncClient(transport=made, base_url=provider.base_url) as http:
        post = partial(http.post, "/chat/completions", json={"model": "m", "messages": SAY})
        answers = [await post(headers=HEADERS), await post(headers=HEADERS), await post()]

    assert [each.status_code for each in answers] == [200, 429, 200]
    error = answers[1].json()["error"]
    assert error["code"] == "stormbreak_quota"
    assert "tenant acme" in error["message"]
    assert 9 <= int(answers[1].headers["retry-after"]) <= 10


def test_a_blocking_transport_reads_the_tenant_from_its_header(stormbreak_provider):
    provider = stormbreak_provider(CALM)
    with (
        httpx2.Client(transport=Transport(HASTY, tenants={"acme": ONE})) as http,
        openai.OpenAI(base_url=provider.base_url, api_key="-", http_client=http) as client,
    ):
        create = partial(client.chat.completions.create, model="m", messages=SAY)
        create(extra_headers=HEADERS)
        with pytest.raises(openai.RateLimitError, match="tenant acme"):
            create(extra_headers=HEADERS)
        create()


@pytest.mark.parametrize("kind", [AsyncTransport, Transport])
async def test_a_request_that_cannot_be_counted_is_rejected_under_a_tenant_spend_limit(
    kind, stormbreak_provider
):
    provider = stormbreak_provider(CALM)
    made = kind(tenants={"acme": spending(1.0)})
    sent = {"model": "m", "input": "hi", "background": True}
    if kind is AsyncTransport:
        async with httpx2.AsyncClient(transport=made, base_url=provider.base_url) as http:
            answers = [
                await http.post("/responses", json=sent, headers=each) for each in (HEADERS, {})
            ]
    else:
        with httpx2.Client(transport=made, base_url=provider.base_url) as http:
            answers = [http.post("/responses", json=sent, headers=each) for each in (HEADERS, {})]

    assert answers[0].json()["error"]["code"] == "stormbreak_cost"
    assert "stormbreak" not in answers[1].text


def test_tenants_beside_an_engine_are_rejected():
    with pytest.raises(ConfigurationError, match="tenants belong to the engine"):
        Transport(Engine(Policy()), tenants={"acme": ONE})


# ---------------------------------------------------------------- settings files

FILE = """
patience = 1

[targets.main]
base_url = "{url}"
model = "m"

[tenants.acme]
rpm = 6
"""


async def test_a_reload_changes_the_limits_of_tenants(stormbreak_provider, tmp_path):
    path, provider = tmp_path / "s.toml", stormbreak_provider(CALM)
    path.write_text(FILE.format(url=provider.base_url))
    async with stormbreak.load(path) as live:
        made = live.client("main")
        await made.chat(SAY, tenant="acme")
        with pytest.raises(RejectedError, match="tenant acme"):
            await made.chat(SAY, tenant="acme")
        path.write_text(path.read_text().replace("rpm = 6", "rpm = 6000"))
        live.reload()
        await made.chat(SAY, tenant="acme")
        path.write_text(path.read_text().partition("[tenants")[0])
        live.reload()
        await made.chat(SAY, tenant="acme")
        assert "tenants" not in live.snapshot()


async def test_a_transport_on_a_settings_file_enforces_its_tenants(stormbreak_provider, tmp_path):
    path, provider = tmp_path / "s.toml", stormbreak_provider(CALM)
    path.write_text(FILE.format(url=provider.base_url))
    made = AsyncTransport(str(path))
    async with httpx2.AsyncClient(transport=made, base_url=provider.base_url) as http:
        post = partial(http.post, "/chat/completions", json={"model": "main", "messages": SAY})
        assert [(await post(headers=HEADERS)).status_code for _ in "12"] == [200, 429]


@table_test(
    ("more", "message"),
    [
        ("rpm = 1e-9", r"s\.toml: tenants\.acme\.rpm must be at least 1e-06"),
        ("rpm = -1", r"s\.toml: tenants\.acme\.rpm must be positive, got -1"),
        ("rmp = 1", r"s\.toml: unknown key tenants\.acme\.rmp"),
        (
            "[tenants.acme.spend]\nmax_usd = 0",
            r"s\.toml: tenants\.acme\.spend\.max_usd must be positive",
        ),
    ],
)
def test_an_invalid_tenant_limit_names_file_and_key(more, message, tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(FILE.format(url="http://127.0.0.1:9/v1").replace("rpm = 6", more))
    with pytest.raises(ConfigurationError, match=message):
        stormbreak.load(path)


def test_stormbreak_disabled_turns_tenant_limits_off(client, monkeypatch):
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    with client(Client, policy="interactive", acme=ONE) as made:
        for _ in range(3):
            made.chat(SAY, tenant="acme")
