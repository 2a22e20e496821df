"""Open a run's files in the one safe order (check, lock, journal, run file); sort OUTPUT for `--ordered`."""

import contextlib
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stormbreak.batch.input.index import Rows
from stormbreak.batch.run_options import UNFINISHED_ROWS, BatchOptions, Choice
from stormbreak.batch.store.durable_file import remove_stale_temp, replacing
from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.output_line import placed
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.provider_batches import require_no_batches
from stormbreak.batch.store.row_journal import RowJournal
from stormbreak.batch.store.run_file import Option, Run, TableRef, check, note_account, record
from stormbreak.cost.accounts import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The files that a run writes. `changed` names the options that differ from the run before."""

    files: BatchPaths
    journal: RowJournal
    changed: tuple[str, ...]
    run: Run

    @property
    def pauses(self) -> Mapping[str, float]:
        """Until when (unix time) models get no request, from an earlier run at the same address."""
        return {} if "base_url" in self.changed else self.run.pauses

    def note(self, account: Account, pauses: Mapping[str, float]) -> None:
        """Write the spending so far. Blocks on the disk."""
        note_account(self.files, self.run, account, pauses)


@contextlib.contextmanager
def open_store(
    output: Path,
    rows: Rows,
    *,
    recorded: Mapping[str, Option],
    kept: BatchOptions | None = None,
    choice: Choice = UNFINISHED_ROWS,
    check_first: Callable[[int], None] = lambda _: None,
    table: TableRef | None = None,
    submits: bool = False,
) -> Iterator[Store]:
    """Lock OUTPUT for a run that sends the rows of `choice`; flush and close everything at the end.

    `check_first` gets the first row to be sent, before anything is written, and may raise. Unless the run `submits`, no
    batch at the provider may be open: its rows would be sent twice. Raises ConfigurationError if OUTPUT belongs to
    another input, or another run is writing it; then nothing was changed.
    """
    files = BatchPaths.of(output)
    check(files, rows, recorded, choice)  # before the lock file is made: a refusal changes nothing
    with locked(files):
        last = check(files, rows, recorded, choice)  # check again: now no other run can change it
        if not submits:
            require_no_batches(files)
        for path in (files.output, files.failed, files.run):
            remove_stale_temp(path)
        with contextlib.closing(
            RowJournal(files, rows, choice, check_first=check_first)
        ) as journal:
            now = time.time()
            run, changed = record(files, rows, recorded, last=last, now=now, kept=kept, table=table)
            yield Store(files=files, journal=journal, changed=changed, run=run)


def order_output(files: BatchPaths, rows: Rows) -> None:
    """Sort OUTPUT into input order: 8 bytes of memory per row, the file replaced in one step.

    Call it with the lock held and the journal closed: an open journal would write to the replaced file.
    """
    begins = array("Q", bytes(8 * len(rows)))  # offset + 1; 0: no line
    for index, entry in placed(files.output, rows):
        begins[index] = entry.offset + 1
    with files.output.open("rb") as source, replacing(files.output) as target:
        for begin in begins:
            if begin:
                source.seek(begin - 1)
                target.write(source.readline())
