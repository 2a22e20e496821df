import subprocess
import sys
from pathlib import Path

import pytest

SAY = "from stormbreak.cli.say import say; say('x' * 100_000)"


def test_a_full_output_is_one_clear_error():
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


def test_a_reader_who_left_is_no_error():
    command = f'{sys.executable} -c "{SAY}" | true; exit "${{PIPESTATUS[0]}}"'
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stderr) == (0, "")
