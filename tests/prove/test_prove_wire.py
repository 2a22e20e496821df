"""10,000 connections opened and closed, and 1,000 streams held for a minute, on a loop and on 200 threads, without a leak."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.prove

SOAK = Path(__file__).parent.parent / "support" / "wire_soak.py"
SECONDS = "60"


@pytest.mark.parametrize("kind", ["loop", "threads"])
def test_connections_and_streams_leak_nothing(kind, capsys):
    run = subprocess.run(
        [sys.executable, SOAK, kind, SECONDS],
        check=False, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{kind}\n{run.stdout}")
    assert (run.returncode, run.stderr) == (0, "")
