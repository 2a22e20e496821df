"""Several gateways share the limits of client keys through a store and never exceed a spend limit."""

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
PATIENCE = 60.0  # seconds; the machine may be busy


@pytest.fixture(autouse=True)
def granting(monkeypatch):
    """Let a server that has just started grant money at once, and let calls wait for a store on a busy machine."""
    monkeypatch.setattr("stormbreak.fleet.valkey.QUIET", 0.0)
    for limit in ("fleet.valkey.TIMEOUT", "fleet.parent_store.TIMEOUT", "gateway.spending.WAIT"):
        monkeypatch.setattr(f"stormbreak.{limit}", PATIENCE)


@pytest.fixture
def impatient(monkeypatch):
    """Let calls notice soon that the store is lost or grants nothing."""
    monkeypatch.setattr("stormbreak.fleet.valkey.TIMEOUT", 1.0)
    monkeypatch.setattr("stormbreak.gateway.spending.WAIT", 2.0)


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
async def gateways(path, url, count, key, *, patience=2, reply=ten_cents):
    """Run gateways in this process, each a member of the fleet, in front of one provider."""
    async with upstream() as provider, AsyncExitStack() as stack:
        provider.reply = reply
        text = settings(
            provider.url, key=key, top=f"patience = {patience}\n[fleet]\nurl = '{url}'\n"
        )
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


async def served(gateway):
    """Ask until the store has granted the cost of a call."""
    end = time.monotonic() + PATIENCE
    while (await gateway.ask(ASKED)).status != 200:
        assert time.monotonic() < end, "the store does not answer"
        await asyncio.sleep(0.1)


async def test_two_hundred_calls_on_three_gateways_never_exceed_a_spend_limit(path, store):
    """Each answer costs ten cents; the reservation is higher, since the prompt might have more tokens."""
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


async def test_a_spend_limit_binds_only_its_own_key(path, store):
    async with gateways(path, store, 2, spend(0.4)) as (found, _):
        await ask_all(found, 10)
        other = await asyncio.gather(
            *(each.ask(ASKED, key="sb-other-client-key-9876543210") for each in found)
        )
    assert [reply.status for reply in other] == [200, 200]


async def test_each_gateway_knows_the_spending_of_all(path, store):
    async with gateways(path, store, 2, spend(LIMIT)) as (found, _):
        await ask_all(found[:1], 5)

        async def spent():
            usage = await found[1].ask(None, "/v1/usage", method="GET")
            return float(usage.json["spend"]["spent"])

        end = time.monotonic() + PATIENCE
        while await spent() != pytest.approx(0.5):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def test_a_reloaded_period_keeps_its_earlier_spending(path, store):
    day = spend(LIMIT, '"day"')
    async with gateways(path, store, 2, day) as (found, _):
        text = found[0].path.read_text()
        for key, count in ((day, 5), (spend(LIMIT, 3600), 3), ("", 2), (day, 30)):
            for each in found:
                each.path.write_text(text.replace(day, key))
                assert await each.gateway.reload()
            replies = await ask_all(found, count)
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
    assert took < 20  # the gateways do not starve each other
    codes = {reply.json["error"]["code"] for reply in replies if reply.status != 200}
    assert codes <= {"key_limit"}


async def test_gateways_share_the_calls_in_flight_of_a_key(path, own_store):
    in_flight = peak = 0

    async def reply(request, connection):
        nonlocal in_flight, peak
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.05)
        in_flight -= 1
        return TEN_CENTS

    limits = "max_in_flight = 4\n"
    async with gateways(path, own_store.url, 2, limits, reply=reply) as (
        found,
        _,
    ):
        await ask_all(found, 2)
        await asyncio.sleep(0.3)
        peak = 0
        await ask_all(found, 24)
    assert 2 <= peak <= 4


async def test_without_the_store_calls_beyond_the_allowance_are_rejected(path, tmp_path, impatient):
    server = Server("valkey", tmp_path).start()
    try:
        async with gateways(path, server.url, 1, spend(LIMIT)) as (found, provider):
            await served(found[0])
            server.freeze()
            replies = await ask_all(found, 40)
            seen = len(provider.seen)
            refused = next(reply for reply in replies if reply.status != 200)
            assert (refused.status, refused.json["error"]["code"]) == (429, "stormbreak_fleet")
            assert int(refused.headers["retry-after"]) >= 1
            assert "x-should-retry" not in refused.headers
            assert 0.1 * seen <= LIMIT
            server.thaw()
            await served(found[0])
    finally:
        server.thaw()
        server.kill()


async def test_a_store_that_has_just_started_rejects_with_retry_after(
    path, tmp_path, monkeypatch, impatient
):
    """SDKs may retry once the store grants money."""
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


async def test_a_lowered_limit_applies_at_the_reload_and_a_removed_key_returns_money(
    path, own_store
):
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


async def test_calls_in_flight_count_towards_a_reloaded_limit(path, own_store):
    go = asyncio.Event()

    async def hang(request, connection):
        await go.wait()
        return TEN_CENTS

    limit = "max_in_flight = {}\n"
    own = gateways(path, own_store.url, 1, limit.format(4), patience=PATIENCE, reply=hang)
    async with own as (found, provider):
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


async def test_a_new_period_begins_for_all_gateways(path, own_store):
    async with gateways(path, own_store.url, 2, spend(0.4, 1.0)) as (found, provider):
        for _ in range(2):
            seen, began = len(provider.seen), time.monotonic()
            await ask_all(found, 10)
            periods = 1 + int(time.monotonic() - began)  # of one second
            assert 0 < len(provider.seen) - seen <= 4 * periods
            await asyncio.sleep(1.2)


async def test_the_store_keeps_spend_limits_and_the_ledger_keeps_usage(path, own_store):
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
