"""The spending of keys survives a shutdown, a kill, a full disk and a change of the limit."""

import asyncio
import json
import random
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, closing, suppress
from decimal import Decimal
from itertools import pairwise

import pytest
from gateways import (
    ANSWER,
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

from stormbreak.cli.main import main
from stormbreak.core.gate import READY
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.messages import Message, Report, SpendReport
from stormbreak.fleet.parent_store import Money, ParentStore
from stormbreak.gateway import spending
from stormbreak.gateway.keys import LimitHolder
from stormbreak.gateway.limits import ClientQueues
from stormbreak.gateway.process import Gateway
from stormbreak.gateway.spend_ledger import LedgerError, LedgerRecord, SpendLedger, Spent
from stormbreak.gateway.spending import ClientBudgets
from stormbreak.http.h1.server_connection import ServerResponse

LIMITED = LimitHolder("key", "app", TenantLimits(spend=SpendPolicy(max_usd=1.0)))


@asynccontextmanager
async def gateway_on(path, provider, key):
    text = settings(provider.url, gateway=LEDGER, key=key)
    async with running(path, text, prices=prices) as gateway:
        yield gateway


async def ask_until_refused(gateway, limit=50):
    for count in range(limit):
        reply = await gateway.ask(ASKED)
        if reply.status != 200:
            return count, reply
    return limit, reply


async def test_a_restart_loses_no_spending_and_counts_none_twice(path):
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
        assert "retry-after" not in reply.headers  # the limit never renews
        assert len(provider.seen) * 0.1 <= 2
        async with gateway_on(
            path, provider, spend(3)
        ) as gateway:  # a higher limit keeps the spending
            count, _ = await ask_until_refused(gateway)
            assert 8 <= count <= 11
        assert len(provider.seen) * 0.1 <= 3


async def test_a_period_continues_over_a_restart_and_ends(path):
    async with upstream() as provider:
        provider.reply = TEN_CENTS
        async with gateway_on(path, provider, spend("0.4", 60)) as gateway:
            assert (await ask_until_refused(gateway))[0] == 2
        async with gateway_on(path, provider, spend("0.4", 60)) as gateway:
            assert (await ask_until_refused(gateway))[0] == 0
            budgets = gateway.gateway._limits.budgets
            budgets.clock = lambda: time.monotonic() + 61
            budgets._ledger.clock = lambda: time.time() + 61
            assert (await ask_until_refused(gateway))[0] == 2
        async with gateway_on(path, provider, spend("0.4", 60)) as gateway:
            assert (await ask_until_refused(gateway))[0] == 0  # it has the second period, too


async def test_concurrent_calls_wait_for_the_ledger_and_stay_within_the_limit(path):
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


async def test_repeated_kills_never_exceed_the_spend_limit(path):
    """Every request costs ten cents at the provider, even if a kill loses its answer."""

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
                with suppress(AssertionError):  # the last process may be allowed to spend nothing
                    await until(lambda before=before: len(provider.seen) >= before + 4, patience)
            await asyncio.gather(*asking, return_exceptions=True)
        assert 4 <= len(provider.seen) <= 20


async def _ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("/v1/chat/completions", ASKED, key=KEY))
    await reader.read(100)
    writer.close()


def written(path):
    """Return what a process would read after a kill at this moment; the file has one key."""
    with closing(sqlite3.connect(path)) as db:
        return sum(Decimal(usd) for (usd,) in db.execute("SELECT usd FROM spent"))


