import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from stormbreak.cli.output import json_text

SAY = "from stormbreak.cli.output import say; say('x' * 100_000)"


def test_a_full_standard_output_is_one_clear_error():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with full.open("w") as stdout:
        run = subprocess.run(
            [sys.executable, "-c", SAY],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert run.stderr.splitlines()[-1].endswith("standard output: disk full")


def test_a_closed_pipe_is_no_error():
    command = f'{sys.executable} -c "{SAY}" | true; exit "${{PIPESTATUS[0]}}"'
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stderr) == (0, "")


def shell(command, cwd):
    """Run a command line in which {} stands for stormbreak."""
    command = command.format(f"{sys.executable} -m stormbreak")
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("command", ["config show interactive", "storm run calm-burst"])
def test_a_closed_standard_output_is_no_error(command, tmp_path):
    run = shell(f"{{}} {command} >&-", tmp_path)

    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("errors", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_an_error_without_stderr_keeps_its_exit_code(errors, tmp_path):
    run = shell(f"{{}} config check gone.toml {errors}", tmp_path)

    assert (run.returncode, run.stdout, run.stderr) == (2, "", "")


def test_an_opened_file_never_gets_the_number_of_a_closed_stream(tmp_path):
    """Otherwise a library or a child process would write its standard error into that file."""
    code = (
        "from stormbreak.cli.main import main; main(['--version']); "
        "print(open('mine', 'w').fileno() > 2)"
    )
    run = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" <&- 2>&-'],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert run.stdout.splitlines()[-1] == "True"


def test_a_failed_assertion_exits_with_1_when_stderr_is_full(tmp_path):
    run = shell("{} storm run calm-burst --assert 'p50 >= 1000' 2>/dev/full", tmp_path)

    assert run.returncode == 1


def test_a_file_name_that_is_not_utf_8_is_escaped_in_json():
    """A file name in Latin-1 used to be a traceback."""
    facts = {"input": "caf\udce9.jsonl", "cost": Decimal("0.10"), "models": [{"caf\udce9": 1}]}

    assert json.loads(json_text(facts), parse_float=Decimal) == {
        "input": "caf\\udce9.jsonl",
        "cost": Decimal("0.10"),
        "models": [{"caf\\udce9": 1}],
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_text_buffered_for_a_full_stderr_does_not_change_the_exit_code():
    """Progress text stays in the buffer; Python then fails to flush it and exits with 120."""
    code = (
        "import contextlib, sys\n"
        "from stormbreak.cli import output\n"
        "with contextlib.suppress(OSError): print('progress', file=sys.stderr, flush=True)\n"
        "output.drop_stderr()"
    )
    command = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh", sys.executable, "-c", code]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    assert subprocess.run(command, check=False, env=buffered).returncode == 0
