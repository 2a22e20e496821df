"""Open a run's files in the one safe order (check, lock, journal, run file); sort OUTPUT for `--ordered`."""

import contextlib
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stormbreak.batch.flags import Flags
from stormbreak.batch.input.index import Rows
from stormbreak.batch.row_selection import UNFINISHED_ROWS, Choice
from stormbreak.batch.store.append_file import remove_stale_temp, replacing
from stormbreak.batch.store.journal import RowJournal
from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.record import Index, placed
from stormbreak.batch.store.run_file import Option, Run, check, note_account, record
from stormbreak.batch.token_ledger import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What a run writes to. `changed` names the options that differ from the run before."""

    files: BatchPaths
    journal: RowJournal
    changed: tuple[str, ...]
    run: Run

    @property
    def salt(self) -> str:
        """What idempotency keys are made with; it is as it was."""
        return self.run.salt

    @property
    def pauses(self) -> Mapping[str, float]:
        """Until when (unix time) models are left alone, as an earlier run was told at the same address."""
        return {} if "base_url" in self.changed else self.run.pauses

    def note(self, account: Account, pauses: Mapping[str, float]) -> None:
        """Write down what has been spent by now; blocks for as long as the disk takes."""
        note_account(self.files, self.run, account, pauses)


@contextlib.contextmanager
def open_store(
    output: Path,
    rows: Rows,
    *,
    options: Mapping[str, Option],
    flags: Flags | None = None,
    choice: Choice = UNFINISHED_ROWS,
    look: Callable[[int], None] = lambda _: None,
) -> Iterator[Store]:
    """Claim OUTPUT for a run over `rows` that sends those of `choice`; flush and free everything at the end.

    `look` is shown the first row that will be sent, before anything is written, and may refuse it.

    Raises ConfigurationError, with nothing touched, if OUTPUT belongs to another input or another run is at work.
    """
    files = BatchPaths.of(output)
    check(
        files, rows, options, choice
    )  # before the lock file is made: what is refused stays untouched
    with locked(files):
        last = check(files, rows, options, choice)  # again: now nobody else can change it
        for path in (files.output, files.failed, files.run):
            remove_stale_temp(path)
        with contextlib.closing(RowJournal(files, rows, choice, look=look)) as journal:
            now = time.time()
            run, changed = record(files, rows, options, last=last, now=now, flags=flags)
            yield Store(files=files, journal=journal, changed=changed, run=run)


# ---------------------------------------------------------------- --ordered: OUTPUT in the order of INPUT


def order_output(files: BatchPaths, rows: Index) -> None:
    """Sort OUTPUT into input order: 8 bytes of memory per row, the file replaced in one step.

    Call it with the lock held and the journal closed, whose file would otherwise be the one replaced.
    """
    begins = array("Q", bytes(8 * len(rows)))  # offset + 1; 0 where there is no line
    for index, entry in placed(files.output, rows):
        begins[index] = entry.offset + 1
    with files.output.open("rb") as source, replacing(files.output) as target:
        for begin in begins:
            if begin:
                source.seek(begin - 1)
                target.write(source.readline())