async def test_the_ledger_lowers_its_reservation_soon_after_a_burst(path, monkeypatch):
    """The whole limit is reserved, and little of it is spent."""
    monkeypatch.setattr(spending, "LOWER_AFTER", 0.05)
    usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    cheap = ServerResponse(200, json.dumps({**ANSWER, "usage": usage}).encode())
    reserved = []

    async def slow(request, connection):
        await until(lambda: len(provider.seen) >= 20)  # the limit has room for 24
        reserved.append(written(path.with_name("spent.db")))
        return cheap

    async with upstream() as provider:
        provider.reply = slow
        async with gateway_on(path, provider, spend(6)) as gateway:
            replies = await asyncio.gather(*(gateway.ask(ASKED) for _ in range(40)))
            assert sum(reply.status == 200 for reply in replies) > 10
            assert max(reserved) > 5
            await until(lambda: written(path.with_name("spent.db")) < 2)  # at most 8 attempts


async def test_the_ledger_file_always_covers_spent_and_reserved_money(path, monkeypatch):
    """Calls start, end and are cancelled during slow writes; a kill may happen between any two steps."""
    monkeypatch.setattr(spending, "LOWER_AFTER", 0.0)
    chance = random.Random(7)
    ledger = SpendLedger(path)
    write, rows = ledger.write, []

    def slow_write(title, per, spent):
        time.sleep(chance.random() * 0.003)
        write(title, per, spent)
        rows.append(spent.usd)
        time.sleep(chance.random() * 0.003)

    monkeypatch.setattr(ledger, "write", slow_write)
    budgets = ClientBudgets(prices, ClientQueues(), ledger)
    budgets.apply([LIMITED], Policy())
    account = budgets.account(LIMITED)

    async def call(number):
        await asyncio.sleep(chance.random() * 0.4)
        bound = Decimal(chance.choice(["0.01", "0.03"]))
        await budgets.allow(account, bound)
        if account.ready_at(bound, 0.0) > READY:
            return
        period = account.reserve(bound, 0.0)
        try:
            await asyncio.sleep(chance.random() * 0.05)
        finally:
            account.settle(bound, Decimal("0.0005"), period, 0.0)
            budgets.settled(account)

    async def watch():
        while True:
            assert account.taken <= written(path) <= account.limit
            await asyncio.sleep(0)

    calls = [asyncio.create_task(call(number)) for number in range(300)]
    watching = asyncio.create_task(watch())
    for each in calls[::3]:
        asyncio.get_running_loop().call_later(chance.random() * 0.4, each.cancel)
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: watching.done() or (account.lowering is None and not budgets._writes))
    assert not watching.done(), watching.exception()
    watching.cancel()
    assert any(after < before for before, after in pairwise(rows))
    budgets.close()
    assert account.spent == written(path)


async def test_a_cancelled_call_cannot_overwrite_a_newer_row(path, monkeypatch):
    ledger, go, rows = SpendLedger(path), threading.Event(), []
    write = ledger.write

    def slow_at_first(title, per, spent):
        rows.append(spent.usd)
        if len(rows) == 1:
            go.wait(30)
        write(title, per, spent)
        rows.append("written")

    monkeypatch.setattr(ledger, "write", slow_at_first)
    budgets = ClientBudgets(prices, ClientQueues(), ledger)
    budgets.apply([LIMITED], Policy())
    account = budgets.account(LIMITED)
    gone = asyncio.create_task(budgets.allow(account, Decimal("0.01")))
    await until(lambda: rows)
    gone.cancel()
    after = asyncio.create_task(budgets.allow(account, Decimal("0.5")))
    await asyncio.wait({after}, timeout=0.05)
    go.set()
    await after
    account.reserve(Decimal("0.5"), 0.0)
    await until(lambda: rows.count("written") == 2)
    assert written(path) >= account.taken
    budgets.close()


