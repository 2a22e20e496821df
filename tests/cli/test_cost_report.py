"""`stormbreak cost report` on a real batch."""

import csv
import io
import json
import re
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from batches import chat_rows, scenario, write

from stormbreak.cli.main import main
from stormbreak.testing import serve

STORMY = scenario(
    {"kind": "cut_body", "share": 0.2},
    {"kind": "500", "share": 0.1},
    {"kind": "429", "share": 0.1, "retry_after": 0.05, "retry_after_form": "ms"},
    service=0.01,
    slots=50,
)


ROWS = chat_rows(60, max_tokens=50)
FILES = ("in.jsonl", "o.jsonl", "o.jsonl.run")


@pytest.fixture(scope="module")
def provider():
    with serve(STORMY, seed=2) as running:
        yield running


@pytest.fixture(scope="module")
def ran(provider, tmp_path_factory):
    """The folder of a finished batch, made once; each test gets a copy."""
    place = tmp_path_factory.mktemp("ran")
    source = write(place / "in.jsonl", ROWS)
    where = ["--output", str(place / "o.jsonl"), "--base-url", provider.base_url, "--quiet"]
    assert main(["batch", "run", str(source), *where]) == 0
    return place


@pytest.fixture
def batch(ran, tmp_path, capsys):
    for name in FILES:
        shutil.copy(ran / name, tmp_path / name)
    capsys.readouterr()
    return tmp_path / "o.jsonl"


@pytest.fixture
def deal(provider, tmp_path):
    path = tmp_path / "deal.toml"
    path.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    return str(path)


