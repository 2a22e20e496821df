"""Large batches in processes of their own: one worker beside two, and the memory of a million rows over time.

python bench/large_batches.py workers [--rows N]     rows per second, CPU and memory with 1 and 2 workers; the provider answers at once
python bench/large_batches.py million [--rows N]     start to end with a kill -9; draws docs/background/million.png
python bench/large_batches.py resume [--rows N]      from the command to the first request, with half of the rows answered
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import cores
from partner import at_once
from rows import _row as row
from stormbreak.telemetry.status_client import NoServerError, ServerAddress, fetch_state

PICTURE = Path(__file__).parent.parent / "docs" / "background" / "million.png"
EVERY = 1.0  # seconds between two samples
KILLED_AT = 0.5  # of the rows
KILLED_AFTER = 500  # requests
ROUNDS = 3
BYTES = 600  # of a row


class Sample(NamedTuple):
    """The run at one moment. Memory is MB, shared pages counted once."""

    at: float
    megabytes: float
    done: int


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["workers", "million", "resume"])
    parser.add_argument("--rows", type=int)
    wishes = parser.parse_args()
    print(cores.describe())
    if wishes.what == "workers":
        with tempfile.TemporaryDirectory() as scratch, at_once() as partner:
            _workers(Path(scratch), partner.base_url, wishes.rows or 20_000)
        return
    with tempfile.TemporaryDirectory() as scratch, provider() as url:
        place = Path(scratch)
        if wishes.what == "million":
            _million(place, url, wishes.rows or 1_000_000)
        else:
            _resume(place, url, wishes.rows or 1_000_000)


@contextmanager
def provider() -> Iterator[str]:
    """Run the provider, which answers after 20 ms; yield its base URL."""
    words = ("-m", "stormbreak", "provider", "serve", "--port", "0", "--scenario", "bench")
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def write_rows(path: Path, count: int) -> None:
    """Write rows of about BYTES bytes."""
    filler = "x" * (BYTES - len(row(0)))
    with path.open("w") as file:
        for number in range(count):
            file.write(row(number).replace("Summarise", f"{filler} Summarise") + "\n")


def start(place: Path, url: str, workers: int) -> "subprocess.Popen[str]":
    """Start the run of `in.jsonl`."""
    words = ["-m", "stormbreak", "batch", "run", "in.jsonl", "-o", "out.jsonl", "--base-url", url]
    words += ["--workers", str(workers), "--json", "--quiet"]
    return subprocess.Popen([sys.executable, *words], cwd=place, stdout=subprocess.PIPE, text=True)


def megabytes(pid: int) -> float:
    """Return the memory of a process and its children."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return total / 1000 + sum(megabytes(int(child)) for child in children)
    return total / 1000


# ---------------------------------------------------------------- one worker and two


def _workers(place: Path, url: str, count: int) -> None:
    """Both against a provider that needs little of the cores, which they share with it."""
    write_rows(place / "in.jsonl", count)
    for _ in range(ROUNDS):
        for workers in (1, 2):
            for left in place.glob("out*"):
                left.unlink()
            process, peak = start(place, url, workers), 0.0
            while not (
                ended := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            ):
                peak = max(peak, megabytes(process.pid))
                time.sleep(0.1)
            assert process.stdout is not None
            summary = json.loads(process.stdout.read())
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = ended.si_status
            cpu = (usage.ru_utime + usage.ru_stime) / count * 1000
            print(
                f"{workers} workers: {summary['throughput']:,.0f} rows/s, {cpu:.3f} s CPU per 1,000 rows,"
                f" {peak:.0f} MB; {summary['successful']:,} answered"
            )


# ---------------------------------------------------------------- the start of a resumed run