async def test_a_reservation_is_written_in_its_own_period(path):
    """Otherwise a call allowed just before the end of a period would be in no row, like those after it."""
    now = 0.0
    ledger = SpendLedger(path, clock=lambda: now)
    budgets = ClientBudgets(prices, ClientQueues(), ledger, clock=lambda: now)
    spend_limit = SpendPolicy(max_usd=1.0, period=60.0)
    holder = LimitHolder("key", "app", TenantLimits(spend=spend_limit))
    budgets.apply([holder], Policy())
    account = budgets.account(holder)
    for at, ends_at in ((0.0, 60.0), (59.9, 60.0), (60.0, 120.0), (60.1, 120.0)):
        now = at
        await budgets.allow(account, Decimal("0.01"))
        assert budgets.covers(account, Decimal("0.01"), now)
        assert not budgets.covers(account, Decimal("0.01"), ends_at)
        account.reserve(Decimal("0.01"), now)
        assert account.ends_at == ends_at
        now = ends_at - 0.01  # a kill, and a start just before the period ends
        assert ledger.read(holder.title, "60 s").usd >= account.taken
    budgets.close()


async def test_concurrent_calls_begin_a_period(path):
    async with upstream() as provider:
        provider.reply = TEN_CENTS
        async with gateway_on(path, provider, spend(9, 60)) as gateway:
            replies = await asyncio.gather(*(gateway.ask(ASKED) for _ in range(20)))
    assert [reply.status for reply in replies] == [200] * 20


def test_the_ledger_of_a_parent_follows_money_returned_by_workers(path):
    now = 0.0
    ledger = SpendLedger(path)
    record = LedgerRecord(ledger, clock=lambda: now)
    record.scopes = {"scope": LIMITED}
    assert record.note("scope", Money(900_000.0, None), 1_000_000.0)
    assert written(path) == Decimal("0.92")
    for micro in (500.0, 700.0):
        assert record.note("scope", Money(micro, None), 1_000_000.0)
        assert written(path) == Decimal("0.92")  # not at once, since it may change soon
    now = 1.0
    assert record.note("scope", Money(500.0, None), 1_000_000.0)
    assert written(path) == Decimal("0.0205")
    assert record.note("scope", Money(30_000.0, None), 1_000_000.0)
    assert written(path) == Decimal("0.05")
    ledger.close()
    now = 5.0
    assert record.note("scope", Money(20_000.0, None), 1_000_000.0)  # the row already covers it
    assert not record.note("scope", Money(60_000.0, None), 1_000_000.0)


async def test_calls_are_rejected_while_the_ledger_cannot_be_written(path, monkeypatch):
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


async def test_only_one_process_can_open_the_ledger(path):
    async with upstream() as provider, gateway_on(path, provider, spend(2)):
        with pytest.raises(
            ConfigurationError, match=r"gateway.ledger .*spent.db: another process uses it"
        ):
            Gateway(path)


def test_a_ledger_file_is_private_and_another_kind_of_file_is_rejected(tmp_path):
    ledger = SpendLedger(tmp_path / "spent.db")
    ledger.write("a", "day", Spent(Decimal("1.50"), None))
    ledger.write("a", "day", Spent(Decimal("1.75"), 60.0))
    assert ledger.read("a", "day").usd == Decimal("1.75")
    assert ledger.read("b", "day") is None
    ledger.close()
    assert (tmp_path / "spent.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError, match=r"gateway\.ledger \.: not the name of a file"):
        SpendLedger(".")
    (tmp_path / "other").write_text("no database" * 100)
    with pytest.raises(ConfigurationError, match=r"gateway\.ledger"):
        SpendLedger(tmp_path / "other")


@pytest.mark.parametrize("table", ["usage", "journals", "spent"])
def test_a_database_of_another_program_is_rejected_and_unchanged(path, table, capsys):
    file = path.with_name("spent.db")
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"CREATE TABLE {table} (day TEXT)")
    before = file.read_bytes()
    path.write_text(settings("http://127.0.0.1:9/v1", gateway=LEDGER))
    assert main(["gateway", str(path)]) == 2
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1
    assert f"spent.db: its table {table} belongs to another program; choose another file" in refused
    assert file.read_bytes() == before


