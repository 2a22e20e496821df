"""CPU seconds of `stormbreak batch run` per 1,000 rows, journal included, beside bare aiohttp.

User and system time of the whole child process, less that of a run with a single row: what starting costs is not
what a row costs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cores
from partner import Partner, partner
from rounds import Figure, Section, alternate, minus

ROWS = 5_000
ROUNDS = 4
CONCURRENCY = 200
HERE = Path(__file__).parent


class _Run(NamedTuple):
    seconds: float  # CPU
    took: float  # by the clock
    busy: float  # share of its core that the provider used


class _Job(NamedTuple):
    name: str
    rows: int
    arguments: tuple[str, ...]


def sections() -> list[Section]:
    """Measure both over the same rows."""
    with tempfile.TemporaryDirectory() as scratch, partner() as provider:
        place = Path(scratch)
        jobs = [
            _job(name, count, place, provider)
            for name in ("stormbreak batch run", "bare aiohttp")
            for count in (ROWS, 1)
        ]
        runs = alternate(jobs, lambda job: _measure(job, place, provider), rounds=ROUNDS)
    ours, ours_start, bare, bare_start = runs
    busy = max(run.busy for taken in (ours, bare) for run in taken)
    return [
        Section(
            f"Batch, {ROWS:,} rows, {CONCURRENCY} in flight",
            [
                Figure(
                    "stormbreak, CPU per 1,000 rows", "s", _per_row(ours, ours_start), "<= 0.25"
                ),
                Figure("bare aiohttp, CPU per 1,000 rows", "s", _per_row(bare, bare_start)),
                Figure("stormbreak, rows per second", "/s", tuple(ROWS / run.took for run in ours)),
                Figure(
                    "bare aiohttp, rows per second", "/s", tuple(ROWS / run.took for run in bare)
                ),
                Figure("stormbreak, CPU to start", "s", tuple(run.seconds for run in ours_start)),
            ],
            [f"The provider used at most {100 * busy:.0f} % of its core."],
        )
    ]


def _per_row(runs: tuple[_Run, ...], starts: tuple[_Run, ...]) -> tuple[float, ...]:
    spent = minus((run.seconds for run in runs), (run.seconds for run in starts))
    return tuple(seconds / (ROWS - 1) * 1000 for seconds in spent)


def _job(name: str, count: int, place: Path, provider: Partner) -> _Job:
    source = make_rows(count, place)
    output = str(place / "out.jsonl")
    if name == "bare aiohttp":
        script = str(HERE / "bare_rows.py")
        return _Job(name, count, (script, str(source), output, provider.base_url))
    flags = ("--base-url", provider.base_url, "--concurrency", str(CONCURRENCY), "--quiet")
    command = ("-m", "stormbreak", "batch", "run")
    return _Job(name, count, (*command, str(source), "--output", output, *flags))


def make_rows(count: int, place: Path) -> Path:
    """Write a file of `count` rows into `place`, once."""
    source = place / f"{count}.jsonl"
    if not source.exists():
        source.write_text("".join(f"{_row(number)}\n" for number in range(count)))
    return source


def _row(number: int) -> str:
    prompt = f"Summarise document {number}: " + "tides, harbours and the moon, " * 6
    body = {"model": "storm-1", "messages": [{"role": "user", "content": prompt}]}
    said = {"custom_id": f"doc-{number}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps(said | {"body": body})


def _measure(job: _Job, place: Path, provider: Partner) -> _Run:
    for left in place.glob("out.jsonl*"):
        left.unlink()
    theirs, began = provider.cpu(), time.perf_counter()
    cores.pin(cores.CLIENT)
    process = subprocess.Popen([sys.executable, *job.arguments], stdout=subprocess.DEVNULL)
    cores.unpin()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - began
    answered = (place / "out.jsonl").read_bytes().count(b"\n")
    if process.returncode or answered != job.rows:
        raise RuntimeError(f"{job.name}: exit {process.returncode}, {answered} of {job.rows} rows")
    return _Run(usage.ru_utime + usage.ru_stime, took, (provider.cpu() - theirs) / took)