def _resume(place: Path, url: str, count: int) -> None:
    """Kill a run that has begun, add answers until half of the rows have one, and resume it."""
    write_rows(place / "in.jsonl", count)
    first = start(place, url, 1)
    while _arrivals(url) < KILLED_AFTER:
        time.sleep(0.01)
    first.kill()
    first.wait()
    output = place / "out.jsonl"
    lines = output.read_bytes().splitlines(keepends=True)[:-1]  # the last one may be torn
    model, done = lines[0], {json.loads(line)["custom_id"] for line in lines}
    name = json.loads(model)["custom_id"].encode()
    with output.open("wb") as file:
        file.writelines(lines)
        for number in range(count // 2):
            if f"doc-{number}" not in done:
                file.write(model.replace(b'"%s"' % name, b'"doc-%d"' % number, 1))
    for _ in range(ROUNDS):
        before, began = _arrivals(url), time.monotonic()
        again = start(place, url, 1)
        while _arrivals(url) <= before:
            time.sleep(0.02)
        took, cpu = time.monotonic() - began, _cpu(again.pid)
        again.kill()
        again.wait()
        print(f"first request after {took:.1f} s, {cpu:.1f} s of CPU")


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- a million rows


def _million(place: Path, url: str, count: int) -> None:
    write_rows(place / "in.jsonl", count)
    size = (place / "in.jsonl").stat().st_size
    print(f"{count:,} rows, {size / 1e6:,.0f} MB", flush=True)
    began = time.monotonic()
    first = start(place, url, 1)
    samples = list(_follow(first, place, began, until=int(KILLED_AT * count)))
    first.kill()
    first.wait()
    before, killed_at = _arrivals(url), time.monotonic()
    second = start(place, url, 1)
    while _arrivals(url) <= before:
        time.sleep(0.05)
    resumed = time.monotonic() - killed_at
    print(f"killed at {samples[-1].done:,} rows; first request of the resume after {resumed:.1f} s")
    samples += _follow(second, place, began, until=count + 1)
    assert second.stdout is not None
    summary = json.loads(second.stdout.read())
    code, took = second.wait(), time.monotonic() - began
    _check(place / "out.jsonl", count)
    peak = max(sample.megabytes for sample in samples)
    print(
        f"exit {code}, {summary['successful']:,} answered in {took:,.0f} s; {summary['throughput']:,.0f} rows/s"
        f" in the second run; at most {peak:.0f} MB"
    )
    _draw(samples, killed_at - began, count)


def _follow(process: Any, place: Path, began: float, *, until: int) -> Iterator[Sample]:
    """Sample a run once a second, until it has so many rows or has ended."""
    server, done = ServerAddress(path=place / "out.jsonl.sock"), 0
    while process.poll() is None and done < until:
        with suppress(NoServerError):
            batch = fetch_state(server, 5.0).batch
            done = done if batch is None else batch.done
        yield Sample(time.monotonic() - began, megabytes(process.pid), done)
        time.sleep(EVERY)


def _arrivals(url: str) -> int:
    with urlopen(url.removesuffix("/v1") + "/_provider/stats") as answer:
        arrivals: int = json.load(answer)["arrivals"]
        return arrivals


def _check(output: Path, count: int) -> None:
    """Each row is answered once."""
    seen = bytearray(count)
    with output.open("rb") as lines:
        for line in lines:
            seen[int(json.loads(line)["custom_id"].removeprefix("doc-"))] += 1
    assert seen == b"\x01" * count


def _draw(samples: list[Sample], killed_at: float, count: int) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - here alone

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    memory = figure.subplots()
    minutes = [sample.at / 60 for sample in samples]
    memory.plot(minutes, [sample.megabytes for sample in samples], color="#D55E00")
    memory.set_xlabel("minutes")
    memory.set_ylabel("memory in MB", color="#D55E00")
    memory.set_ylim(0, 160)
    memory.axhline(150, color="#D55E00", linestyle=":", linewidth=0.8)
    memory.axvline(killed_at / 60, color="#000000", linestyle="--", linewidth=0.8)
    memory.text(killed_at / 60, 5, " kill -9, same command again", fontsize=8)
    rows = memory.twinx()
    rows.plot(minutes, [sample.done / count for sample in samples], color="#0072B2")
    rows.set_ylabel("rows answered", color="#0072B2")
    rows.set_ylim(0, 1.07)
    rows.set_yticks([0, 0.5, 1], ["0", f"{count // 2:,}", f"{count:,}"])
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
