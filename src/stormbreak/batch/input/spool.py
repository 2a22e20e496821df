"""Write requests that are not in a plain file to one next to OUTPUT: a resumed run reads its INPUT again.

So every INPUT (a table, stdin, objects from Python) reaches the engine in one form. Each run writes the file again and
compares it with that of the run before; a run over the same table with the same options uses the existing file.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from filecmp import cmp
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from stormbreak import file_reader
from stormbreak.batch import parquet
from stormbreak.batch.export.tables import check_columns
from stormbreak.batch.input.index import (
    REPORT_EVERY,
    ReadProgress,
    fingerprint_of,
    new_fingerprint,
)
from stormbreak.batch.input.row import Row, RowError, parse_row
from stormbreak.batch.input.table import WHOLE, Shard, Table, find_format
from stormbreak.batch.input.table_requests import RequestMaker, plain_value
from stormbreak.batch.run_options import BatchOptions, TableOptions, option_flag
from stormbreak.batch.store.durable_file import fresh_path, replacing
from stormbreak.batch.store.lock import held, locked
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.run_file import TableRef, read_run
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, system_errors_at
from stormbreak.http.request import encode_payload


class Frame(Protocol):
    """A data frame of any library that speaks Arrow: pandas, polars, pyarrow and others."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Export the rows."""


