"""The load of processors."""

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
    """A program that lets a child process work, prints a line, and waits."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes) as started:
        yield started


def test_cpu_time_of_an_ended_child_counts_for_its_program(monkeypatch, program):
    monkeypatch.setattr(cpu_load, "WINDOW", 0.0)
    watch, began = CpuLoad([program.pid]), time.monotonic()
    assert program.stdout.readline() == b"done\n"
    watch.sample()
    took = time.monotonic() - began

    assert watch.busiest.program * took >= 0.9 * WORK
    assert watch.busiest.provider * took < 0.5 * WORK  # this process waited
    assert 0 < watch.busiest.machine <= 1.1


def test_only_complete_windows_count_for_the_peak(monkeypatch):
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


def test_the_load_of_an_ended_program_is_unknown(monkeypatch):
    monkeypatch.setattr(cpu_load, "WINDOW", 0.0)
    watch = CpuLoad([2**22 + 1])  # more than Linux gives
    time.sleep(0.01)
    watch.sample()
    assert watch.busiest.program is None
