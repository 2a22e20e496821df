"""How far a batch has come, read from its files alone; changes nothing, and works while a run is at work."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stormbreak.batch.store.lock import held
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.record import count_lines, entries
from stormbreak.batch.store.run_file import read_existing_run
from stormbreak.batch.token_ledger import Cost
from stormbreak.cost.price_table import PriceOf
from stormbreak.escape import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts of rows, `failed` by verdict; `active` says that a run is writing now; `started_at` is unix time."""

    input: str
    output: str
    active: bool
    started_at: float
    total: int
    done: int
    failed: Mapping[str, int]
    left: int
    cost: Cost


def read_status(output: Path, price_of: PriceOf) -> Status:
    """Read how far the batch that writes `output` has come, and what it has cost at these prices."""
    files = BatchPaths.of(output)
    run = read_existing_run(files)
    active = held(files)
    done, failed = count_rows(files)
    return Status(
        input=run.input,
        output=str(output),
        active=active,
        started_at=run.started_at,
        total=run.rows,
        done=done,
        failed=failed,
        left=max(0, run.rows - done - sum(failed.values())),
        cost=run.account.cost(price_of),
    )


def count_rows(files: BatchPaths) -> tuple[int, Mapping[str, int]]:
    """How many rows are done, and how many failed with which verdict."""
    # The failed file first: an answer that comes meanwhile then overrules it, and no row counts twice.
    failed = {
        entry.custom_id: sys.intern(plain(entry.verdict or "unknown"))
        for entry in entries(files.failed)
    }
    if not failed:
        return count_lines(files.output), {}
    done = 0
    for entry in entries(files.output):
        done += 1
        failed.pop(entry.custom_id, None)
    return done, dict(Counter(failed.values()).most_common())
