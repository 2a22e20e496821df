"""`[fleet]` in policies and settings files, and `fleet=` in Python."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from gateways import ANSWER, until, upstream
from metering import price_of
from settings_file import SAY
from table_test import table_test

import stormbreak
from stormbreak.config import load_policy, load_settings
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.parent_store import ParentStore
from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.httpx2 import AsyncTransport
from stormbreak.provider.in_thread import serve

TEXT = """
[fleet]
url = "redis://cache:6379/0"
name = "shop"
fallback = "half"
on_store_loss = "allow"
"""
READ = FleetPolicy(url="redis://cache:6379/0", name="shop", fallback="half", on_store_loss="allow")


def test_a_policy_file_names_the_store(tmp_path):
    (tmp_path / "policy.toml").write_text(TEXT)
    assert load_policy(tmp_path / "policy.toml").fleet == READ


def test_the_two_examples_of_the_page_are_one_policy(tmp_path):
    """Whoever copies both has one fleet."""
    page = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()
    toml = re.search(r"^```toml policy\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    python = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "policy.toml").write_text(toml)
    copied = {}
    exec(python, copied)
    assert copied["client"].policy == load_policy(tmp_path / "policy.toml")


def test_targets_of_a_settings_file_share_its_fleet(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(f'{TEXT}\n[targets.main]\nbase_url = "http://127.0.0.1:9/v1"\n')
    environ = {"STORMBREAK__FLEET__NAME": "other"}
    settings = load_settings(path, environ=environ)
    assert settings.targets["main"].policy.fleet.url == READ.url
    assert settings.targets["main"].policy.fleet.name == "other"


@table_test(
    ("values", "message"),
    [
        ({"url": "redis://app:Tr0ub4dor@cache"}, "environment variable STORMBREAK_FLEET_PASSWORD"),
        ({"url": "redis://cache?password=Tr0ub4dor"}, "must not contain a password"),
        ({"url": "http://cache"}, "url must begin with redis://"),
        ({"url": "redis://cache:Tr0ub4dor"}, "url must begin with redis://"),
        ({"url": ""}, "url must begin with redis://"),
        ({"name": "a/b"}, "name must be printable"),
        ({"name": ""}, "name must be printable"),
        ({"fallback": "none"}, "fallback must be 'share' or 'half'"),
    ],
)
def test_an_invalid_fleet_value_is_named_without_its_password(values, message):
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")) as caught:
        FleetPolicy(**values)
    assert "Tr0ub4dor" not in str(caught.value)


async def test_clients_and_transports_accept_a_store():
    with ParentStore() as store:
        client = stormbreak.AsyncClient(base_url="http://127.0.0.1:9/v1", fleet=store.url)
        assert client.policy.fleet == FleetPolicy(url=store.url)
        shared = FleetPolicy(url=store.url, name="shop")
        transport = AsyncTransport(fleet=shared)
        assert transport.policy.fleet == shared
        await transport.aclose()
        await client.close()


async def test_members_share_a_scope_through_a_parent_process():
    with ParentStore() as store:
        policy = Policy(
            rate_limit=RateLimitPolicy(rpm=600.0), fleet=FleetPolicy(url=store.url, name="one")
        )

        def member():
            @stormbreak.resilient(policy, target="x")
            async def call():
                pass

            return call

        first, second = member(), member()
        for _ in range(3):
            await first()
            await second()
        (scope,) = store.scopes.values()
        assert len(scope.members) == 2


async def test_a_spend_limit_changed_by_a_reload_keeps_what_was_spent(tmp_path):
    path = tmp_path / "settings.toml"
    with serve() as provider, ParentStore() as store:
        text = f"""
            [fleet]
            url = "{store.url}"
            [spend]
            max_usd = LIMIT
            max_output_tokens = 50
            [targets.main]
            base_url = "{provider.base_url}"
            model = "m"
        """
        path.write_text(text.replace("LIMIT", "1.0"))
        async with stormbreak.load(path, prices=price_of) as settings:
            client = settings.client("main")
            await client.chat(SAY)
            path.write_text(text.replace("LIMIT", "2.0"))
            settings.reload()
            await client.chat(SAY)
        spends = {name: scope for name, scope in store.scopes.items() if "spend" in name}
    assert [*spends] == ["default/spend 1.000000 USD ever 50", "default/spend 2.000000 USD ever 50"]
    (before,), (after,) = (scope.members.values() for scope in spends.values())
    assert 0 < before.granted <= 1_000_000 / 50
    assert after.granted > 2_000_000 / 50  # a part of the rest, plus the spending before


def of_tenant(url, store, spend):
    return f"""
        patience = 20
        [fleet]
        url = "{store}"
        [targets.main]
        base_url = "{url}"
        model = "m"
        {spend}
    """


LIMIT = "[tenants.acme.spend]\nmax_usd = 0.001\nmax_output_tokens = 50\nperiod = "  # for one call at once


@pytest.fixture(params=["parent", "valkey"])
def store_url(request, monkeypatch):
    """Yield the URL of a store that grants money at once."""
    if request.param == "parent":
        with ParentStore() as store:
            yield store.url
        return
    monkeypatch.setattr("stormbreak.fleet.valkey.QUIET", 0.0)
    yield request.getfixturevalue("own_server").url


async def test_a_tenant_call_that_waited_before_a_reload_gets_returned_money(tmp_path, store_url):
    """Found: calls under the old limit did not ask the store for money, and waited out their patience."""
    go, path = asyncio.Event(), tmp_path / "settings.toml"

    async def reply(request, connection):
        await go.wait()
        used = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        return ServerResponse(200, json.dumps({**ANSWER, "usage": used}).encode())

    async with upstream() as provider:
        provider.reply = reply
        path.write_text(of_tenant(provider.url, store_url, LIMIT + '"day"'))
        async with (
            stormbreak.load(path, prices=price_of) as first,
            stormbreak.load(path, prices=price_of) as second,
        ):
            with stormbreak.scope(tenant="acme"):
                asking = asyncio.create_task(first.client("main").chat(SAY))
                await until(lambda: provider.seen)
                waiting = asyncio.create_task(second.client("main").chat(SAY))
                await asyncio.sleep(0.3)
            path.write_text(of_tenant(provider.url, store_url, LIMIT + '"month"'))
            second.reload()
            go.set()
            await asyncio.wait_for(asyncio.gather(asking, waiting), 10)


async def test_reloads_leave_no_stale_tenant_account_in_the_fleet(tmp_path):
    """Found: each change of the period added a member to the fleet for ever."""
    path = tmp_path / "settings.toml"
    with serve() as provider, ParentStore() as store:
        path.write_text(of_tenant(provider.base_url, store.url, LIMIT + '"day"'))
        async with stormbreak.load(path, prices=price_of) as settings:
            client = settings.client("main")
            for period in ('"day"', '"month"', None) * 3:
                spend = "" if period is None else LIMIT.replace("0.001", "1.0") + period
                path.write_text(of_tenant(provider.base_url, store.url, spend))
                settings.reload()
                await client.request(
                    "chat/completions", {"model": "m", "messages": SAY}, tenant="acme"
                )
        members = {name: scope.members for name, scope in store.scopes.items() if "spend" in name}
    assert {name: len(each) for name, each in members.items()} == {
        "default/spend of tenant acme day": 1,
        "default/spend of tenant acme month": 1,
    }
