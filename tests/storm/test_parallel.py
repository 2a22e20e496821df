"""Several simulations: parallel and sequential runs are equal, and no process is left behind."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from batches import PATIENCE
from fork_server import PROGRAM, ForkedPopen
from table_test import table_test

from stormbreak.core.presets import INTERACTIVE
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Load, Provider, Scenario
from stormbreak.storm.parallel import Run, simulate_all
from stormbreak.storm.policies import BASELINES, NamedPolicy

STORM = Scenario(
    name="small",
    duration=40.0,
    provider=Provider(slots=5, service=1.0, queue=10),
    load=Load(rate=6.0, processes=3, deadline=10.0, timeout=4.0),
)
OURS = NamedPolicy(name="interactive", policy=INTERACTIVE)


def runs(*seeds, scenario=STORM):
    return [
        Run(scenario=scenario, contender=contender, seed=seed, shared=True, first_output=True)
        for contender in (OURS, BASELINES["naive"])
        for seed in seeds
    ]


def test_parallel_runs_equal_sequential_ones_and_report_their_progress():
    progress = [{}, {}]
    alone, beside = (
        simulate_all(runs(1, 2), processes=place + 1, progress=progress[place].__setitem__)
        for place in (0, 1)
    )
    assert beside == alone
    policies_and_seeds = [(result.policy, result.seed) for result in alone]
    assert policies_and_seeds == [
        ("interactive", 1),
        ("interactive", 2),
        ("naive", 1),
        ("naive", 2),
    ]
    assert progress == [dict.fromkeys(range(4), 1.0)] * 2


@table_test("processes", [1, 2])
def test_a_scenario_that_cannot_be_simulated_has_the_same_message_in_parallel(processes):
    with pytest.raises(ConfigurationError, match=r"small: a simulation needs a \[load\], got none"):
        simulate_all(runs(1, scenario=replace(STORM, load=None)), processes=processes)


def test_no_runs_give_no_results():
    assert simulate_all([], processes=2) == []


# ------------------------------------------------------------ no process is left

LONG = """
duration = 100000
[provider]
[load]
rate = 90
deadline = 5
"""


@pytest.fixture
def program(tmp_path):
    """A command that simulates for minutes in two processes of its own group."""
    (tmp_path / "long.toml").write_text(LONG)
    command = ["storm", "run", "long.toml", "--policy", "none", "--compare", "naive"]
    program = ForkedPopen(
        [*PROGRAM, *command, "--jobs", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield program
    for process in group(program.pid):
        os.kill(process, signal.SIGKILL)
    program.communicate()


@pytest.fixture
def begun(program):
    """The same command when both processes simulate."""
    wait_for(lambda: len(workers(program.pid, seconds=0.5)) == 2, "two workers")
    return program


def group(leader):
    """The living processes of a group."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(path.name))
    return found


def workers(leader, *, seconds=0.0):
    """Worker processes that have used more than `seconds` of CPU time; a start takes less than 0.5 s."""
    found = []
    for process in group(leader):
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes()
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"spawn_main" in line and int(fields[11]) >= 100 * seconds:
            found.append(process)
    return found


def wait_for(condition, message):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, message
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@needs_proc
def test_ctrl_c_ends_all_processes_silently(begun):
    os.killpg(begun.pid, signal.SIGINT)

    out, err = begun.communicate(timeout=PATIENCE)
    assert (begun.returncode, out, err.strip()) == (130, "", "")
    wait_for(lambda: not group(begun.pid), "no process is left")


@needs_proc
def test_ctrl_c_during_the_start_ends_all_processes_silently(program):
    """No process prints a traceback."""
    wait_for(lambda: workers(program.pid, seconds=0.1), "a worker that imports")
    os.killpg(program.pid, signal.SIGINT)

    out, err = program.communicate(timeout=PATIENCE)
    assert (program.returncode, out, err.strip()) == (130, "", "")
    wait_for(lambda: not group(program.pid), "no process is left")


@needs_proc
def test_workers_end_when_their_parent_was_killed(begun):
    begun.kill()

    wait_for(lambda: not group(begun.pid), "no process is left")


@needs_proc
def test_a_killed_worker_is_reported_in_one_line(begun):
    os.kill(workers(begun.pid)[0], signal.SIGKILL)

    out, err = begun.communicate(timeout=PATIENCE)
    assert (begun.returncode, out) == (2, "")
    assert "a process of the simulation was killed" in err
    assert err.count("\n") == 1
    wait_for(lambda: not group(begun.pid), "no process is left")
