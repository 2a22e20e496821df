"""What attempts used is in the ledger: all of it, once, also after kills; and the report adds up."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from decimal import Decimal
from itertools import count

import pytest
from gateways import (
    ANSWER,
    CHAT,
    KEY,
    OTHER,
    read_reply,
    request_bytes,
    running,
    settings,
    until,
    upstream,
)

from stormbreak.cli.main import main
from stormbreak.config.gateway_settings import KeySettings
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.keys import client_keys
from stormbreak.gateway.usage_journal import journals_of
from stormbreak.gateway.usage_ledger import UsageLedger, read_usage
from stormbreak.gateway.usage_rows import UsageFile, UsageRow, UsageSum
from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.types import CANCELLED, CANCELLED_AFTER_SEND, Outcome, Target, Usage, Verdict

LEDGER = 'ledger = "spent.db"'
DETAILS = {"cached_tokens": 4}
USED = {"prompt_tokens": 10, "completion_tokens": 90, "prompt_tokens_details": DETAILS}
HUNDRED = ServerResponse(200, json.dumps({**ANSWER, "usage": USED}).encode())
ASKED = {**CHAT, "max_tokens": 90}
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


class Prices:
    """A tenth of a cent for each token."""

    def cost_of(self, usage):
        return Decimal("0.001") * usage.total

    max_cost_of = max_cost_within = cost_of


def prices(*_):
    return Prices()


def no_price(*_):
    return None


def sums(path, by=lambda row: row.kind, price_of=prices, **when):
    """Attempts, tokens and dollars, by what is asked."""
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


async def test_streams_and_clients_that_leave_are_counted(path):
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
            assert sums(path)["wasted_open"][0] == 1  # under way: unknown until it ends
            writer.close()
            await until(lambda: gateway.metric("in_flight") == 0)
    found = sums(path)
    assert found["useful"] == (1, 100, Decimal("0.1"))
    attempts, tokens, usd = found["wasted_open"]
    assert attempts == 1
    assert tokens > 90  # the bound
    assert usd == Decimal("0.001") * tokens


STORM = "[provider]\nservice = 0.01\nuse_max_tokens = true\n" + "".join(
    f'[[faults]]\nkind = "{kind}"\nshare = {share}\n{more}\n'
    for kind, share, more in (
        ("429", 0.05, 'retry_after = 0.02\nretry_after_form = "ms"'),
        ("500", 0.04, ""), ("reset", 0.03, ""), ("cut_body", 0.04, ""), ("error_in_200", 0.03, ""),
        ("cut_stream", 0.06, ""), ("stream_reset", 0.03, ""), ("stall", 0.02, ""),
    )
)  # fmt: skip


async def test_the_sums_are_those_of_the_provider_in_a_storm(path, stormbreak_provider):
    """What the provider bills lies between what is known, and that with the most of what is unknown."""
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


PROGRAM = """
import asyncio, sys
from decimal import Decimal
from stormbreak.gateway import usage_ledger
from stormbreak.gateway.process import Gateway

class Prices:
    def cost_of(self, usage): return Decimal('0.001') * usage.total
    max_cost_of = max_cost_within = cost_of

async def main():
    usage_ledger.INTERVAL = 0.05
    gateway = Gateway(sys.argv[1], prices=lambda *_: Prices())
    await gateway.start()
    print(gateway.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_kills_forget_no_attempt_and_count_none_twice(path):
    """The provider's own account is the truth: each request that it got is in the ledger, once."""

    async def slow(request, connection):
        await asyncio.sleep(0.02)
        return HUNDRED

    async with upstream() as provider:
        provider.reply = slow
        path.write_text(settings(provider.url, gateway=LEDGER))
        answered = 0
        for _ in range(3):
            gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, path, stdout=asyncio.subprocess.PIPE
            )
            try:
                port = int(await gateway.stdout.readline())
                asking = [asyncio.create_task(ask_on(port)) for _ in range(6)]
                await asyncio.sleep(0.4)  # several journals
            finally:
                gateway.kill()
                await gateway.wait()
            answered += sum(await asyncio.gather(*asking))
        seen = len(provider.seen)
    assert answered > 20
    left = sums(path)
    async with gateway_on(path, provider):
        assert journals_of(path.with_name("spent.db")).popitem()[1].keys() == {0}
    assert sums(path) == left
    known, tokens, usd = left["useful"]
    written = known + left.get("wasted_open", (0, 0, 0))[0]
    assert seen <= written <= seen + 3 * 6  # one may be written down, and killed before it leaves
    assert answered <= known <= answered + 3 * 6
    assert (tokens, usd) == (100 * known, Decimal("0.1") * known)


