"""`--dedupe` and `--cache DIR`: each request is paid once."""

import json
import stat

import pytest
from batches import chat_row, read, run, scenario, write

from stormbreak.batch import results
from stormbreak.batch import run as run_batch
from stormbreak.batch.store.output_line import Response, success_line
from stormbreak.batch.store.shared_answers import DUPLICATE
from stormbreak.testing import answer_text
from stormbreak.types import CACHE


@pytest.fixture
def place(stormbreak_provider):
    return stormbreak_provider(scenario()).base_url


def rows_with_duplicates(count, kinds):
    """Rows that cycle through `kinds` distinct requests."""
    return [chat_row(number % kinds) | {"custom_id": f"id-{number}"} for number in range(count)]


def check(rows, output):
    lines = {line["custom_id"]: line for line in read(output)}
    assert len(read(output)) == len(lines) == len(rows)
    for row in rows:
        body = lines[row["custom_id"]]["response"]["body"]
        assert body["choices"][0]["message"]["content"] == answer_text(row["body"])
    return lines


def test_identical_requests_are_sent_once(at, place):
    rows = rows_with_duplicates(60, 7)
    write(at / "in.jsonl", rows)
    words = ["batch", "run", "in.jsonl", "-o", "out.jsonl", "--base-url", place, "--dedupe"]
    done = run(*words, "--json", "-q")
    summary = json.loads(done.stdout)
    assert [summary[name] for name in ("attempts", "successful", "reused")] == [7, 60, 53]
    lines = check(rows, at / "out.jsonl")
    copies = [line for line in lines.values() if line.get("answered_by") == DUPLICATE]
    assert len(copies) == 53
    assert {line["attempts"] for line in copies} == {0}


def test_requests_that_differ_are_all_sent(at, place):
    rows = [chat_row(0), chat_row(0, temperature=0.5), chat_row(1), chat_row(0, model="other")]
    rows = [row | {"custom_id": f"id-{number}"} for number, row in enumerate(rows)]
    rows.append(chat_row(0) | {"custom_id": "streamed"})
    rows[-1]["body"]["stream"] = True  # does not change the answer
    summary = run_batch(rows, output="out.jsonl", base_url=place, dedupe=True)
    assert (summary.attempts, summary.successful) == (4, 5)


def test_duplicates_cost_zero_in_reports_and_tables(at, place):
    prices = {"base_url": place, "model": "storm-1", "prompt": "Tell {title}", "dedupe": True}
    rows = [{"title": "a"}, {"title": "b"}, {"title": "a"}]
    table = run_batch(rows, output="out.parquet", **prices).to_polars()
    assert table["answer"][0] == table["answer"][2]
    assert table["attempts"].to_list() == [1, 1, 0]
    assert table["cost"].to_list()[2] == 0.0
    assert table["input_tokens"].to_list()[2] == 0
    report = json.loads(run("cost", "report", "out.parquet", "--json").stdout)
    assert [model["answers"] for model in report["models"]] == [2]


def test_a_failure_applies_to_all_duplicates_and_is_retried_once(at, stormbreak_provider, place):
    rows = rows_with_duplicates(30, 3)
    bad = stormbreak_provider(scenario({"kind": "content_filter"})).base_url
    failed = run_batch(rows, output="out.jsonl", base_url=bad, dedupe=True)
    assert (failed.attempts, failed.failed) == (3, 30)
    assert {each.verdict for each in failed.failures()} == {"filtered"}
    assert sum(each.attempts for each in failed.failures()) == 3
    write(at / "in.jsonl", rows)
    retried = run("batch", "retry", "out.jsonl", "--base-url", place, "--dedupe", "--json", "-q")
    summary = json.loads(retried.stdout)
    assert (summary["attempts"], summary["successful"], summary["failed"]) == (3, 30, 0)
    check(rows, at / "out.jsonl")


def test_a_resume_with_dedupe_copies_existing_answers(at, place):
    """After a kill between the answer and its copies, or a run without --dedupe."""
    rows = rows_with_duplicates(12, 3)
    run_batch(rows, output="out.jsonl", base_url=place)
    lines = (at / "out.jsonl").read_bytes().splitlines(keepends=True)
    first = [line for line in lines if json.loads(line)["custom_id"] in ("id-4", "id-8")]
    (at / "out.jsonl").write_bytes(b"".join(first))
    summary = run_batch(rows, output="out.jsonl", base_url=place, dedupe=True)
    assert (summary.attempts, summary.successful) == (1, 12)
    check(rows, at / "out.jsonl")


def test_a_cache_serves_later_runs(at, place):
    first, second = rows_with_duplicates(20, 20), rows_with_duplicates(30, 30)
    options = {"base_url": place, "cache": "kept"}
    assert run_batch(first, output="a.jsonl", **options).attempts == 20
    summary = run_batch(second, output="b.jsonl", **options)
    assert (summary.attempts, summary.successful, summary.answered) == (10, 30, 30)
    assert summary.reused == 20
    lines = check(second, at / "b.jsonl")
    assert sum(line.get("answered_by") == CACHE for line in lines.values()) == 20
    assert run_batch(second, output="c.jsonl", dedupe=True, **options).attempts == 0
    modes = [stat.S_IMODE((at / name).stat().st_mode) for name in ("kept", "kept/answers.sqlite")]
    assert modes == [0o700, 0o600]
    kept = b"".join(path.read_bytes() for path in (at / "kept").iterdir())
    assert b"document 1" not in kept  # no prompt


def test_the_cache_separates_addresses(at, place, stormbreak_provider):
    rows = rows_with_duplicates(3, 3)
    other = stormbreak_provider(scenario()).base_url
    assert run_batch(rows, output="a.jsonl", base_url=place, cache="kept").attempts == 3
    assert run_batch(rows, output="b.jsonl", base_url=other, cache="kept").attempts == 3


def test_the_cache_stores_no_failures(at, stormbreak_provider):
    rows = rows_with_duplicates(3, 3)
    bad = stormbreak_provider(scenario({"kind": "content_filter"})).base_url
    for output in ("a.jsonl", "b.jsonl"):
        assert run_batch(rows, output=output, base_url=bad, cache="kept").attempts == 3


def test_an_invalid_cache_is_an_error_of_one_line(at, place):
    write(at / "in.jsonl", rows_with_duplicates(1, 1))
    (at / "file").write_text("mine")
    words = ["batch", "run", "in.jsonl", "-o", "out.jsonl", "--base-url", place, "--cache"]
    refused = run(*words, "file", "-q")
    assert (refused.returncode, refused.stderr) == (2, "stormbreak: cache: file: is no folder\n")
    (at / "kept").mkdir()
    (at / "kept" / "answers.sqlite").write_text("mine" * 1000)
    refused = run(*words, "kept", "-q")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "cannot open the cache of answers" in refused.stderr


def test_results_yields_the_duplicates(at, place):
    rows = rows_with_duplicates(40, 4)
    found = [*results(rows, output="out.jsonl", base_url=place, dedupe=True)]
    assert {each.custom_id for each in found} == {row["custom_id"] for row in rows}


def test_a_copied_line_has_zero_attempts():
    line = json.loads(success_line("a", Response(status_code=200, body=b"{}", attempts=0)))
    assert line["attempts"] == 0
    assert "attempts" not in json.loads(success_line("a", Response(status_code=200, body=b"{}")))
