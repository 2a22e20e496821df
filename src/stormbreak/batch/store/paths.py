"""The files of one batch: OUTPUT and the files next to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of

TABLES = frozenset({".csv", ".tsv", ".parquet", ".pq"})  # suffixes of an OUTPUT that is a table
COMPRESSED = frozenset({".gz", ".zst"})
"""Suffixes of compressed files, which are read but not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPaths:
    """OUTPUT (`out.jsonl`) and its neighbours.

    An OUTPUT that is a table (`out.parquet`) is made from a journal next to it (`out.parquet.jsonl`), which is `output`
    here.
    """

    output: Path
    table: Path | None  # made from `output` at the end
    failed: Path  # out.failed.jsonl: rows that failed, and why
    run: Path  # out.jsonl.run: which input and options this OUTPUT belongs to
    lock: Path  # out.jsonl.lock: held while a run writes
    input: (
        Path  # out.input.jsonl: requests that are not in a plain file: from a table, or from Python
    )
    rows: Path  # out.rows: a copy of a table that can be read only once, such as stdin
    batches: Path  # out.jsonl.batches: a folder, if rows were submitted to the provider's batch API
    socket: Path  # out.jsonl.sock: exists during a run, for `stormbreak top`

    @classmethod
    def of(cls, output: Path, *, flatten: bool = False) -> Self:
        """Return the paths for `output`. A link is followed, so that two names of one file share a lock.

        With `flatten`, or if an earlier run had it, JSON lines are a table too.
        """
        try:
            real = output.resolve() if output.is_symlink() else output
        except (OSError, RuntimeError):  # too long, or a link to itself: reported when it is opened
            real = output
        if not real.name:
            raise ConfigurationError(f"{path_of(output)}: not a valid name for an output")
        require_plain_file(real)
        journal, table = real.with_name(f"{real.name}.jsonl"), None
        if real.suffix.lower() in TABLES or flatten or _exists(_run_of(journal)):
            real, table = journal, real
        return cls(
            output=real,
            table=table,
            failed=real.with_name(f"{real.stem}.failed{real.suffix}"),
            run=_run_of(real),
            lock=real.with_name(f"{real.name}.lock"),
            input=real.with_name(f"{real.stem}.input{real.suffix}"),
            rows=real.with_name(f"{real.stem}.rows"),
            batches=real.with_name(f"{real.name}.batches"),
            socket=real.with_name(f"{real.name}.sock"),
        )


def require_plain_file(path: Path) -> None:
    """Refuse a name with a compression suffix, and the name of stdout. Raises ConfigurationError."""
    if str(path) == "-":
        raise ConfigurationError("-: an output is a file; choose its name")
    if path.suffix.lower() in COMPRESSED:
        what = f"outputs are not compressed; choose a name without {path.suffix}"
        raise ConfigurationError(f"{path_of(path)}: {what}")


def _run_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.run")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long
        return False
