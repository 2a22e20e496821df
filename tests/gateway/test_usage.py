"""The ledger has the usage of every attempt exactly once, even after kills."""

import asyncio
import json
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from decimal import Decimal
from itertools import count

import pytest
from gateways import (
    ANSWER,
    APP,
    ASKED,
    BOUND,
    KEY,
    LEDGER,
    OTHER,
    TARGET,
    USAGE,
    opened,
    priced_process,
    prices,
    read_reply,
    request_bytes,
    running,
    settings,
    until,
    upstream,
)

from stormbreak.errors import ConfigurationError
from stormbreak.gateway.usage_journal import journals_of
from stormbreak.gateway.usage_ledger import read_usage
from stormbreak.gateway.usage_rows import UsageFile, UsageRow, UsageSum
from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.types import CANCELLED, CANCELLED_AFTER_SEND, Outcome, Verdict

DETAILS = {"cached_tokens": 4}
USED = {"prompt_tokens": 10, "completion_tokens": 90, "prompt_tokens_details": DETAILS}
HUNDRED = ServerResponse(200, json.dumps({**ANSWER, "usage": USED}).encode())
TEAMS = 'tenant = "research"\nlabels = { team = "search" }'


QUICK = """
stall_timeout = 0.2
attempt_timeout = 1
breaker = "none"
[retry.backoff]
initial_delay = 0.01
max_delay = 0.05
[retry_budget]
ratio = 1.0
capacity = 1000
"""


def sums(path, by=lambda row: row.kind, price_of=prices, **when):
    """Return attempts, tokens and dollars, grouped by a function of the row."""
    found = {}
    for row, each in read_usage(path.with_name("spent.db"), price_of, **when).items():
        attempts, tokens, usd = found.get(by(row), (0, 0, 0))
        tokens += each.input_tokens + each.output_tokens
        found[by(row)] = attempts + each.attempts, tokens, usd + each.usd
    return found


def gateway_on(path, provider, **more):
    return running(path, settings(provider.url, gateway=LEDGER, more=TEAMS, **more), prices=prices)


async def test_every_attempt_is_counted_by_key_model_and_kind(path):
    numbers = count()

    async def answer(request, connection):
        if next(numbers) % 3 == 0:
            return ServerResponse(503, b'{"error": {"message": "busy"}}')
        return HUNDRED

    async with upstream() as provider:
        provider.reply = answer
        async with gateway_on(path, provider, top=QUICK) as gateway:
            for _ in range(6):
                assert (await gateway.ask(ASKED)).status == 200
                assert (await gateway.ask(ASKED, key=OTHER)).status == 200
            during = sums(path)
            assert gateway.metric("spent_usd_total") == pytest.approx(1.2)
        seen = len(provider.seen)
    assert sums(path) == during
    assert during["useful"] == (12, 1200, Decimal("1.2"))
    assert during["wasted_open"][0] == seen - 12  # a 503 may have been processed
    by_key = sums(path, by=lambda row: (row.kind, *row[1:5], row.model))
    assert {names[1:]: each[1] for names, each in by_key.items() if names[0] == "useful"} == {
        ("app", "app", (), "main", "storm-1"): 600,
        ("other", "research", (("team", "search"),), "main", "storm-1"): 600,
    }


async def test_a_price_function_that_raises_fails_no_call(path):
    """Found: the client got status 500 in place of the answer, and the attempt was not counted."""

    def broken(provider, model):
        raise ZeroDivisionError

    async with upstream() as provider:
        provider.reply = HUNDRED
        text = settings(provider.url, gateway=LEDGER)
        async with running(path, text, prices=broken) as gateway:
            assert (await gateway.ask()).status == 200
    assert sums(path, price_of=broken) == {"useful": (1, 100, 0)}


