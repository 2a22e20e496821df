"""Limits of client keys that several gateways share through a store: none passes a spend limit by a cent."""

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fleet_stores import Server
from gateways import (
    ASKED,
    KEY,
    LEDGER,
    TEN_CENTS,
    prices,
    running,
    settings,
    spend,
    until,
    upstream,
)

from stormbreak.fleet.parent_store import ParentStore
from stormbreak.gateway.usage_ledger import read_usage

LIMIT = 2.0


@pytest.fixture(autouse=True)
def granting(monkeypatch):
    """A server that has just started grants money at once."""
    monkeypatch.setattr("stormbreak.fleet.valkey.QUIET", 0.0)


@pytest.fixture(params=["parent", "valkey"])
def store(request, tmp_path):
    """Yield the URL of a store."""
    if request.param == "parent":
        with ParentStore() as store:
            yield store.url
        return
    server = Server("valkey", tmp_path).start()
    yield server.url
    server.kill()


@pytest.fixture
def own_store():
    """Yield a store of this process."""
    with ParentStore() as store:
        yield store


async def ten_cents(request, connection):
    await asyncio.sleep(0.01)
    return TEN_CENTS


@asynccontextmanager
async def gateways(path, url, count, key, *, top="", reply=ten_cents):
    """Run gateways in this process, each a member of the fleet, before one provider."""
    async with upstream() as provider, AsyncExitStack() as stack:
        provider.reply = reply
        text = settings(provider.url, key=key, top=f"patience = 2\n{top}[fleet]\nurl = '{url}'\n")
        found = [
            await stack.enter_async_context(
                running(path.with_name(f"{number}.toml"), text, prices=prices)
            )
            for number in range(count)
        ]
        yield found, provider


async def ask_all(found, count, payload=ASKED):
    asking = (found[number % len(found)].ask(payload) for number in range(count))
    return await asyncio.gather(*asking)


async def test_two_hundred_calls_on_three_gateways_never_pass_a_spend_limit(path, store):
    """Each answer uses all of its tokens, and costs ten cents; its prompt might be longer, which is reserved, too."""
    async with gateways(path, store, 3, spend(LIMIT)) as (found, provider):
        replies = await ask_all(found, 200)
        for _ in range(3):
            replies += await ask_all(found, 6)
    served = [reply for reply in replies if reply.status == 200]
    assert len(provider.seen) == len(served)
    assert LIMIT - 0.3 <= 0.1 * len(served) <= LIMIT
    refused = {reply.json["error"]["code"] for reply in replies if reply.status != 200}
    assert refused == {"stormbreak_spend"}
    assert {reply.status for reply in replies} == {200, 429}


async def test_a_limit_counts_for_a_key_alone(path, store):
    async with gateways(path, store, 2, spend(0.4)) as (found, _):
        await ask_all(found, 10)
        other = await asyncio.gather(
            *(each.ask(ASKED, key="sb-other-client-key-9876543210") for each in found)
        )
    assert [reply.status for reply in other] == [200, 200]


async def test_each_gateway_knows_what_all_have_spent(path, store):
    async with gateways(path, store, 2, spend(LIMIT)) as (found, _):
        await ask_all(found[:1], 5)

        async def spent():
            usage = await found[1].ask(None, "/v1/usage", method="GET")
            return float(usage.json["spend"]["spent"])

        for _ in range(100):
            if await spent() == pytest.approx(0.5):
                break
            await asyncio.sleep(0.05)
        assert await spent() == pytest.approx(0.5)


async def test_a_period_that_comes_back_knows_what_was_spent_in_it(path, store):
    day = spend(LIMIT, '"day"')
    async with gateways(path, store, 2, day) as (found, _):
        text = found[0].path.read_text()
        for key, most in ((day, 5), (spend(LIMIT, 3600), 3), ("", 2), (day, 30)):
            for each in found:
                each.path.write_text(text.replace(day, key))
                assert await each.gateway.reload()
            replies = await ask_all(found, most)
        served = [reply for reply in replies if reply.status == 200]
        assert 0.1 * len(served) <= LIMIT - 0.5


async def test_gateways_share_the_rate_of_a_key(path, store):
    async with gateways(path, store, 3, "rpm = 600\n") as (found, _):
        await ask_all(found, 3)  # all are members
        began = asyncio.get_running_loop().time()
        refused = replies = await ask_all(found, 45)
        while refused := [reply for reply in refused if reply.status != 200]:
            refused = await ask_all(found, len(refused))
            replies += refused
        took = asyncio.get_running_loop().time() - began
    # the rate, a burst, what may lapse late, and, if the machine is slow, a share of each
    assert 10 * (took + 1) + 20 >= 45
    assert took < 20  # nor do they starve each other
    codes = {reply.json["error"]["code"] for reply in replies if reply.status != 200}
    assert codes <= {"key_limit"}


