"""`cost report` and `cost compare` on the usage ledgers of gateways: rows and ledgers add up."""

import json
import shutil
from decimal import Decimal

import pytest
from gateways import APP, BOUND, TARGET, USAGE, opened

from stormbreak.cli.main import main
from stormbreak.config.gateway_settings import KeySettings
from stormbreak.gateway import spend_ledger, usage_rows
from stormbreak.gateway.keys import client_keys
from stormbreak.gateway.spend_ledger import SpendLedger, Spent
from stormbreak.gateway.usage_rows import UsageFile
from stormbreak.types import CANCELLED_AFTER_SEND, Outcome, Usage, Verdict


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
def test_the_rows_of_a_report_add_up_to_its_total(ledger, capsys, by, names):
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
    assert (whole["cost"], whole["wasted"], whole["wasted_max"]) == (3.315, 0.015, 0.115)


def test_a_gateway_can_write_its_ledger_while_a_report_reads_it(ledger, monkeypatch):
    """Found: the file was locked while a report read its rows, and calls were rejected."""
    monkeypatch.setattr(spend_ledger, "TIMEOUT", 0.1)
    read, spends = usage_rows._row, SpendLedger(ledger)

    def slowly(cells):
        spends.write("key app", "day", Spent(Decimal(1), 60.0))
        return read(cells)

    monkeypatch.setattr(usage_rows, "_row", slowly)
    sums, _ = UsageFile(ledger).read(0, 2**40)
    spends.close()
    assert sum(each.attempts for each in sums.values()) == 6


def test_attempts_in_a_journal_cost_what_the_gateway_says(path, capsys):
    """Found: within five seconds of a call, a report knew no price that only the gateway's own files have."""
    own = TARGET._replace(provider="own", model="own-1", name="")
    (key,) = client_keys({"app": KeySettings(sha256="a" * 64)}).values()
    ledger = opened(path)
    ledger.ended(ledger.sent(key, own, BOUND), Outcome(Verdict.OK, usage=USAGE))
    ledger.ended(ledger.sent(key, own, BOUND), CANCELLED_AFTER_SEND)
    early = report(capsys, path.with_name("spent.db"))
    ledger.close()
    assert early == report(capsys, path.with_name("spent.db"))
    assert (early[0][0]["cost"], early[0][0]["unpriced_attempts"]) == (0.015, 0)


def test_since_and_until_select_the_hours_of_a_report(ledger, capsys):
    rows, printed = report(capsys, ledger, "--since", "2026-11-01", "--until", "2026-11-02")
    assert [(row["key"], row["model"]) for row in rows[:-1]] == [
        ("app", "gpt-4.1"), ("nightly", "gpt-4.1-mini"),
    ]  # fmt: skip
    assert printed["since"] == "2026-11-01T00:00:00+00:00"
    assert printed["notes"][0] == "Attempts from 2026-11-01 until 2026-11-02 UTC."
    (row,) = report(capsys, ledger, "--until", "2026-11-01T01:00")[0]
    assert row["key"] == "app"
    rows, printed = report(capsys, ledger, "--since", "2027-01-01")
    assert (rows, printed["notes"]) == ([], ["No attempts are recorded for that time."])


def test_a_report_adds_up_several_ledgers(ledger, capsys, tmp_path):
    once, _ = report(capsys, ledger)
    copy = tmp_path / "other.db"
    shutil.copy(ledger, copy)
    twice, _ = report(capsys, ledger, copy)
    assert [row["cost"] for row in twice] == [2 * row["cost"] for row in once]


def compared(capsys, *words):
    assert main(["cost", "compare", *map(str, words), "--providers", "openai", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    return [(row["used"], row["model"], row["tokens"]) for row in printed["rows"]], printed["notes"]


def test_cost_compare_uses_the_traffic_of_a_ledger(ledger, capsys):
    models = ("--models", "gpt-4.1-nano")
    rows, notes = compared(capsys, "--from", ledger, *models)
    assert rows == [
        ("gpt-4.1", "gpt-4.1", 2215), ("gpt-4.1", "gpt-4.1-nano", 2215),
        ("gpt-4.1-mini", "gpt-4.1-mini", 1100), ("gpt-4.1-mini", "gpt-4.1-nano", 1100),
    ]  # fmt: skip
    assert "Attempts without usage are not included: 1." in notes
    assert "Counted from 2026-11-01 to 2026-11-02." in notes
    rows, _ = compared(capsys, "--from", ledger, *models, "--until", "2026-11-01T01:00")
    assert rows == [("gpt-4.1", "gpt-4.1", 1100), ("gpt-4.1", "gpt-4.1-nano", 1100)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "spent.db", "--since", "2027-01-01"], "no usage is recorded for that time"),
        (["--from", "none.jsonl", "--since", "2026-11-01"], "--since has no effect"),
        (["--tokens", "1M", "--until", "2026-11-01"], "--until has no effect without --from"),
    ],
)
def test_a_comparison_without_traffic_names_the_reason(ledger, capsys, monkeypatch, words, message):
    monkeypatch.chdir(ledger.parent)
    assert main(["cost", "compare", "--models", "gpt-4.1", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_attempt_without_a_price_has_no_amount(path, capsys):
    counted = opened(path, lambda *_: None)
    counted.ended(counted.sent(APP, TARGET, BOUND), Outcome(Verdict.OK, usage=USAGE))
    counted.close()
    (row,) = report(capsys, path.with_name("spent.db"))[0]
    assert (row["cost"], row["unpriced_attempts"], row["input_tokens"]) == (None, 1, 10)
    page = path.with_name("costs.html")
    report(capsys, path.with_name("spent.db"), "--report", page)
    assert " UTC, without attempts of unknown cost." in page.read_text()


def test_a_price_file_replaces_the_prices_of_a_report(ledger, capsys, tmp_path):
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
    assert "Wasted on attempts without an answer: 0.02 to 0.12 USD." in printed
    assert "1,010" in printed
    assert "2026-11-02" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spent.db", "--by", "color"], "must be one of tenant, label, model"),
        (["spent.db", "--by", "label."], "must be one of tenant, label, model"),
        (["spent.db", "--since", "yesterday"], "must be a day or a full hour of UTC"),
        (["spent.db", "--since", "2026-11-01T10:30"], "must be a day or a full hour of UTC"),
        (["spent.db", "none.jsonl"], "none.jsonl: is not a gateway's ledger"),
        (["none.jsonl", "--by", "key"], "--by has no effect for a batch"),
    ],
)
def test_an_invalid_argument_of_cost_report_is_reported(
    ledger, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(ledger.parent)
    assert main(["cost", "report", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_a_ledger_given_twice_is_an_error(ledger, tmp_path, capsys):
    (tmp_path / "link.db").symlink_to(ledger)
    assert main(["cost", "report", str(ledger), str(tmp_path / "link.db")]) == 2
    assert "a ledger is given twice" in capsys.readouterr().err


def test_a_report_can_be_an_html_page(ledger, capsys, tmp_path):
    page = tmp_path / "costs.html"
    assert main(["cost", "report", str(ledger), "--report", str(page), "--currency", "EUR", "--rate", "0.9"]) == 0  # fmt: skip
    text = page.read_text()
    assert (
        "The gateway has spent 2.98 to 3.07 EUR from 2026-11-01 until 2026-11-02 01:00 UTC." in text
    )
    assert "0.01 to 0.10 EUR of it was wasted on attempts without an answer." in text
    assert "gpt-4.1-mini" in text
    assert main(["cost", "report", str(ledger), "--report", str(ledger)]) == 2
