import json

import pytest

from stormbreak.batch.store.output_files import open_store
from stormbreak.batch.store.output_line import Failure, Response
from stormbreak.cli.main import main
from stormbreak.types import Verdict


@pytest.fixture
def half_done(files, make_rows):
    rows = make_rows(*"abcd")
    with open_store(files.output, rows, recorded={"model": "m"}) as store:
        store.journal.succeed(rows.row_at(0), Response(status_code=200, body=b"{}"))
        hostile = Failure(code="x", message="y", verdict="\x1b[31mred", attempts=1)
        store.journal.fail(rows.row_at(1), hostile)
        mild = Failure(code="x", message="y", verdict=Verdict.INVALID, attempts=1)
        store.journal.fail(rows.row_at(2), mild)
    return files.output


def test_status_prints_counts_and_the_next_command(half_done, capsys):
    assert main(["batch", "status", str(half_done)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    words = [line.split(maxsplit=1) for line in printed.splitlines()]
    assert [name for name, _ in words] == [
        "input",
        "output",
        "run",
        "total",
        "done",
        "failed",
        "left",
        "next",
    ]
    shown = dict(words)
    assert shown["run"].startswith("not active, begun 2")
    assert shown["done"] == "1 (25.0%)"
    assert shown["failed"] == r"2 (\x1b[31mred 1, invalid 1)"
    assert shown["left"] == "1"
    assert shown["next"] == f"fix the cause, then: stormbreak batch retry {half_done}"


def test_status_without_failures_names_no_retry_command(files, make_rows, capsys):
    with open_store(files.output, make_rows("a"), recorded={"model": "m"}):
        pass
    assert main(["batch", "status", str(files.output)]) == 0
    assert "retry" not in capsys.readouterr().out


def test_status_with_json_prints_the_counts_as_json(half_done, capsys):
    assert main(["batch", "status", str(half_done), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("started_at") > 1e9
    assert printed == {
        "input": str(half_done.parent / "in.jsonl"),
        "output": str(half_done),
        "active": False,
        "total": 4,
        "done": 1,
        "failed": {r"\x1b[31mred": 1, "invalid": 1},
        "left": 1,
        "submitted": 0,
        "cost": {"min_usd": 0, "max_usd": 0, "priced": 0, "unpriced": 0, "unbounded": 0},
    }


def test_status_of_a_missing_output_is_one_line(tmp_path, capsys):
    assert main(["batch", "status", str(tmp_path / "no\nne")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "is not the output of a batch run" in printed


def test_the_help_names_every_subcommand(capsys):
    assert main(["batch", "--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in ("run", "status", "estimate", "retry") if f"  {name} " in printed] == [
        "run", "status", "estimate", "retry",
    ]  # fmt: skip


def test_an_unknown_subcommand_is_a_usage_error(capsys):
    assert main(["batch", "walk"]) == 2
    assert "walk" in capsys.readouterr().err