def test_a_report_undoes_what_a_killed_writer_began(path, tmp_path):
    """What such a writer leaves: pages that are half written, and a journal that undoes them."""
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
    """Ask until the gateway is gone; return the number of whole answers."""
    answers = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            writer.write(request_bytes("/v1/chat/completions", ASKED, key=KEY))
            answers += (await read_reply(reader)).status == 200
    writer.close()
    return answers


# ------------------------------------------------------------------ the ledger alone

APP = client_keys({"app": KeySettings(sha256="a" * 64)})["a" * 64]
TARGET = Target("openai", "gpt-4.1", name="main")
BOUND = Usage(input_tokens=50, output_tokens=50)
USAGE = Usage(input_tokens=10, output_tokens=5)


def opened(path, **settings):
    return UsageLedger(path.with_name("spent.db"), prices, **settings)


async def test_a_journal_that_is_in_the_ledger_already_counts_nothing(path, tmp_path):
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


async def test_of_two_journals_that_a_kill_left_one_may_be_in_the_ledger(path, tmp_path):
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


def test_a_journal_is_added_once(path):
    opened(path).close()
    file = UsageFile(path.with_name("spent.db"))
    row = UsageRow(1, "app", "", (), "main", "openai", "gpt-4.1", "useful")
    for number in (0, 0, 1):
        file.add({row: UsageSum(attempts=1, input_tokens=3, usd=Decimal("0.1"))}, "run", number)
    assert sums(path) == {"useful": (2, 6, Decimal("0.2"))}


async def test_an_attempt_that_goes_on_over_journals_counts_once(path):
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


async def test_a_torn_line_hides_no_other(path, tmp_path):
    ledger = opened(path)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    (journal,) = tmp_path.glob("spent.db.*.0")
    with journal.open("ab") as torn:
        torn.write(b'["sent",2,[')
    assert sums(path) == {"useful": (1, 15, Decimal("0.015"))}
    ledger.close()


def test_how_an_attempt_ended_decides_what_it_counts_as(path):
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


def test_hours_are_those_in_which_attempts_were_sent(path):
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


async def test_a_full_disk_loses_no_usage_of_a_gateway_that_lives(path, monkeypatch, caplog):
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


def test_a_live_run_keeps_its_journals_when_another_starts(path):
    first, second = opened(path), opened(path)
    for ledger in (first, second):
        ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    opened(path).close()
    assert len(journals_of(path.with_name("spent.db"))) == 2
    first.close()
    second.close()
    assert sums(path) == {"useful": (2, 30, Decimal("0.030"))}


def test_a_file_that_is_no_ledger_is_refused(path):
    path.with_name("spent.db").write_text("no database" * 100)
    with pytest.raises(ConfigurationError, match=r"gateway\.ledger .*not a database"):
        opened(path)


def test_names_of_models_are_bounded_and_hide_keys(path, monkeypatch):
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


