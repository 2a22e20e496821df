"""Start processes of a fleet and read the results of their calls."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from fork_server import PROGRAM, ForkedPopen

SUPPORT = Path(__file__).parent


class Worker:
    """One process whose clock is `hours` wrong."""

    def __init__(self, *, hours=0, **options):
        self.process = ForkedPopen(
            [*PROGRAM[:3], SUPPORT / "fleet_worker.py", json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "STORMBREAK_API_KEY": "",
                **(wrong_clock(hours) if hours else {}),
            },
        )

    def ready(self):
        """Wait until the process makes calls."""
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        return self

    def ended(self):
        """Wait for the end of the process; return the results of its calls."""
        line = self.process.stdout.readline()
        _, err = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, err
        return json.loads(line)

    def kill(self):
        self.process.kill()
        self.process.communicate()


def wrong_clock(hours):
    """The environment of a process whose wall clock is wrong."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed: install the Debian package faketime")
    return {
        "LD_PRELOAD": str(library), "FAKETIME": f"{hours:+}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