def report(capsys, *argv):
    code = main(["cost", "report", *map(str, argv)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def test_answers_of_the_flex_service_have_flex_prices(batch, deal, capsys):
    with Path(deal).open("a") as file:
        file.write("flex = { input = 1.5, output = 7.5 }\n")

    def useful():
        facts = json.loads(report(capsys, batch, "--prices", deal, "--json"), parse_float=Decimal)
        return facts["models"][0]["useful"]

    standard = useful()
    lines = [json.loads(line) for line in batch.read_text().splitlines()]
    for line in lines:
        line["response"]["body"]["service_tier"] = "flex"
    batch.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert useful() == standard / 2


def test_the_bill_of_the_provider_lies_between_minimum_and_maximum(batch, provider, deal, capsys):
    facts = json.loads(report(capsys, batch, "--prices", deal, "--json"), parse_float=Decimal)
    (model,) = facts["models"]
    billed = provider.stats()["billed"]["storm-1"]
    cost = (3 * billed["input_tokens"] + Decimal(15) * billed["output_tokens"]) / 1_000_000

    assert model["answers"] == len(ROWS)
    assert model["useful"] == model["total_min"] < cost < model["total_max"]
    assert (
        model["useful"]
        == (3 * model["input_tokens"] + Decimal(15) * model["output_tokens"]) / 1_000_000
    )
    attempts = len(ROWS) + model["attempts_besides"] - model["attempts_free"]
    assert billed["attempts"] <= attempts
    reasons = {row["reason"]: row["attempts"] for row in facts["waste"]}
    assert {"broken", "server_error"} >= set(reasons)
    assert sum(reasons.values()) == model["attempts_besides"] - model["attempts_free"]


def test_a_second_run_without_requests_does_not_change_the_report(
    batch, provider, deal, tmp_path, capsys
):
    before = report(capsys, batch, "--prices", deal, "--csv")
    where = ["--output", str(batch), "--base-url", provider.base_url, "--quiet"]
    main(["batch", "run", str(tmp_path / "in.jsonl"), *where])
    capsys.readouterr()

    assert report(capsys, batch, "--prices", deal, "--csv") == before


def test_models_are_summed_when_all_have_a_price(batch, deal, tmp_path, capsys):
    lines = [json.loads(line) for line in batch.read_text().splitlines()]
    for line in lines[:20]:
        line["response"]["body"]["model"] = "storm-2"
    batch.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = batch.with_name("o.jsonl.run")
    run = json.loads(path.read_text())
    (spent,) = run["account"]["spent"]
    run["account"]["spent"].append({**spent, "model": "storm-2"})
    path.write_text(json.dumps(run))

    first, second = json.loads(report(capsys, batch, "--prices", deal, "--json"))["models"]
    assert (first["answers"], second["answers"], second["useful"]) == (40, 20, None)

    text = Path(deal).read_text()
    Path(deal).write_text(
        text + text.replace("storm-1", "storm-2").replace("input = 3", "input = 6")
    )
    page = tmp_path / "page.html"
    out = report(capsys, batch, "--prices", deal, "--json", "--report", page)
    first, second, whole = json.loads(out, parse_float=Decimal)["models"]
    assert (whole["model"], whole["provider"], whole["answers"]) == ("all", None, 60)
    for sum_ in ("useful", "attempts_besides", "wasted_max", "total_min", "total_max"):
        assert whole[sum_] == first[sum_] + second[sum_]
    assert whole["total_min"] < whole["total_max"]
    cost = r"(&lt;)?[.\d]+ to (&lt;)?[.\d]+ USD"
    wasted = f"{cost} of it was wasted on attempts without an answer"
    assert re.search(rf"The batch has cost {cost}\. {wasted}\.", page.read_text())


def test_attempts_lost_in_a_kill_are_a_separate_reason(batch, capsys):
    path = batch.with_name("o.jsonl.run")
    run = json.loads(path.read_text())
    run["account"]["spent"][0]["wasted_open"]["attempts"] += 7
    path.write_text(json.dumps(run))

    facts = json.loads(report(capsys, batch, "--json"))
    reasons = {row["reason"]: row["attempts"] for row in facts["waste"]}
    (model,) = facts["models"]
    assert reasons["in flight, or lost in a kill"] == 7
    assert sum(reasons.values()) == model["attempts_besides"] - model["attempts_free"]


def test_a_model_without_a_price_has_a_note_and_no_cost(batch, provider, capsys):
    out = report(capsys, batch)
    facts = json.loads(report(capsys, batch, "--json"))

    assert f"No price is known for storm-1 at 127.0.0.1:{provider.port}" in " ".join(out.split())
    assert facts["models"][0]["useful"] is None
    assert facts["models"][0]["input_tokens"] > 0


def test_the_report_prints_a_table_or_csv(batch, deal, capsys):
    out = report(capsys, batch, "--prices", deal)
    (row,) = csv.DictReader(io.StringIO(report(capsys, batch, "--prices", deal, "--csv")))

    assert "wasted for" in out
    assert row["model"] == "storm-1"
    assert Decimal(row["useful"]) > 0


def test_answers_without_usage_are_estimated_with_a_note(batch, deal, capsys):
    lines = batch.read_text().splitlines()
    line = json.loads(lines[0])
    del line["response"]["body"]["usage"]
    batch.write_text("\n".join([json.dumps(line), *lines[1:]]) + "\n")
    facts = json.loads(report(capsys, batch, "--prices", deal, "--json"))

    assert facts["models"][0]["estimated"] == 1
    assert "1 answers do not report their usage; it is estimated." in facts["notes"]


def test_killed_and_active_runs_have_a_note(batch, deal, capsys):
    path = batch.with_name("o.jsonl.run")
    run = json.loads(path.read_text())
    run["account"] |= {"killed": 1, "at_work": True, "lost": "0.25"}
    path.write_text(json.dumps(run))
    notes = json.loads(report(capsys, batch, "--prices", deal, "--json"))["notes"]

    assert any("1 run(s) were killed" in note for note in notes)
    assert any("not counted; that is 0.25 USD at the most." in note for note in notes)
    assert any(note.startswith("A run is active") for note in notes)


def test_a_run_file_without_an_account_reports_only_the_answers(batch, deal, capsys):
    path = batch.with_name("o.jsonl.run")
    run = json.loads(path.read_text())
    del run["account"]
    path.write_text(json.dumps(run))
    facts = json.loads(report(capsys, batch, "--json"))

    assert facts["models"][0]["answers"] == len(ROWS)
    assert any("only answers are counted" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not the output of a batch run"),
        ("not json\n", "line 1 is not a line of batch output"),
    ],
)
def test_a_file_that_is_no_batch_output_is_rejected(content, message, batch, capsys):
    if content is None:
        batch.with_name("o.jsonl.run").unlink()
    else:
        batch.write_text(content)
    assert main(["cost", "report", str(batch)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_cache_writes_are_billed_exactly(tmp_path, capsys):
    control = {"type": "ephemeral", "ttl": "1h"}
    parts = [
        {"type": "text", "text": "word " * 100, "cache_control": mark} for mark in ({}, control)
    ]
    message = {"role": "user", "content": parts}
    rows = chat_rows(9, max_tokens=50, messages=[message])
    source = write(tmp_path / "in.jsonl", [row | {"url": "/v1/messages"} for row in rows])
    output, deal = tmp_path / "o.jsonl", tmp_path / "deal.toml"
    with serve(scenario(service=0.01)) as provider:
        deal.write_text(
            f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\n'
            "input = 3\noutput = 15\ncache_write = 3.75\ncache_write_1h = 6\n"
        )
        where = ["--output", str(output), "--base-url", provider.base_url, "--quiet"]
        limit = ["--max-cost", "1", "--prices", str(deal)]
        assert main(["batch", "run", str(source), *where, *limit]) == 0
        billed = provider.stats()["billed"]["storm-1"]
    hour, written = billed["cache_write_1h_tokens"], billed["cache_write_tokens"]
    plain = billed["input_tokens"] - written
    cost = 3 * plain + Decimal("3.75") * (written - hour) + 6 * hour + 15 * billed["output_tokens"]
    capsys.readouterr()
    run = json.loads((tmp_path / "o.jsonl.run").read_text())
    facts = json.loads(report(capsys, output, "--prices", deal, "--json"), parse_float=Decimal)
    (model,) = facts["models"]

    assert 0 < hour < written < billed["input_tokens"]
    assert model["total_min"] == model["total_max"] == cost / 10**6
    assert (model["cache_write_tokens"], model["cache_write_1h_tokens"]) == (written, hour)
    assert run["account"]["spent"][0]["useful"]["cache_write_1h_tokens"] == hour
    assert "written" in report(capsys, output, "--prices", deal)
