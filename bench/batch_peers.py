"""A batch of rows beside the tools that others use for it: rows a second, CPU, memory. `make bench-peers`.

Every tool answers the same rows against the same provider, which has a core of its own; the tool has the other. CPU is
that of all its processes, less that of a run with one row: the median of the runs less the median of the one-row runs,
with half of the range of the latter as its error (Ray's start varies by seconds). Memory is the largest sum of the
proportional set sizes of its processes, looked at twice a second.
"""

import argparse
import ctypes
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cores
from partner import partner
from rows import CONCURRENCY, make_rows

HERE = Path(__file__).parent
LOOK_EVERY = 0.5  # seconds
PR_SET_CHILD_SUBREAPER = 36


class Tool(NamedTuple):
    """One line of the table."""

    name: str
    command: tuple[str, ...]
    rows: int


class Run(NamedTuple):
    """What one run took: seconds by the clock, CPU seconds, MiB."""

    took: float
    cpu: float
    memory: float


def main() -> None:
    """Measure what is asked for, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="a Python with flexllm and openai")
    parser.add_argument("--ray", help="a Python with ray[data], aiohttp and stormbreak")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure the tools whose name contains this")
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # daemons of a tool come to us when it ends
    print(f"{cores.describe()}\n")
    print("| | rows | rows/s | CPU s per 1,000 rows | peak memory, MiB |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as scratch, partner() as provider:
        tools = [tool for tool in _tools(asked, provider.base_url) if asked.only in tool.name]
        runs: dict[Tool, list[Run]] = {tool: [] for tool in tools}
        started: dict[Tool, list[Run]] = {tool: [] for tool in tools}
        for _ in range(asked.rounds):
            for tool in tools:  # in turn: the speed of a machine changes within minutes
                started[tool].append(_measure(tool, 1, Path(scratch)))
                runs[tool].append(_measure(tool, tool.rows, Path(scratch)))
        for tool in tools:
            print(_line(tool, runs[tool], started[tool]), flush=True)


def _line(tool: Tool, runs: list[Run], started: list[Run]) -> str:
    """Return the line of a tool; what the rows took is the difference of two medians."""
    starts = [run.cpu for run in started]
    spent = statistics.median(run.cpu for run in runs) - statistics.median(starts)
    error = (max(starts) - min(starts)) / 2
    took = statistics.median(run.took for run in runs) - statistics.median(
        run.took for run in started
    )
    figures = (
        f"{tool.rows:,}",
        f"{tool.rows / took:,.0f}",
        f"{spent / tool.rows * 1000:.3f} ± {error / tool.rows * 1000:.3f}",
        f"{statistics.median(run.memory for run in runs):,.0f}",
    )
    return f"| {tool.name} | {' | '.join(figures)} |"


def _tools(asked: argparse.Namespace, url: str) -> list[Tool]:
    ours = (sys.executable, "-m", "stormbreak", "batch", "run", "INPUT", "--output", "OUTPUT")
    flags = ("--base-url", url, "--concurrency", str(CONCURRENCY), "--quiet")
    bare = (sys.executable, str(HERE / "bare_rows.py"), "INPUT", "OUTPUT", url)
    few = asked.rows // 5  # for tools that would take minutes
    found = [
        Tool("stormbreak batch run", (*ours, *flags), asked.rows),
        Tool("stormbreak batch run --workers 2", (*ours, *flags, "--workers", "2"), asked.rows),
        Tool("bare aiohttp: no retry, no journal", bare, asked.rows),
    ]
    script = (str(HERE / "peer_rows.py"),)
    if asked.peers:
        for name, shown in (("flexllm", "flexllm"), ("openai", "openai SDK and a semaphore")):
            found.append(Tool(shown, (asked.peers, *script, name, "INPUT", "OUTPUT", url), few))
    if asked.ray:
        for name, shown, rows in (
            ("ray_ask", "stormbreak.ray.Ask, one actor", 2 * asked.rows),  # beside Ray's start
            ("ray_http", "Ray's HttpRequestProcessor, one worker", few),
        ):
            found.append(Tool(shown, (asked.ray, *script, name, "INPUT", "OUTPUT", url), rows))
    return found


def _measure(tool: Tool, rows: int, place: Path) -> Run:
    for left in place.glob("out.jsonl*"):
        left.unlink()
    output = place / "out.jsonl"
    files = {"INPUT": str(make_rows(rows, place)), "OUTPUT": str(output)}
    before, began, memory = _cpu_of_children(), time.perf_counter(), 0.0
    cores.pin(cores.CLIENT)
    process = subprocess.Popen(
        [files.get(word, word) for word in tool.command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    cores.unpin()
    apart = set(_descendants()) - set(_descendants(process.pid)) - {process.pid}
    look_at = began
    while process.poll() is None:
        if time.perf_counter() >= look_at:
            memory = max(memory, sum(map(_mib, {process.pid, *_descendants()} - apart)))
            look_at = time.perf_counter() + LOOK_EVERY
        time.sleep(0.02)
    took = time.perf_counter() - began
    _end(set(_descendants()) - apart)
    answered = output.read_bytes().count(b"\n") if output.exists() else 0
    if process.returncode or answered != rows:
        assert process.stderr is not None
        said = process.stderr.read().decode()[-2000:]
        raise RuntimeError(f"{tool.name}: exit {process.returncode}, {answered} of {rows}\n{said}")
    return Run(took, _cpu_of_children() - before, memory)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _descendants(of: int | None = None) -> list[int]:
    """All processes below this one, or below `of`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [of or os.getpid()]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _mib(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _end(left: set[int]) -> None:
    """Stop what a tool left running, and wait for it: its CPU counts."""
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 10
    while left:
        for pid in tuple(left):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            if not Path(f"/proc/{pid}").exists():
                left.discard(pid)
        if time.monotonic() > until:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
