"""Rows that come from Python, written to a file of their own beside OUTPUT: a run that goes on reads its INPUT again."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stormbreak.batch.durable import replacing
from stormbreak.batch.files import BatchPaths
from stormbreak.batch.lock import held, locked
from stormbreak.batch.plain import path_of
from stormbreak.batch.rows import fingerprint_of, new_fingerprint
from stormbreak.batch.runfile import read_run
from stormbreak.errors import ConfigurationError
from stormbreak.http.body import encoded

Given = Iterable[Mapping[str, Any]]


@contextmanager
def spool_rows(files: BatchPaths, rows: Given) -> Iterator[str]:
    """Write `rows` to `files.input` (mode 0600), and give their fingerprint; where no run came of it, the file goes again.

    Raises:
        ConfigurationError: a row is no dict or no JSON, OUTPUT belongs to other rows, or another run is writing to it.
    """
    fingerprint = _write(files, rows)
    try:
        yield fingerprint
    finally:
        if not files.run.exists() and not held(files):  # nor is another run about to write it
            files.input.unlink(missing_ok=True)


def _write(files: BatchPaths, rows: Given) -> str:
    digest, count = new_fingerprint(), 0
    try:
        with locked(files), replacing(files.input) as file:
            for count, row in enumerate(_from(rows), 1):
                line = _line(row, count)
                digest.update(line)
                file.write(line)
            _check(files, digest.hexdigest(), count)
    except _RowsError as error:
        raise error.cause from None
    return digest.hexdigest()


def _check(files: BatchPaths, fingerprint: str, count: int) -> None:
    """Refuse rows of another run, and a file of somebody else's; those of a run before stay what they were."""
    run = read_run(files)
    if run is not None and run.fingerprint != fingerprint:
        said = f"belongs to a run of other rows ({run.rows:,}; these are {count:,})"
        raise ConfigurationError(f"{path_of(files.output)}: {said}; choose another output")
    if run is None and files.input.exists() and fingerprint_of(files.input) != fingerprint:
        said = f"exists, and no {path_of(files.run.name)} says that a run wrote it"
        raise ConfigurationError(f"{path_of(files.input)}: {said}; choose another output")


def _line(row: object, number: int) -> bytes:
    if not isinstance(row, Mapping):
        raise ConfigurationError(f"row {number} must be a dict, got {type(row).__name__}")
    return encoded(dict(row), name=f"row {number}") + b"\n"


class _RowsError(Exception):
    """An OSError of whoever makes the rows, which is none of our files."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _from(rows: Given) -> Iterator[object]:
    try:
        yield from rows
    except OSError as error:
        raise _RowsError(error) from None
