"""The width of a run: requests in flight, tasks, connections and memory."""

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


def test_the_limit_bounds_requests_in_flight_and_connections(run_rows, stormbreak_provider):
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


def test_the_number_of_tasks_does_not_grow_with_the_rows(run_rows, stormbreak_provider):
    tasks = []
    provider = stormbreak_provider(scenario())
    run_rows(
        chat_rows(1000),
        provider,
        limit=8,
        listeners=[lambda _: tasks.append(len(asyncio.all_tasks()))],
    )
    # A call, the tasks of aiohttp for it, and the tasks of the runner.
    assert max(tasks) <= 2 * 8 + 8


@pytest.mark.parametrize("width", [WIDEST, WIDEST + 40])
def test_a_run_opens_as_many_connections_as_its_width(run_rows, width):
    """The server answers when `width` requests are in flight. A wider run would have sent more by then.

    On a busy machine, idle connections beyond `MAX_IDLE` may close and open again.
    """
    tasks, in_flight = [], []

    async def hold(request, writer):
        while len(server.requests) <= width:  # noqa: ASYNC110 - a server on a thread
            await asyncio.sleep(0.01)

    async def count(request, writer):
        in_flight.append((len(server.requests), server.opened))

    with served_aside(answer(), [hold, 0.1, count, answer()]) as server:
        options = {"limit": 1_000_000_000} if width == WIDEST else {"concurrency": width}
        look = lambda _: tasks.append(len(asyncio.all_tasks()))  # noqa: E731
        summary = run_rows(chat_rows(600), server, listeners=[look], **options)
        assert summary.successful == 600
        assert server.opened == width or width > MAX_IDLE
    assert in_flight[0] == (1 + width, width)
    assert max(tasks) < 2 * width + 8


def test_calls_that_back_off_free_their_slot_up_to_a_bound(run_rows, stormbreak_provider):
    """Two slots, and at most eight more calls that back off. The first twenty requests fail."""
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
def test_the_memory_of_a_run_does_not_grow_with_the_rows(
    tmp_path, output, stormbreak_provider, count
):
    """Peak memory of the process, of which 50 MB are its base; a row has 2 kB."""
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