async def test_gateways_share_the_calls_in_flight_of_a_key(path, own_store):
    at_once = most = 0

    async def reply(request, connection):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1
        return TEN_CENTS

    limits = "max_in_flight = 4\n"
    async with gateways(path, own_store.url, 2, limits, reply=reply) as (
        found,
        _,
    ):
        await ask_all(found, 2)
        await asyncio.sleep(0.3)
        most = 0
        await ask_all(found, 24)
    assert 2 <= most <= 4


async def test_without_the_store_the_allowance_is_spent_and_the_rest_refused(path, tmp_path):
    server = Server("valkey", tmp_path).start()
    try:
        async with gateways(path, server.url, 1, spend(LIMIT)) as (found, provider):
            assert (await found[0].ask(ASKED)).status == 200
            server.freeze()
            replies = await ask_all(found, 40)
            seen = len(provider.seen)
            refused = next(reply for reply in replies if reply.status != 200)
            assert (refused.status, refused.json["error"]["code"]) == (429, "stormbreak_fleet")
            assert int(refused.headers["retry-after"]) >= 1
            assert "x-should-retry" not in refused.headers
            assert 0.1 * seen <= LIMIT
            server.thaw()
            end = time.monotonic() + 20
            while (await found[0].ask(ASKED)).status != 200:
                assert time.monotonic() < end, "it does not come back"
                await asyncio.sleep(0.1)
    finally:
        server.thaw()
        server.kill()


async def test_a_store_that_has_just_started_is_no_spent_limit(path, tmp_path, monkeypatch):
    """SDKs may ask again when it grants money."""
    monkeypatch.setattr("stormbreak.fleet.valkey.QUIET", 60.0)
    server = Server("valkey", tmp_path).start()
    try:
        async with gateways(path, server.url, 1, spend(LIMIT)) as (found, provider):
            reply = await found[0].ask(ASKED)
    finally:
        server.kill()
    assert (reply.status, reply.json["error"]["code"]) == (429, "stormbreak_fleet")
    assert reply.headers["retry-after"] == "5"
    assert "x-should-retry" not in reply.headers
    assert not provider.seen


async def test_a_lower_limit_holds_from_the_reload_on_and_a_removed_key_gives_back(path, own_store):
    async with gateways(path, own_store.url, 2, spend(LIMIT)) as (found, provider):
        await ask_all(found, 6)
        for each in found:
            each.path.write_text(each.path.read_text().replace("max_usd = 2.0", "max_usd = 0.8"))
            assert await each.gateway.reload()
        replies = await ask_all(found, 20)
        assert 0.1 * len(provider.seen) <= 0.8
        assert any(reply.status == 429 for reply in replies)
        for each in found:
            each.path.write_text(
                each.path.read_text()
                .replace("[keys.app]", "[keys.third]")
                .replace("keys.app.spend", "keys.third.spend")
            )
            assert await each.gateway.reload()
        (scope,) = (state for name, state in own_store.scopes.items() if "key app" in name)
        await until(
            lambda: (
                sum(each.money for each in scope.members.values())
                == pytest.approx(1e5 * len(provider.seen))
            )
        )
        assert {reply.status for reply in await ask_all(found, 4)} == {200}


async def test_calls_in_flight_count_for_the_limits_of_a_reload(path, own_store):
    go = asyncio.Event()

    async def hang(request, connection):
        await go.wait()
        return TEN_CENTS

    limit = "max_in_flight = {}\n"
    async with gateways(path, own_store.url, 1, limit.format(4), reply=hang) as (found, provider):
        asking = [asyncio.create_task(found[0].ask()) for _ in range(4)]
        await until(lambda: len(provider.seen) == 4)
        text = found[0].path.read_text()
        found[0].path.write_text(text.replace(limit.format(4), limit.format(2)))
        assert await found[0].gateway.reload()
        asking.append(asyncio.create_task(found[0].ask()))
        await asyncio.sleep(0.5)
        assert len(provider.seen) == 4
        go.set()
        assert {each.status for each in await asyncio.gather(*asking)} == {200}


async def test_a_period_begins_anew_for_all(path, own_store):
    async with gateways(path, own_store.url, 2, spend(0.4, 1.0)) as (found, provider):
        await ask_all(found, 10)
        assert len(provider.seen) <= 4
        await asyncio.sleep(1.2)
        first = len(provider.seen)
        await ask_all(found, 10)
        assert 0 < len(provider.seen) - first <= 4


async def test_the_store_says_how_far_keys_may_spend_and_the_ledger_what_they_used(path, own_store):
    async with upstream() as provider:
        provider.reply = ten_cents
        text = settings(
            provider.url,
            gateway=LEDGER,
            key=spend(LIMIT),
            top=f"[fleet]\nurl = '{own_store.url}'\n",
        )
        for _ in range(2):
            async with running(path, text, prices=prices) as gateway:
                assert (await gateway.ask(ASKED, key=KEY)).status == 200
    rows = read_usage(path.with_name("spent.db"), prices)
    assert sum(each.attempts for each in rows.values()) == 2
    (scope,) = (state for name, state in own_store.scopes.items() if "key app" in name)
    await until(lambda: sum(each.money for each in scope.members.values()) == pytest.approx(2e5))