def test_a_missing_price_is_no_zero(path):
    ledger = UsageLedger(path.with_name("spent.db"), no_price)
    ledger.ended(ledger.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    ledger.ended(ledger.sent(APP, TARGET, None), CANCELLED_AFTER_SEND)
    ledger.close()
    found = {row.kind: each for row, each in read_usage(path.with_name("spent.db"), prices).items()}
    assert (found["useful"].unpriced, found["useful"].unbounded) == (1, 0)
    assert (found["wasted_open"].unpriced, found["wasted_open"].unbounded) == (0, 1)


# ------------------------------------------------------------------ the report


@pytest.fixture
def ledger(path):
    """Two days, two keys, two models; one attempt without usage."""
    keys = client_keys(
        {
            "app": KeySettings(sha256="a" * 64, labels={"team": "shop", "env": "prod"}),
            "nightly": KeySettings(sha256="b" * 64, tenant="research", labels={"team": "search"}),
        }
    )
    day = 1_793_491_200  # 2026-11-01
    mini = TARGET._replace(model="gpt-4.1-mini", name="")
    cached = Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=400)
    for at, key, target, outcome in (
        (day, "a", TARGET, Outcome(Verdict.OK, usage=cached)),
        (day + 3600, "b", mini, Outcome(Verdict.OK, usage=cached)),
        (day + 86400, "b", TARGET, Outcome(Verdict.OK, usage=cached)),
        (day + 86400, "b", TARGET, Outcome(Verdict.SERVER_ERROR, usage=USAGE)),
        (day + 86400, "b", TARGET, CANCELLED_AFTER_SEND),
        (day + 86400, "b", TARGET, Outcome(Verdict.THROTTLED)),
    ):
        counted = opened(path, clock=lambda at=at: at)
        counted.ended(counted.sent(keys[key * 64], target, BOUND), outcome)
        counted.close()
    return path.with_name("spent.db")


def report(capsys, *words):
    assert main(["cost", "report", *map(str, words), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    return printed["usage"], printed


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("key", ["app", "nightly", "all"]),
        ("tenant", ["app", "research", "all"]),
        ("label", ["env=prod team=shop", "team=search", "all"]),
        ("label.team", ["search", "shop", "all"]),
        ("model", ["gpt-4.1", "gpt-4.1-mini", "all"]),
        ("target", ["main", "openai/gpt-4.1-mini", "all"]),
        ("day", ["2026-11-01", "2026-11-02", "all"]),
        ("month", ["2026-11"]),
    ],
)
def test_rows_add_up_to_the_whole(ledger, capsys, by, names):
    rows, _ = report(capsys, ledger, "--by", by)
    assert [row[by] for row in rows] == names
    parts, whole = rows[:-1] or rows, rows[-1]
    for column, total in whole.items():
        if isinstance(total, int | float):
            assert sum(row[column] for row in parts) == pytest.approx(total)
    assert {name: whole[name] for name in ("answers", "unknown_attempts", "free_attempts")} == {
        "answers": 3, "unknown_attempts": 1, "free_attempts": 1,
    }  # fmt: skip
    assert (whole["input_tokens"], whole["cached_input_tokens"]) == (3010, 1200)
    assert (whole["output_tokens"], whole["unknown_max"]) == (305, 0.1)
    assert (whole["cost"], whole["wasted"]) == (3.315, 0.015)


def test_a_report_is_of_the_hours_that_are_asked(ledger, capsys):
    rows, printed = report(capsys, ledger, "--since", "2026-11-01", "--until", "2026-11-02")
    assert [(row["key"], row["model"]) for row in rows[:-1]] == [
        ("app", "gpt-4.1"), ("nightly", "gpt-4.1-mini"),
    ]  # fmt: skip
    assert printed["since"] == "2026-11-01T00:00:00+00:00"
    (row,) = report(capsys, ledger, "--until", "2026-11-01T01:00")[0]
    assert row["key"] == "app"
    assert report(capsys, ledger, "--since", "2027-01-01")[0] == []


def test_ledgers_are_added_up(ledger, capsys, tmp_path):
    once, _ = report(capsys, ledger)
    copy = tmp_path / "other.db"
    shutil.copy(ledger, copy)
    twice, _ = report(capsys, ledger, copy)
    assert [row["cost"] for row in twice] == [2 * row["cost"] for row in once]