RowObjects = Iterable[Mapping[str, Any]]
Copy = Callable[[BinaryIO], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInput:
    """A table, and how its rows become requests. `copy` writes its rows to a file if they are not in one."""

    table: Table
    options: TableOptions
    given: BatchOptions = field(default_factory=BatchOptions)
    copy: Copy | None = None
    name_of: Callable[[str], str] = option_flag

    def requests(self, *, for_table: bool = False) -> Iterator[object]:
        """Read the rows and make their requests; `for_table`: OUTPUT will be a table.

        Raises:
            ConfigurationError: names the row that cannot become a request, or the column that has the name of a result.
        """
        table, prefix = self.table, self.given.prefix or ""
        for_table = for_table and self.options.makes_requests
        columns, make = table.columns(), None
        if for_table and columns is not None:
            check_columns(columns, prefix, table.name)
        if self.options.makes_requests or table.format != "jsonl":
            make = RequestMaker(
                self.options,
                columns,
                table.name,
                max_tokens=self.given.max_output_tokens,
                name_of=self.name_of,
            )
        records = table.records(None if make is None else make.columns)
        for number, record in zip(map(table.shard.number, count()), records, strict=False):
            if for_table and columns is None:
                check_columns(record, prefix, f"{table.name}: row {number:,}")
            try:
                yield (
                    {"custom_id": f"row-{number}"} | record
                    if make is None
                    else make(record, number)
                )
            except RowError as error:
                raise ConfigurationError(f"{table.name}: row {number:,}: {error}") from None

    def ref(self, files: BatchPaths) -> TableRef:
        """Describe the table for the run file, without a prompt."""
        table, options = self.table, self.options
        fingerprint = table.fingerprint()
        # The requests also depend on these. Keep a digest only: prompts are never written to disk.
        key = blake2b(fingerprint.encode(), digest_size=16)
        key.update(
            msgspec.json.encode(
                (msgspec.structs.replace(options, shard=None), self.given.max_output_tokens)
            )
        )
        if options.template is not None:
            with system_errors_at(options.template):
                key.update(file_reader.read_bytes(options.template, what="a template"))
        paths = (files.rows,) if self.copy else tuple(path.absolute() for path in table.paths)
        return TableRef(
            name=table.name,
            paths=tuple(map(str, paths)),
            format=table.format,
            delimiter=table.delimiter,
            fingerprint=fingerprint,
            key=key.hexdigest(),
            has_columns=options.makes_requests,
            shard=(table.shard.index, table.shard.count),
        )


def find_table(
    source: Path,
    options: TableOptions,
    given: BatchOptions,
    name_of: Callable[[str], str] = option_flag,
) -> TableInput | None:
    """Find the table that `source` names; None if it is a plain file of requests, which is read in place.

    `given` are the other options of the run. Raises ConfigurationError if there is no such file.
    """
    shard = _shard(options, name_of)
    table = Table.find(source, delimiter=options.delimiter, shard=shard)
    if table.is_plain and not options.makes_requests:
        return None
    return TableInput(table=table, options=options, given=given, name_of=name_of)


def table_of(rows: object, options: TableOptions, given: BatchOptions) -> TableInput | None:
    """Make a table from a data frame, or from dicts if `options` turn them into requests; None if they are requests."""
    if hasattr(rows, "__arrow_c_stream__"):  # pandas, polars, pyarrow and others

        def copy(file: BinaryIO) -> None:
            parquet.write_frame(rows, file)
    elif (options.makes_requests or options.shard) and isinstance(rows, Iterable):

        def copy(file: BinaryIO) -> None:
            file.writelines(map(encode_row, _guarded(rows), count(1)))
    else:
        return None
    table = Table(name="rows", paths=(), format="jsonl", shard=_shard(options, str))
    return TableInput(table=table, options=options, given=given, copy=copy, name_of=str)


def _shard(options: TableOptions, name_of: Callable[[str], str]) -> Shard:
    return WHOLE if options.shard is None else Shard.parse(options.shard, name_of("shard"))


def table_rows(source: TableInput, model: str | None) -> Iterator[Row]:
    """Make the rows of a table as a run would send them, without a file; `model` is for rows without a model."""
    if source.table.is_stream and source.options.makes_requests:
        raise ConfigurationError(f"{source.table.name}: can be read only once; give a file")
    for number, request in enumerate(source.requests(), 1):
        line = encode_row(request, number)
        try:
            yield parse_row(line, index=number - 1, number=number, model=model)
        except RowError as error:
            where = f"{source.table.name}: row {number:,}"
            raise ConfigurationError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """Requests in `files.input`, with their fingerprint, and the table that they were made from."""

    fingerprint: str
    table: TableRef | None = None


@contextmanager
def spooled(
    files: BatchPaths, source: TableInput | RowObjects, on_read: ReadProgress = lambda _: None
) -> Iterator[Spooled]:
    """Write the requests to `files.input` (mode 0600); remove the file if no run began.

    Raises ConfigurationError if a row is not a request, OUTPUT belongs to other rows, or another run is writing to it.
    """
    found = _reuse(files, source) if isinstance(source, TableInput) else None
    spool = found or _write(files, source, on_read)
    try:
        yield spool
    finally:
        if not files.run.exists() and not held(files):  # nor is another run about to write it
            files.input.unlink(missing_ok=True)
            files.rows.unlink(missing_ok=True)


def _reuse(files: BatchPaths, source: TableInput) -> Spooled | None:
    """Return the requests that an earlier run made from the same table with the same options, if they exist."""
    run = None if source.copy or source.table.is_stream else read_run(files)
    if run is None or run.table is None or not files.input.exists():
        return None
    ref = source.ref(files)
    is_same = (ref.key, ref.shard) == (run.table.key, run.table.shard)
    return Spooled(fingerprint=run.fingerprint, table=ref) if is_same else None


def _write(files: BatchPaths, source: TableInput | RowObjects, on_read: ReadProgress) -> Spooled:
    digest, number, ref = new_fingerprint(), 0, None
    try:
        with locked(files), ExitStack() as written:
            if isinstance(source, TableInput):
                source = _copied(files, source, written)
                ref = None if source.table.is_stream else source.ref(files)
            rows: Iterable[object]
            if isinstance(source, TableInput):
                rows = source.requests(for_table=files.table is not None)
            else:
                rows = source
            with replacing(files.input) as file:
                for number, row in enumerate(_guarded(rows), 1):
                    line = encode_row(row, number)
                    digest.update(line)
                    file.write(line)
                    if number % REPORT_EVERY == 0:
                        on_read(number)
                _check(files, digest.hexdigest(), number)
    except _RowsError as error:
        raise error.cause from None
    return Spooled(fingerprint=digest.hexdigest(), table=ref)


def _copied(files: BatchPaths, source: TableInput, written: ExitStack) -> TableInput:
    """Copy a table that can be read only once, unless its rows are requests; the copy stays if `written` succeeds."""
    table = source.table
    copy = source.copy
    if copy is None and table.is_stream and source.options.makes_requests:
        copy = table.copy_to
    if copy is None:
        return source
    file = written.enter_context(replacing(files.rows))
    copy(file)
    file.flush()
    place = fresh_path(files.rows)
    table = replace(table, paths=(place,), format=find_format(place))
    return replace(source, table=table, copy=copy)


def _check(files: BatchPaths, fingerprint: str, rows: int) -> None:
    """Refuse rows of another run, and files that stormbreak did not write; change no file."""
    run = read_run(files)
    if run is not None and run.fingerprint != fingerprint:
        why = f"belongs to a run of other rows or another prompt ({run.rows:,} rows; these are {rows:,})"
        raise ConfigurationError(f"{path_of(files.output)}: {why}; choose another output")
    if run is None and files.input.exists() and fingerprint_of(files.input) != fingerprint:
        why = f"exists, and no {path_of(files.run.name)} says that a run wrote it"
        raise ConfigurationError(f"{path_of(files.input)}: {why}; choose another output")
    copy = fresh_path(files.rows)
    if run is None and copy.exists() and files.rows.exists() and not cmp(copy, files.rows, False):
        why = f"exists, and no {path_of(files.run.name)} says that a run wrote it"
        raise ConfigurationError(f"{path_of(files.rows)}: {why}; choose another output")


def encode_row(row: object, number: int) -> bytes:
    """Encode a row as a line. Raises ConfigurationError if it is not a dict, or has a value that JSON cannot hold."""
    if not isinstance(row, Mapping):
        raise ConfigurationError(f"row {number} must be a dict, got {type(row).__name__}")
    try:
        return encode_payload(dict(row), name=f"row {number}") + b"\n"
    except ConfigurationError:
        try:  # values of numpy, and of libraries like it
            plain = msgspec.to_builtins(dict(row), enc_hook=plain_value, builtin_types=_KEPT)
        except Exception:  # noqa: BLE001 - whatever a strange value raises
            plain = row
        return encode_payload(plain, name=f"row {number}") + b"\n"


_KEPT = (bytes, bytearray, memoryview)  # refused with its name, not turned into text


class _RowsError(Exception):
    """Wraps an OSError of the caller's iterable, which `replacing` would take for one of our files."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _guarded(rows: Iterable[object]) -> Iterator[object]:
    try:
        yield from rows
    except OSError as error:
        raise _RowsError(error) from None
