"""`--shard I/N` and `batch merge`: one output from several machines."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import read, run, scenario

from stormbreak.batch import run as run_batch
from stormbreak.testing import answer_text

ROWS = [{"id": number, "title": f"Title {number}"} for number in range(11)]
PROMPT = ["--prompt", "Tell {title}"]


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.Table.from_pylist(ROWS), "rows.parquet")
    (tmp_path / "rows.csv").write_text(
        "id,title\n" + "".join(f"{row['id']},{row['title']}\n" for row in ROWS)
    )
    lines = [json.dumps({"prompt": f"Tell {row['title']}"}) + "\n" for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def place(stormbreak_provider):
    return ["--base-url", stormbreak_provider(scenario()).base_url, "-m", "storm-1", "-q"]


def answer(title):
    prompt = f"Tell {title}"
    return answer_text({"model": "storm-1", "messages": [{"role": "user", "content": prompt}]})


def run_shards(place, source, *options, ending="jsonl", count=3):
    for index in range(1, count + 1):
        words = ["-o", f"out.{index}.{ending}", "--shard", f"{index}/{count}", *options]
        done = run("batch", "run", source, *words, *place)
        assert (done.returncode, done.stderr) == (0, "")
    return [f"out.{index}.{ending}" for index in range(1, count + 1)]


def table(path):
    with Path(path).open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize("source", ["rows.csv", "rows.parquet"])
def test_merge_joins_the_shards_of_a_table(at, place, source):
    name = place[1].removeprefix("http://").removesuffix("/v1")
    prices = f'[[prices]]\nprovider = "{name}"\nmodel = "storm-1"\nflat = 3\n'
    (at / "deal.toml").write_text(prices)
    shards = run_shards(place, source, *PROMPT, "--prices", "deal.toml")
    merged = run("batch", "merge", "out.csv", *shards)
    assert (merged.returncode, merged.stdout) == (0, "11 rows in out.csv\n")
    assert all(float(row["cost"]) > 0 for row in table("out.csv"))
    assert [row["title"] for row in table("out.csv")] == [row["title"] for row in ROWS]
    assert [row["answer"] for row in table("out.csv")] == [answer(row["title"]) for row in ROWS]
    again = run("batch", "run", source, "-o", "out.csv", *PROMPT, *place, "--json")
    assert json.loads(again.stdout)["attempts"] == 0  # a run over the whole table sends nothing
    assert "done     11 (100.0%)" in run("batch", "status", "out.csv").stdout


@pytest.mark.parametrize("source", ["rows.csv", "rows.parquet"])
def test_a_shard_writes_a_table_of_its_own_rows(at, place, source):
    run_shards(place, source, *PROMPT, ending="csv")
    assert [row["id"] for row in table("out.2.csv")] == ["1", "4", "7", "10"]
    titles = [row["title"] for row in ROWS[1::3]]
    assert [row["answer"] for row in table("out.2.csv")] == [answer(each) for each in titles]


def test_merge_joins_the_shards_of_requests(at, place):
    shards = run_shards(place, "rows.jsonl")
    assert {row["custom_id"] for row in read(at / "out.1.jsonl")} == {
        "row-1", "row-4", "row-7", "row-10",
    }  # fmt: skip
    assert run("batch", "merge", "out.jsonl", *shards).returncode == 0
    assert {row["custom_id"] for row in read(at / "out.jsonl")} == {
        f"row-{number}" for number in range(1, 12)
    }


def test_merge_keeps_failures_and_unfinished_rows_for_a_resume(at, stormbreak_provider, place):
    bad = stormbreak_provider(scenario({"kind": "content_filter", "share": 0.5})).base_url
    half = ["--base-url", bad, "-m", "storm-1", "-q", *PROMPT]
    assert run("batch", "run", "rows.csv", "-o", "a.jsonl", "--shard", "1/2", *half).returncode == 1
    run("batch", "run", "rows.csv", "-o", "b.jsonl", "--shard", "2/2", *PROMPT, *place)
    lines = (at / "b.jsonl").read_bytes().splitlines(keepends=True)
    (at / "b.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])  # as a kill leaves it
    merged = run("batch", "merge", "out.csv", "a.jsonl", "b.jsonl")
    failed = len(read(at / "a.failed.jsonl"))
    rows, failures, left = merged.stdout.splitlines()
    assert (merged.returncode, rows) == (0, "11 rows in out.csv")
    assert failures == f"{failed} of them failed"
    assert left.startswith("3 of them have no answer yet; batch run over the table, without")
    assert sum(bool(row["error"]) for row in table("out.csv")) == failed
    run("batch", "run", "rows.csv", "-o", "out.csv", *PROMPT, *place)
    assert run("batch", "retry", "out.csv", *place).returncode == 0
    assert [row["answer"] for row in table("out.csv")] == [answer(row["title"]) for row in ROWS]
    report = run("cost", "report", "out.csv", "--json")
    assert report.returncode == 0


def test_merge_rejects_an_incomplete_or_mixed_set_of_shards(at, place):
    first, second, third = run_shards(place, "rows.csv", *PROMPT)
    other = ["--prompt", "Shout {title}"]
    run("batch", "run", "rows.csv", "-o", "other.jsonl", "--shard", "3/3", *other, *place)
    run("batch", "run", "rows.csv", "-o", "whole.jsonl", *PROMPT, *place)
    before = {path.name: path.read_bytes() for path in at.iterdir()}
    for shards, message in (
        ((first, second), "needs each shard from 1/3 to 3/3 once, got 1/3, 2/3"),
        ((first, second, "other.jsonl"), "are shards of other rows, or with another prompt"),
        ((first, second, f"./{first}", third), f"{first}: is given twice"),
        (("whole.jsonl",), "whole.jsonl: is not the output of a run with --shard"),
        (("none.jsonl",), "none.jsonl is not the output of a batch run"),
    ):
        refused = run("batch", "merge", "out.jsonl", *shards)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert message in refused.stderr
    refused = run("batch", "merge", "whole.jsonl", first, second, third)
    assert "whole.jsonl: is the output of a batch" in refused.stderr
    assert {path.name: path.read_bytes() for path in at.iterdir()} == before


def test_merge_rejects_an_id_that_two_shards_contain(at, place):
    (at / "twice.csv").write_text("id,title\n1,a\n1,b\n")
    shards = run_shards(place, "twice.csv", *PROMPT, "--id", "id", count=2)
    refused = run("batch", "merge", "out.jsonl", *shards)
    assert refused.returncode == 2
    assert "twice.csv: row 2: custom_id '1' is already on row 1" in refused.stderr
    assert not (at / "out.jsonl").exists()
    assert not (at / "out.input.jsonl").exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_an_invalid_shard_option_is_rejected(at, place, shard):
    refused = run("batch", "run", "rows.csv", "-o", "out.csv", "--shard", shard, *PROMPT, *place)
    assert refused.returncode == 2
    assert "--shard must be I/N, from 1/N to N/N" in refused.stderr


def test_a_rejected_table_leaves_no_file(at, place):
    before = {path.name for path in at.iterdir()}
    (at / "head.csv").write_text("title\n")
    for source, column, why in (
        ("rows.csv", "nope", "no column"),
        ("head.csv", "title", "no rows"),
    ):
        prompt = f"{{{column}}}"
        refused = run("batch", "run", source, "-o", "out.csv", "--prompt", prompt, *place)
        assert refused.returncode == 2
        assert why in refused.stderr
    (at / "head.csv").unlink()
    assert {path.name for path in at.iterdir()} == before


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_shard_without_rows_is_valid(at, place, ending):
    (at / "two.csv").write_text("title\nTitle 0\nTitle 1\n")
    shards = run_shards(place, "two.csv", *PROMPT, ending=ending)
    again = run("batch", "run", "two.csv", "-o", shards[2], "--shard", "3/3", *PROMPT, *place)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing: this shard has no rows" in again.stdout
    assert (at / f"out.3.{ending}").exists()
    assert run("batch", "status", shards[2]).returncode == 0
    merged = run("batch", "merge", "out.csv", *shards)
    assert (merged.returncode, merged.stdout) == (0, "2 rows in out.csv\n")
    assert [row["answer"] for row in table("out.csv")] == [answer("Title 0"), answer("Title 1")]


def test_run_accepts_a_shard(at, place):
    rows = [dict(row) for row in ROWS]
    more = {"base_url": place[1], "model": "storm-1", "prompt": "Tell {title}"}
    summary = run_batch(rows, output="out.1.jsonl", shard="1/2", **more)
    assert {each.custom_id for each in summary.answers()} == {
        f"row-{number}" for number in (1, 3, 5, 7, 9, 11)
    }
    run_batch(rows, output="out.2.jsonl", shard="2/2", **more)
    assert run("batch", "merge", "out.jsonl", "out.1.jsonl", "out.2.jsonl").returncode == 0
