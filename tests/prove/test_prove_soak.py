"""Five minutes of threads that create, use and drop wrapped clients, with forks in between, without a deadlock."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.prove

SOAK = Path(__file__).parent.parent / "support" / "soak.py"


def test_five_minutes_of_dropped_clients_and_forks_do_not_deadlock():
    run = subprocess.run(
        [sys.executable, SOAK, "300"],
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
