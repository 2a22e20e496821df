"""How wide a run is: what it has in flight, in tasks, in connections and in memory."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from batches import chat_rows, environment, read, run_args, scenario, write
from sockets import answer, served_aside

from stormbreak.core.backoff import Backoff
from stormbreak.core.presets import BATCH
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.row_schedule import WIDEST
from stormbreak.http.h1.connection import MAX_IDLE


def test_so_many_are_in_flight_and_no_more(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.05))
    seen = []
    run_rows(
        chat_rows(100),
        provider,
        limit=10,
        tick=lambda _: seen.append(provider.stats()["in_service"]),
    )
    stats = provider.stats()
    assert max(seen) <= 10
    assert stats["connections"]["opened"] <= 10


def test_there_is_no_task_per_row(run_rows, stormbreak_provider):
    tasks = []
    provider = stormbreak_provider(scenario())
    run_rows(
        chat_rows(1000),
        provider,
        limit=8,
        listeners=[lambda _: tasks.append(len(asyncio.all_tasks()))],
    )
    assert max(tasks) <= 2 * 8 + 8  # a call, what aiohttp starts for it, and the runner's own


@pytest.mark.parametrize("width", [WIDEST, WIDEST + 40])
def test_a_run_is_as_wide_as_it_can_bear_or_as_it_is_told(run_rows, width):
    """All but the first request are answered once so many are there; more would have come in the meantime.

    Connections beyond `MAX_IDLE` may be closed while all are idle, on a busy machine, and are opened again.
    """
    tasks, there = [], []

    async def hold(request, writer):
        while len(server.requests) <= width:  # noqa: ASYNC110 - a server on a thread
            await asyncio.sleep(0.01)

    async def count(request, writer):
        there.append((len(server.requests), server.opened))

    with served_aside(answer(), [hold, 0.1, count, answer()]) as server:
        told = {"limit": 1_000_000_000} if width == WIDEST else {"concurrency": width}
        look = lambda _: tasks.append(len(asyncio.all_tasks()))  # noqa: E731
        summary = run_rows(chat_rows(600), server, listeners=[look], **told)
        assert summary.successful == 600
        assert server.opened == width or width > MAX_IDLE
    assert there[0] == (1 + width, width)
    assert max(tasks) < 2 * width + 8


def test_calls_that_back_off_make_room_and_are_bounded_too(run_rows, stormbreak_provider):
    """Two slots, and eight more calls that back off: the first twenty requests fail."""
    under_way, runners = [], []
    patient = RetryPolicy(max_attempts=20, backoff=Backoff(kind="constant", initial_delay=0.3))
    policy = replace(BATCH, retry_budget=None, breaker=None, retry=patient)
    provider = stormbreak_provider(scenario({"kind": "500", "requests": [*range(1, 21)]}))

    def look(_):
        if runners:
            under_way.append(runners[0].under_way)

    summary = run_rows(
        chat_rows(60), provider, limit=2, policy=policy, tick=runners.append, listeners=[look]
    )
    assert (summary.successful, summary.retries) == (60, 20)
    assert max(under_way) == 5 * 2


# ------------------------------------------------------------ memory


MEASURED = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
from stormbreak.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("count", [3_000, pytest.param(50_000, marks=pytest.mark.prove)])
def test_memory_is_bounded(tmp_path, output, stormbreak_provider, count):
    """Peak memory of the process, which needs some 50 MB for itself; the input is 2 kB a row."""
    provider = stormbreak_provider(scenario())
    source = write(tmp_path / "in.jsonl", chat_rows(count, user="x" * 2_000))
    args = [*run_args(source, output, provider.base_url), "--concurrency", "32", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, args)],
        check=True,
        env=environment(),
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert len(read(output)) == count
    assert int(done.stdout.split()[-1]) < 80_000, "kilobytes"