async def test_the_usage_of_streams_and_of_clients_that_disconnect_is_counted(path):
    async def answer(request, connection):
        connection.begin(200, "text/event-stream", [])
        connection.send(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        if b'"leave"' in request.body:
            await asyncio.sleep(30)
        connection.send(
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: '
            + json.dumps({"choices": [], "usage": USED}).encode()
            + b"\n\ndata: [DONE]\n\n"
        )
        connection.end()

    async with upstream() as provider:
        provider.reply = answer
        async with gateway_on(path, provider) as gateway:
            stream = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
            assert (await gateway.ask(stream)).events[-1] == "[DONE]"
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
            writer.write(request_bytes("/v1/chat/completions", {**stream, "user": "leave"}))
            await reader.readuntil(b'"a"')
            assert sums(path)["wasted_open"][0] == 1  # in flight: unknown until it ends
            writer.close()
            await until(lambda: gateway.metric("in_flight") == 0)
    found = sums(path)
    assert found["useful"] == (1, 100, Decimal("0.1"))
    attempts, tokens, usd = found["wasted_open"]
    assert attempts == 1
    assert tokens > 90  # at least the bound
    assert usd == Decimal("0.001") * tokens


async def test_counting_tokens_is_free(path):
    async def answer(request, connection):
        return ServerResponse(200, b'{"input_tokens": 7}')

    async with upstream() as provider:
        provider.reply = answer
        async with gateway_on(path, provider) as gateway:
            assert (await gateway.ask(ASKED, "/v1/messages/count_tokens")).status == 200
    assert sums(path) == {"free": (1, 0, 0)}


STORM = "[provider]\nservice = 0.01\nuse_max_tokens = true\n" + "".join(
    f'[[faults]]\nkind = "{kind}"\nshare = {share}\n{more}\n'
    for kind, share, more in (
        ("429", 0.05, 'retry_after = 0.02\nretry_after_form = "ms"'),
        ("500", 0.04, ""), ("reset", 0.03, ""), ("cut_body", 0.04, ""), ("error_in_200", 0.03, ""),
        ("cut_stream", 0.06, ""), ("stream_reset", 0.03, ""), ("stall", 0.02, ""),
    )
)  # fmt: skip


async def test_usage_in_a_storm_agrees_with_the_bill_of_the_provider(path, stormbreak_provider):
    """The bill lies between the known usage and the known usage plus the maximum of the unknown."""
    provider = stormbreak_provider(STORM, seed=3)
    text = settings(provider.base_url, gateway=LEDGER, top=QUICK)
    calls = iter(range(240))
    async with running(path, text, prices=prices) as gateway:

        async def ask():
            for number in calls:
                payload = {**ASKED, "max_tokens": 20, "stream": number % 2 == 0}
                if number % 9:
                    await gateway.ask(payload)
                else:  # a client that leaves
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.005):
                            await gateway.ask(payload)

        await asyncio.gather(*(ask() for _ in range(24)))
        await until(lambda: gateway.metric("in_flight") == 0)
        await until(lambda: not provider.stats()["in_service"])
    stats = provider.stats()
    billed = sum(each.input_tokens + each.output_tokens for each in provider.billed().values())
    found = sums(path)
    assert found["useful"][0] > 100
    known, unknown = found["useful"][1], found["wasted_open"][1]
    assert known < billed < known + unknown
    assert sum(attempts for attempts, _, _ in found.values()) >= stats["arrivals"]
    assert found["useful"][2] == Decimal("0.001") * known


async def test_kills_lose_no_attempt_and_count_none_twice(path):
    """Each request that the provider received is in the ledger once."""

    async def slow(request, connection):
        await asyncio.sleep(0.02)
        return HUNDRED

    async with upstream() as provider:
        provider.reply = slow
        path.write_text(settings(provider.url, gateway=LEDGER))
        answered = 0
        for _ in range(3):
            async with priced_process(path) as port:
                before = len(provider.seen)
                asking = [asyncio.create_task(ask_on(port)) for _ in range(6)]
                await asyncio.sleep(0.4)  # several journals
                await until(lambda before=before: len(provider.seen) >= before + 16)
            answered += sum(await asyncio.gather(*asking))
        seen = len(provider.seen)
    assert answered > 20
    left = sums(path)
    async with gateway_on(path, provider):
        assert journals_of(path.with_name("spent.db")).popitem()[1].keys() == {0}
    assert sums(path) == left
    known, tokens, usd = left["useful"]
    written = known + left.get("wasted_open", (0, 0, 0))[0]
    assert seen <= written <= seen + 3 * 6  # a kill may happen after the row and before the request
    assert answered <= known <= answered + 3 * 6
    assert (tokens, usd) == (100 * known, Decimal("0.1") * known)


