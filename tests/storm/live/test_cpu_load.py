"""How busy processors were."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from stormbreak.storm.live import cpu_load
from stormbreak.storm.live.cpu_load import CpuLoad, PeakCpuLoad

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

WORK = 0.6  # seconds of a processor
BURN = f"import time\nwhile time.process_time() < {WORK}: pass"
PROGRAM = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}])
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def program():
    """A program that has something else work for it, says so, and waits for its end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes) as started:
        yield started


def test_what_a_program_started_and_waited_for_counts(monkeypatch, program):
    monkeypatch.setattr(cpu_load, "WINDOW", 0.0)
    watch, began = CpuLoad([program.pid]), time.monotonic()
    assert program.stdout.readline() == b"done\n"
    watch.sample()
    took = time.monotonic() - began

    assert watch.busiest.program * took >= 0.9 * WORK
    assert watch.busiest.provider * took < 0.5 * WORK  # this process only waited
    assert 0 < watch.busiest.machine <= 1.1


def test_the_busiest_window_counts_and_one_that_is_not_over_does_not(monkeypatch):
    watch = CpuLoad([])
    watch.sample()
    assert watch.busiest == PeakCpuLoad()

    monkeypatch.setattr(cpu_load, "WINDOW", 0.0)
    since = time.process_time()
    while time.process_time() < since + 0.2:
        pass
    watch.sample()
    worked = watch.busiest.provider
    time.sleep(0.3)
    watch.sample()
    assert watch.busiest.provider == worked > 0


def test_a_program_that_has_gone_is_not_known(monkeypatch):
    monkeypatch.setattr(cpu_load, "WINDOW", 0.0)
    watch = CpuLoad([2**22 + 1])  # more than Linux gives
    time.sleep(0.01)
    watch.sample()
    assert watch.busiest.program is None