def test_spending_of_a_past_period_does_not_count(tmp_path):
    now = 1000.0
    ledger = SpendLedger(tmp_path / "spent.db", clock=lambda: now)
    ledger.write("a", "day", Spent(Decimal(1), 60.0))
    now = 1059.0
    assert ledger.read("a", "day") == Spent(Decimal(1), 1.0)
    now = 1060.0
    assert ledger.read("a", "day") is None
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.write("a", "day", Spent(Decimal(1), None))


def test_a_new_hour_does_not_begin_with_the_spending_of_the_day(tmp_path):
    """Found: the row of the past hour was skipped, and the row of the day used instead."""
    now = 1000.0
    ledger = SpendLedger(tmp_path / "spent.db", clock=lambda: now)
    ledger.write("a", "day", Spent(Decimal(20), 7200.0))
    assert ledger.read("a", "hour").usd == 20  # the first hour
    ledger.write("a", "hour", Spent(Decimal(1), 60.0))
    now = 1100.0
    assert ledger.read("a", "hour") is None
    ledger.close()


HOUR_11 = 1_790_002_800.0  # the start of an hour


class Machine:
    """The spending of a gateway on a machine with kills, restarts and changes of the wall clock."""

    def __init__(self, path):
        self.path, self.now, self.wall = path, 50.0, HOUR_11 - 700.0
        self.holder = LimitHolder(
            "key", "app", TenantLimits(spend=SpendPolicy(max_usd=1, period="hour"))
        )
        self.start()

    def start(self):
        self.ledger = SpendLedger(self.path, clock=lambda: self.wall)
        self.budgets = ClientBudgets(
            prices, ClientQueues(), self.ledger, clock=lambda: self.now, wall=lambda: self.wall
        )
        self.budgets.apply([self.holder], Policy())
        self.account = self.budgets.account(self.holder)

    def restart(self, *, killed):
        self.ledger.close() if killed else self.budgets.close()
        self.now = 50.0
        self.start()

    def go(self, seconds):
        self.now += seconds
        self.wall += seconds

    async def spend(self, usd):
        """Reserve and spend an amount for an attempt if allowed; return whether it was."""
        bound = Decimal(usd)
        await self.budgets.allow(self.account, bound)
        covered = self.budgets.covers(self.account, bound, self.now)
        if not covered or self.account.ready_at(bound, self.now) > self.now:
            return False
        self.account.settle(bound, bound, self.account.reserve(bound, self.now), self.now)
        return True


@pytest.fixture
def machine(path):
    machine = Machine(path)
    yield machine
    machine.ledger.close()


@pytest.mark.parametrize("killed", [True, False])
async def test_an_hour_continues_over_a_restart_and_ends_on_time(machine, killed):
    assert await machine.spend(1)
    machine.go(699.9)
    machine.restart(killed=killed)
    assert not await machine.spend("0.01")
    machine.restart(killed=killed)
    machine.go(0.2)
    assert await machine.spend(1)  # exactly when the hour begins
    machine.restart(killed=killed)
    machine.go(3598.0)
    assert not await machine.spend("0.01")
    machine.go(2.0)
    assert await machine.spend(1)