def compared(capsys, *words):
    assert main(["cost", "compare", *map(str, words), "--providers", "openai", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    return [(row["used"], row["model"], row["tokens"]) for row in printed["rows"]], printed["notes"]


def test_a_ledger_is_traffic_to_compare_models_with(ledger, capsys):
    models = ("--models", "gpt-4.1-nano")
    rows, notes = compared(capsys, "--from", ledger, *models)
    assert rows == [
        ("gpt-4.1", "gpt-4.1", 2215), ("gpt-4.1", "gpt-4.1-nano", 2215),
        ("gpt-4.1-mini", "gpt-4.1-mini", 1100), ("gpt-4.1-mini", "gpt-4.1-nano", 1100),
    ]  # fmt: skip
    assert "Attempts without usage are not in it: 1." in notes
    assert "Counted from 2026-11-01 to 2026-11-02." in notes
    rows, _ = compared(capsys, "--from", ledger, *models, "--until", "2026-11-01T01:00")
    assert rows == [("gpt-4.1", "gpt-4.1", 1100), ("gpt-4.1", "gpt-4.1-nano", 1100)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "spent.db", "--since", "2027-01-01"], "no usage is recorded for that time"),
        (["--from", "none.jsonl", "--since", "2026-11-01"], "--since has no effect"),
        (["--tokens", "1M", "--until", "2026-11-01"], "--until has no effect without --from"),
    ],
)
def test_a_comparison_says_why_it_has_no_traffic(ledger, capsys, monkeypatch, words, said):
    monkeypatch.chdir(ledger.parent)
    assert main(["cost", "compare", "--models", "gpt-4.1", *words]) == 2
    assert said in capsys.readouterr().err


def test_what_has_no_price_has_no_amount(path, capsys):
    counted = UsageLedger(path.with_name("spent.db"), no_price)
    counted.ended(counted.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    counted.close()
    (row,) = report(capsys, path.with_name("spent.db"))[0]
    assert (row["cost"], row["unpriced_attempts"], row["input_tokens"]) == (None, 1, 10)


def test_a_price_file_prices_again(ledger, capsys, tmp_path):
    file = tmp_path / "deal.toml"
    file.write_text(
        '[[prices]]\nprovider = "openai"\nmodel = "gpt-4.1"\ninput = 1\noutput = 1\n'
        '[[prices]]\nprovider = "openai"\nmodel = "gpt-4.1-mini"\ninput = 1\noutput = 1\n'
    )
    rows, _ = report(capsys, ledger, "--prices", file)
    assert rows[-1]["cost"] == pytest.approx(0.003315)


def test_the_table_and_csv_have_the_same_rows(ledger, capsys):
    assert main(["cost", "report", str(ledger), "--csv", "--by", "day"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("day,answers,input_tokens,cached_input_tokens")
    assert [line.split(",")[0] for line in lines[1:]] == ["2026-11-01", "2026-11-02", "all"]
    assert main(["cost", "report", str(ledger), "--by", "day"]) == 0
    printed = capsys.readouterr().out
    assert "Attempts without usage: 1." in printed
    assert "2026-11-02" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["spent.db", "--by", "color"], "must be of tenant, label, model"),
        (["spent.db", "--by", "label."], "must be of tenant, label, model"),
        (["spent.db", "--since", "yesterday"], "must be a day or a full hour of UTC"),
        (["spent.db", "--since", "2026-11-01T10:30"], "must be a day or a full hour of UTC"),
        (["spent.db", "none.jsonl"], "none.jsonl: is no ledger of a gateway"),
        (["none.jsonl", "--by", "key"], "--by has no effect for a batch"),
    ],
)
def test_a_mistake_is_one_line(ledger, capsys, monkeypatch, words, said):
    monkeypatch.chdir(ledger.parent)
    assert main(["cost", "report", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_a_report_can_be_a_page(ledger, capsys, tmp_path):
    page = tmp_path / "costs.html"
    assert main(["cost", "report", str(ledger), "--report", str(page), "--currency", "EUR", "--rate", "0.9"]) == 0  # fmt: skip
    text = page.read_text()
    assert "The gateway has spent 2.98 to 3.07 EUR." in text
    assert "gpt-4.1-mini" in text
    assert main(["cost", "report", str(ledger), "--report", str(ledger)]) == 2


def test_the_files_of_a_ledger_are_private(path, tmp_path):
    counted = opened(path)
    counted.sent(APP, TARGET, BOUND)
    for each in tmp_path.glob("spent.db*"):
        assert each.stat().st_mode & 0o777 == 0o600, each
    counted.close()
