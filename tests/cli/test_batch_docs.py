"""The commands in docs/batch.md and docs/batch-api.md run, and the flags are those of the commands."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from batches import PATIENCE, environment, read
from batches import run as run_command

from stormbreak.cli.batch import estimate, retry, run
from stormbreak.types import Verdict

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "batch.md").read_text()


def run_block(page, heading, tmp_path):
    """Run the first shell block of a section of a page with a provider at a free port; return stdout."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = (DOCS / page).read_text()
    (block,) = re.findall(rf"^##? {heading}\n.*?```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-ec", re.sub("890[01]", str(port), block)],
        cwd=tmp_path,
        env=environment(PATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            assert shell.wait(PATIENCE) == 0
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # the provider, too
        return shell.stdout.read()


def test_the_commands_of_two_minutes_run(tmp_path):
    out = run_block("batch.md", "Two minutes", tmp_path)
    assert "answered   3 of 3 rows" in out
    assert "done     3 (100.0%)" in out
    assert {line["custom_id"] for line in read(tmp_path / "out.jsonl")} == {
        "row-1",
        "row-2",
        "mine",
    }


def test_the_commands_of_the_batch_api_section_run(tmp_path):
    out = run_block("batch-api.md", "The provider's own batch API", tmp_path)
    assert "submitted  50 rows in 1 batch(es)" in out
    assert "some rows expired" in out
    assert "answered   50 of 50 rows" in out
    assert len(read(tmp_path / "cheap.jsonl")) == 50
    notes = json.loads(run_command("cost", "report", tmp_path / "cheap.jsonl", "--json").stdout)[
        "notes"
    ]
    # One note, although two prices are missing.
    assert sum("No price is known" in note for note in notes) == 1


def documented(heading):
    """The flags in the table of a section."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))


def flags(command):
    return {name for it in command.params for name in it.opts if name.startswith("--")}


def test_the_documented_flags_are_those_of_the_commands():
    shared, own = documented("Options"), documented("Retry failed rows")
    of_tables = documented("Tables")
    assert shared | of_tables == flags(run.command)
    assert own == flags(retry.command) - flags(run.command)
    assert flags(run.command) - flags(retry.command) == {"--output"} | of_tables
    assert of_tables < flags(estimate.command)


def test_the_documented_verdicts_exist():
    for verdict in (
        "auth",
        "billing",
        "not_found",
        "invalid",
        "too_long",
        "filtered",
        "redirected",
        "unrepeatable",
    ):
        assert Verdict(verdict)
        assert f"`{verdict}`" in PAGE