@pytest.mark.parametrize("seed", range(4))
async def test_restarts_kills_and_clock_changes_never_exceed_the_limit_of_an_hour(machine, seed):
    chance = random.Random(seed)
    latest, hours, back = machine.wall, {}, 0.0
    for _ in range(250):
        what = chance.random()
        if what < 0.1:
            machine.restart(killed=chance.random() < 0.5)
        elif what < 0.3:
            machine.go(chance.choice([0.4, 60.0, 500.0, 699.0]))
        elif what < 0.4 and back < 3_000.0:
            back += 500.0
            machine.wall -= 500.0
        latest = max(latest, machine.wall)
        amount = chance.choice(["0.05", "0.3"])
        if await machine.spend(amount):
            hours[latest // 3600] = hours.get(latest // 3600, Decimal(0)) + Decimal(amount)
    assert len(hours) >= 4
    assert max(hours.values()) <= 1
    assert sum(hours.values()) >= len(hours) * Decimal("0.5")


@pytest.mark.parametrize("killed", [True, False])
async def test_a_change_from_hour_to_month_keeps_the_spending(machine, killed):
    """Found: the spending of the month was lost when the hour in the file ended."""
    assert await machine.spend("0.1")
    machine.holder = LimitHolder(
        "key", "app", TenantLimits(spend=SpendPolicy(max_usd=1, period="month"))
    )
    machine.restart(killed=killed)
    while await machine.spend("0.1"):
        pass
    machine.go(3600.0)
    assert not await machine.spend("0.1")
    machine.go(31 * 86_400.0)
    assert await machine.spend("1")


@pytest.mark.parametrize("ledger", ["", LEDGER])
@pytest.mark.parametrize("between", ["", spend(2), spend(2, 3600)])
async def test_a_reloaded_period_keeps_its_earlier_spending(path, ledger, between):
    """Found: a reload to another period, or to no limit, and back reset the spending of the day."""
    async with upstream() as provider:
        provider.reply = TEN_CENTS
        text = settings(provider.url, gateway=ledger, key=spend(2, '"day"'))
        async with running(path, text, prices=prices) as gateway:
            spent = 0
            for each in (spend(2, '"day"'), between, spend(3, '"day"')):
                path.write_text(settings(provider.url, gateway=ledger, key=each))
                assert await gateway.gateway.reload()
                for _ in range(5):
                    assert (await gateway.ask(ASKED)).status == 200
                spent += "day" in each
                if "day" in each:
                    assert gateway.metric("key_spent_usd") == pytest.approx(0.5 * spent)
        if ledger:
            async with running(path, path.read_text(), prices=prices) as gateway:
                assert gateway.metric("key_spent_usd") == pytest.approx(1.0)


def test_a_parent_writes_each_period_to_its_own_row(path):
    """Found: the row of a replaced limit was written last."""
    day, ever = (
        LimitHolder("key", "app", TenantLimits(spend=SpendPolicy(max_usd=1, period=period)))
        for period in ("day", None)
    )
    record = LedgerRecord(SpendLedger(path))
    store = ParentStore(record=record)
    record.scopes = {"day": day, "ever": ever}
    for scope, period, micro in (("day", -2.0, 600_000.0), ("ever", 0.0, 200_000.0)):
        asked = Report(spend=SpendReport(limit=1e6, period=period, needed=micro))
        assert store.beat([Message(scope, "a", asked)])[0].spend.granted >= micro
    record.close(store)

    ledger = SpendLedger(path)
    record = LedgerRecord(ledger)
    record.scopes = {"day": day, "ever": ever}
    assert record.restored("day").micro >= 600_000 > record.restored("ever").micro >= 200_000
    ledger.close()


def test_a_restarted_parent_continues_an_hour_until_it_ends(path):
    wall = HOUR_11 - 700.0
    holder = LimitHolder("key", "app", TenantLimits(spend=SpendPolicy(max_usd=1, period="hour")))
    ledger = SpendLedger(path, clock=lambda: wall)
    record = LedgerRecord(ledger)
    record.scopes = {"scope": holder}
    asked = Report(spend=SpendReport(limit=1e6, period=-1.0, needed=600_000.0))

    def granted(member):
        return store.beat([Message("scope", member, asked)])[0].spend.granted

    store = ParentStore(record=record, wall=lambda: wall)
    assert granted("a") >= 600_000
    store = ParentStore(record=record, wall=lambda: wall)
    assert granted("b") == 0
    wall = HOUR_11 + 0.5
    assert granted("b") >= 600_000
    store = ParentStore(record=record, wall=lambda: wall)
    assert granted("c") == 0
    wall = HOUR_11 + 3600.0
    store = ParentStore(record=record, wall=lambda: wall)
    assert granted("c") >= 600_000
    record.close(store)