def test_a_report_rolls_back_the_transaction_of_a_killed_writer(path, tmp_path):
    """Such a writer leaves half-written pages and a rollback journal."""
    counted = opened(path)
    counted.ended(counted.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    counted.close()
    before = sums(path)
    (tmp_path / "killed").mkdir()
    with closing(sqlite3.connect(path.with_name("spent.db"))) as db:
        db.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
        db.execute("UPDATE usage SET attempts = 99")
        db.executemany("INSERT INTO journals VALUES (?, 0)", [(f"{n:0500}",) for n in range(200)])
        for name in ("spent.db", "spent.db-journal"):
            shutil.copy(path.with_name(name), tmp_path / "killed" / name)
    assert sums(tmp_path / "killed" / path.name) == before


async def ask_on(port):
    """Send requests until the gateway is gone; return the number of whole answers."""
    answers = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            writer.write(request_bytes("/v1/chat/completions", ASKED, key=KEY))
            answers += (await read_reply(reader)).status == 200
    writer.close()
    return answers


# ------------------------------------------------------------------ the ledger alone


async def test_a_journal_already_in_the_ledger_is_not_counted_again(path, tmp_path):
    ledger = opened(path)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    (first,) = tmp_path.glob("spent.db.*.0")
    shutil.copy(first, tmp_path / "kept")
    await ledger.flush()
    shutil.copy(tmp_path / "kept", first)  # killed after the transaction, before the removal
    assert sums(path) == {"useful": (1, 15, Decimal("0.015"))}
    ledger._journal._path.unlink()
    opened(path).close()
    assert sums(path) == {"useful": (1, 15, Decimal("0.015"))}
    assert not journals_of(path.with_name("spent.db"))


async def test_two_journals_left_by_a_kill_count_once_if_one_is_in_the_ledger(path, tmp_path):
    ledger = opened(path)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    (first,) = tmp_path.glob("spent.db.*.0")
    shutil.copy(first, tmp_path / "kept")
    await ledger.flush()
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    shutil.copy(tmp_path / "kept", first)
    os.close(ledger._journal._descriptor)  # killed
    assert sums(path) == {"useful": (2, 30, Decimal("0.030"))}
    opened(path).close()
    assert sums(path) == {"useful": (2, 30, Decimal("0.030"))}


def test_a_journal_is_added_to_the_ledger_once(path):
    opened(path).close()
    file = UsageFile(path.with_name("spent.db"))
    row = UsageRow(1, "app", "", (), "main", "openai", "gpt-4.1", "useful")
    for number in (0, 0, 1):
        file.add({row: UsageSum(attempts=1, input_tokens=3, usd=Decimal("0.1"))}, "run", number)
    assert sums(path) == {"useful": (2, 6, Decimal("0.2"))}


async def test_an_attempt_that_spans_journals_counts_once(path):
    ledger = opened(path)
    going = ledger.sent(APP, TARGET, BOUND)
    for _ in range(3):
        ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
        await ledger.flush()
    assert sums(path)["wasted_open"] == (1, 100, Decimal("0.1"))
    ledger.ended(going, Outcome(Verdict.SERVER_ERROR, usage=USAGE))
    assert sums(path) == {
        "useful": (3, 45, Decimal("0.045")),
        "wasted": (1, 15, Decimal("0.015")),
    }
    ledger.close()


async def test_a_truncated_journal_line_does_not_hide_other_lines(path, tmp_path):
    ledger = opened(path)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    (journal,) = tmp_path.glob("spent.db.*.0")
    with journal.open("ab") as torn:
        torn.write(b'["sent",2,[')
    assert sums(path) == {"useful": (1, 15, Decimal("0.015"))}
    ledger.close()


def test_the_outcome_of_an_attempt_decides_its_kind(path):
    ledger = opened(path)
    for outcome in (
        Outcome(Verdict.OK, usage=USAGE),
        Outcome(Verdict.OK),
        Outcome(Verdict.BROKEN, maybe_processed=True),
        Outcome(Verdict.FILTERED, usage=USAGE),
        Outcome(Verdict.THROTTLED),
        CANCELLED,
        CANCELLED_AFTER_SEND,
    ):
        ledger.ended(ledger.sent(APP, TARGET, BOUND), outcome)
    ledger.close()
    assert {kind: each[0] for kind, each in sums(path).items()} == {
        "useful": 1, "used_uncounted": 1, "wasted": 1, "wasted_open": 2, "free": 2,
    }  # fmt: skip


def test_an_attempt_counts_in_the_hour_in_which_it_was_sent(path):
    now = 3600 * 1000 + 3599.0
    ledger = opened(path, clock=lambda: now)
    sent = ledger.sent(APP, TARGET, BOUND)
    now += 2
    ledger.ended(sent, Outcome(Verdict.OK, usage=USAGE))
    ledger.close()
    hour = 3600 * 1000
    assert sums(path, since=hour, until=hour + 3600)
    assert not sums(path, since=hour + 3600)
    assert not sums(path, until=hour)


async def test_a_full_disk_loses_no_usage_of_a_running_gateway(path, monkeypatch, caplog):
    ledger = opened(path)
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda *_: 0)
        patched.setattr(ledger._file, "add", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        for _ in range(9):
            ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
            await ledger.flush()
        (journals,) = journals_of(path.with_name("spent.db")).values()
    assert len(journals) <= 3
    assert caplog.text.count("its journal cannot be written") == len(journals)
    assert "disk full" in caplog.text
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    for _ in range(2):
        await ledger.flush()
    assert sums(path) == {"useful": (10, 150, Decimal("0.150"))}
    ledger.close()
    assert sums(path) == {"useful": (10, 150, Decimal("0.150"))}


def test_a_running_process_keeps_its_journals_when_another_starts(path):
    first, second = opened(path), opened(path)
    for ledger in (first, second):
        ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    opened(path).close()
    assert len(journals_of(path.with_name("spent.db"))) == 2
    first.close()
    second.close()
    assert sums(path) == {"useful": (2, 30, Decimal("0.030"))}


def test_a_file_that_is_not_a_ledger_is_rejected(path):
    path.with_name("spent.db").write_text("no database" * 100)
    with pytest.raises(ConfigurationError, match=r"gateway\.ledger .*not a database"):
        opened(path)


@pytest.mark.parametrize("change", ["usd = 'abc'", "labels = '[1'"])
def test_an_invalid_row_of_the_ledger_is_reported(path, change):
    file = path.with_name("spent.db")
    ledger = opened(path)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    ledger.close()
    with closing(sqlite3.connect(file)) as db, db:
        assert db.execute(f"UPDATE usage SET {change}").rowcount == 1
    with pytest.raises(ConfigurationError, match="a row was not written by a gateway"):
        read_usage(file, prices)


def test_model_names_in_the_ledger_are_bounded_and_hide_keys(path, monkeypatch):
    monkeypatch.setattr("stormbreak.gateway.usage_ledger.MAX_PLACES", 3)
    counted = opened(path)
    for model in ("m" * 10_000, "sk-abcdefghijklmnop1234567890", "a\nb", "c", "d"):
        sent = counted.sent(APP, TARGET._replace(model=model), BOUND)
        counted.ended(sent, Outcome(Verdict.OK, usage=USAGE))
    counted.close()
    models = {model: each[0] for model, each in sums(path, by=lambda row: row.model).items()}
    assert models["other"] == 2
    assert len(models) == 4
    assert max(map(len, models)) == 80
    assert not any("1234567890" in model or "\n" in model for model in models)


def test_a_missing_price_counts_as_unpriced_and_not_as_zero(path):
    ledger = opened(path, lambda *_: None)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    ledger.ended(ledger.sent(APP, TARGET, None), CANCELLED_AFTER_SEND)
    ledger.close()
    found = {row.kind: each for row, each in read_usage(path.with_name("spent.db"), prices).items()}
    assert (found["useful"].unpriced, found["useful"].unbounded) == (1, 0)
    assert (found["wasted_open"].unpriced, found["wasted_open"].unbounded) == (0, 1)


def test_the_files_of_a_ledger_are_private(path, tmp_path):
    counted = opened(path)
    counted.sent(APP, TARGET, BOUND)
    for each in tmp_path.glob("spent.db*"):
        assert each.stat().st_mode & 0o777 == 0o600, each
    counted.close()
