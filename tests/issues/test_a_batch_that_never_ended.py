"""A batch whose rows were all answered went on for ever: `asyncio.wait_for` of Python 3.11 had swallowed a cancel."""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace

from table_test import table_test

from stormbreak.batch.running.runner import Runner

SOURCE = Path(__file__).parents[2] / "src" / "stormbreak"


@table_test("steps", range(6))
async def test_a_cancel_ends_the_notes_at_whatever_step_it_comes(steps):
    runner = Runner.__new__(Runner)
    runner._short = asyncio.Event()
    runner.counts = SimpleNamespace(attempts=0)
    runner.ledger = SimpleNamespace(is_short=False, is_behind=False)
    noting = asyncio.create_task(runner._write_notes())
    await asyncio.sleep(0.01)
    runner._short.set()  # money was short a moment before the end
    for _ in range(steps):
        await asyncio.sleep(0)
    noting.cancel()
    done, _ = await asyncio.wait({noting}, timeout=30)
    noting.cancel()
    assert done, "the cancel was swallowed"


def test_nothing_waits_by_wait_for():
    """`asyncio.timeout` does the same and swallows nothing."""
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r"asyncio\.wait_for\(", path.read_text()), path
