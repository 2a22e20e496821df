"""What keys have spent survives the gateway: an end, a kill, a full disk, and a change of the limit."""

import asyncio
from contextlib import asynccontextmanager, suppress
from decimal import Decimal

import pytest
from gateways import (
    ASKED,
    KEY,
    LEDGER,
    TEN_CENTS,
    priced_process,
    prices,
    request_bytes,
    running,
    settings,
    spend,
    until,
    upstream,
)

from stormbreak.errors import ConfigurationError
from stormbreak.gateway.ledger import LedgerError, SpendLedger, Spent
from stormbreak.gateway.process import Gateway


@asynccontextmanager
async def gateway_on(path, provider, key):
    text = settings(provider.url, gateway=LEDGER, key=key)
    async with running(path, text, prices=prices) as gateway:
        yield gateway


async def ask_until_refused(gateway, most=50):
    for count in range(most):
        reply = await gateway.ask(ASKED)
        if reply.status != 200:
            return count, reply
    return most, reply


async def test_a_restart_forgets_nothing_and_counts_nothing_twice(path):
    async with upstream() as provider:
        provider.reply = TEN_CENTS
        async with gateway_on(path, provider, spend(2)) as gateway:
            for _ in range(5):
                assert (await gateway.ask(ASKED)).status == 200
        for _ in range(3):
            async with gateway_on(path, provider, spend(2)) as gateway:
                assert gateway.metric("key_spent_usd") == 0.5
        async with gateway_on(path, provider, spend(2)) as gateway:
            count, reply = await ask_until_refused(gateway)
        assert count > 10
        assert reply.json["error"]["code"] == "stormbreak_spend"
        assert len(provider.seen) * 0.1 <= 2
        async with gateway_on(
            path, provider, spend(3)
        ) as gateway:  # a higher limit goes on from there
            count, _ = await ask_until_refused(gateway)
            assert 8 <= count <= 11
        assert len(provider.seen) * 0.1 <= 3


async def test_a_period_goes_on_over_a_restart_and_ends(path):
    async with upstream() as provider:
        provider.reply = TEN_CENTS
        async with gateway_on(path, provider, spend("0.4", 1.5)) as gateway:
            assert (await ask_until_refused(gateway))[0] == 2
        async with gateway_on(path, provider, spend("0.4", 1.5)) as gateway:
            assert (await ask_until_refused(gateway))[0] == 0
            await asyncio.sleep(1.6)
            assert (await ask_until_refused(gateway))[0] == 2
        async with gateway_on(path, provider, spend("0.4", 1.5)) as gateway:
            assert (await ask_until_refused(gateway))[0] == 0  # the second period was written, too


async def test_calls_at_once_wait_for_the_ledger_and_stay_within_the_limit(path):
    async def slow(request, connection):
        await asyncio.sleep(0.02)
        return TEN_CENTS

    async with upstream() as provider:
        provider.reply = slow
        async with gateway_on(path, provider, spend(2)) as gateway:
            replies = await asyncio.gather(*(gateway.ask(ASKED) for _ in range(100)))
            spent = gateway.metric("key_spent_usd")
    served = sum(reply.status == 200 for reply in replies)
    assert len(provider.seen) == served >= 8
    assert spent == pytest.approx(0.1 * served)


async def test_no_cent_more_is_spent_when_the_gateway_is_killed_again_and_again(path):
    """Every request costs ten cents at the provider, whether the gateway lives to see the answer or not."""

    async def slow(request, connection):
        await asyncio.sleep(0.05)
        return TEN_CENTS

    async with upstream() as provider:
        provider.reply = slow
        path.write_text(settings(provider.url, gateway=LEDGER, key=spend(2)))
        for patience in (30.0, 1.0):
            before = len(provider.seen)
            async with priced_process(path) as port:
                asking = [asyncio.create_task(_ask(port)) for _ in range(8)]
                with suppress(AssertionError):  # the last may spend nothing
                    await until(lambda before=before: len(provider.seen) >= before + 4, patience)
            await asyncio.gather(*asking, return_exceptions=True)
        assert 4 <= len(provider.seen) <= 20


async def _ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("/v1/chat/completions", ASKED, key=KEY))
    await reader.read(100)
    writer.close()


async def test_a_ledger_that_cannot_be_written_spends_nothing(path, monkeypatch):
    def fail(*_):
        raise LedgerError("disk full")

    async with upstream() as provider:
        provider.reply = TEN_CENTS
        async with gateway_on(path, provider, spend(2)) as gateway:
            with monkeypatch.context() as patched:
                patched.setattr(SpendLedger, "write", fail)
                reply = await gateway.ask(ASKED)
                assert reply.status == 429
                assert (
                    "the ledger of the gateway cannot be written" in reply.json["error"]["message"]
                )
            assert provider.seen == []
            assert (await gateway.ask(ASKED)).status == 200


async def test_one_process_has_the_ledger(path):
    async with upstream() as provider, gateway_on(path, provider, spend(2)):
        with pytest.raises(
            ConfigurationError, match=r"gateway.ledger .*spent.db: another process has it"
        ):
            Gateway(path)


def test_a_ledger_is_private_and_a_file_of_another_kind_is_refused(tmp_path):
    ledger = SpendLedger(tmp_path / "spent.db")
    ledger.write("a", Spent(Decimal("1.50"), None))
    ledger.write("a", Spent(Decimal("1.75"), 60.0))
    assert ledger.read("a").usd == Decimal("1.75")
    assert ledger.read("b") is None
    ledger.close()
    assert (tmp_path / "spent.db").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").write_text("no database" * 100)
    with pytest.raises(ConfigurationError, match=r"gateway\.ledger"):
        SpendLedger(tmp_path / "other")


def test_a_period_that_is_over_counts_nothing(tmp_path):
    now = 1000.0
    ledger = SpendLedger(tmp_path / "spent.db", clock=lambda: now)
    ledger.write("a", Spent(Decimal(1), 60.0))
    now = 1059.0
    assert ledger.read("a") == Spent(Decimal(1), 1.0)
    now = 1060.0
    assert ledger.read("a") is None
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.write("a", Spent(Decimal(1), None))
