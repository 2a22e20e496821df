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


def test_status_for_eyes(half_done, capsys):
    assert main(["batch", "status", str(half_done)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    words = [line.split(maxsplit=1) for line in said.splitlines()]
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


def test_status_of_what_has_not_failed_names_no_command(files, make_rows, capsys):
    with open_store(files.output, make_rows("a"), recorded={"model": "m"}):
        pass
    assert main(["batch", "status", str(files.output)]) == 0
    assert "retry" not in capsys.readouterr().out


def test_status_for_scripts(half_done, capsys):
    assert main(["batch", "status", str(half_done), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("started_at") > 1e9
    assert said == {
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


def test_status_of_nothing(tmp_path, capsys):
    assert main(["batch", "status", str(tmp_path / "no\nne")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is no output of a batch run" in said


def test_the_help_names_every_subcommand(capsys):
    assert main(["batch", "--help"]) == 0
    said = capsys.readouterr().out
    assert [name for name in ("run", "status", "estimate", "retry") if f"  {name} " in said] == [
        "run", "status", "estimate", "retry",
    ]  # fmt: skip


def test_an_unknown_subcommand(capsys):
    assert main(["batch", "walk"]) == 2
    assert "walk" in capsys.readouterr().err
