"""The two acts: the article's batch code as it behaves, and stormbreak."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.rows import Rows
from stormbreak.batch.runner import End
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.presets import BATCH, OFF
from stormbreak.demo.record import Record
from stormbreak.demo.stage import ROWS
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict

CONCURRENCY = 10

_ONE_ATTEMPT = replace(OFF, attempt_timeout=60.0, limit=FixedLimit(in_flight=CONCURRENCY))
_YEAR = 365.25 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one act."""

    answered: int
    failed: int
    record: Record
    interrupted: bool = False


def article_sleep(row: int) -> str:
    """How long the article's code would sleep when row `row` meets a 429: 2 ** row * 0.5 s, in words."""
    seconds = 2**row / 2
    for unit, size in (("years", _YEAR), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return _many(seconds / size, unit)
    return f"{seconds:g} s"


def _many(count: float, unit: str) -> str:
    return f"{count:,.0f} {unit}" if count < 1e9 else f"{count:.0e} {unit}".replace("e+", "e")


def article(
    documents: Path, base_url: str, speed: float, *, lost: Callable[[int, Verdict], None]
) -> Result:
    """Send each row once, ten at a time; what fails is lost. `lost` is told of each."""
    record = Record(speed)
    answered = asyncio.run(_send_once(documents, base_url, record, lost))
    return Result(answered=answered, failed=ROWS - answered, record=record)


async def _send_once(
    documents: Path, base_url: str, record: Record, lost: Callable[[int, Verdict], None]
) -> int:
    with Rows.read(documents) as rows:
        async with AsyncClient(base_url=base_url, policy=_ONE_ATTEMPT) as client:
            client.subscribe(record.hear)

            async def send(index: int) -> bool:
                row = rows.row_at(index)
                ended = await client.ask(row.endpoint, row.body)
                verdict = ended.outcome.verdict
                if verdict is not Verdict.OK:
                    lost(index, verdict)
                return verdict is Verdict.OK

            return sum(await asyncio.gather(*(send(index) for index in range(len(rows)))))


def stormbreak(
    documents: Path, output: Path, base_url: str, speed: float, tick: Callable[[int], None]
) -> Result:
    """Run the same rows through `batch run`; `tick` is told how many are answered."""
    record = Record(speed)
    policy = replace(BATCH, limit=FixedLimit(in_flight=CONCURRENCY))
    job = Job(source=documents, output=output, base_url=base_url, policy=policy)
    summary = run_job(job, lambda runner: tick(runner.journal.done), listeners=[record.hear])
    return Result(
        answered=summary.successful,
        failed=summary.failed,
        record=record,
        interrupted=summary.end == End.INTERRUPTED.value,
    )
