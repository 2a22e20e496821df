"""A batch whose rows were all answered never ended: `asyncio.wait_for` of Python 3.11 had swallowed a cancel."""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace

from table_test import table_test

from stormbreak.batch.running.runner import Runner

SOURCE = Path(__file__).parents[2] / "src" / "stormbreak"


@table_test("steps", range(6))
async def test_a_cancel_ends_the_spend_record_at_every_step(steps):
    runner = Runner.__new__(Runner)
    runner._record_now = asyncio.Event()
    runner.stats = SimpleNamespace(attempts=0)
    runner.spend = SimpleNamespace(is_short=False, is_behind=False)
    recording = asyncio.create_task(runner._record_spend())
    await asyncio.sleep(0.01)
    runner._record_now.set()  # money was short a moment before the end
    for _ in range(steps):
        await asyncio.sleep(0)
    recording.cancel()
    done, _ = await asyncio.wait({recording}, timeout=30)
    recording.cancel()
    assert done, "the cancel was swallowed"


def test_no_module_uses_asyncio_wait_for():
    """`asyncio.timeout` does the same and swallows nothing."""
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r"asyncio\.wait_for\(", path.read_text()), path
