"""`out.jsonl.run`: which input and options an OUTPUT belongs to; written before anything is sent.

A later run needs the same input, byte for byte (the file may have moved), and the same values of the options in
`PINNED`. Other options may change, and the change is kept: a resume may use another address, limit or key.

`account`: the usage of the attempts of all these runs; written every second, and at the end of a run. `flags`: the
options of the last run, for `batch retry`, which may also change pinned ones. `pauses`: until when (unix time) a model
gets no request, also from the next run, because the provider named a time. `table`: the table that the requests were
made from, if any. `billed`: tokens of batches at the provider (`store.provider_batches`) whose usage is in the account.
`salt`: part of the idempotency keys of all these runs, so that a row keeps its key after a crash.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from msgspec import DecodeError, convert, to_builtins
from msgspec.json import Decoder, encode
from msgspec.json import format as indented

from stormbreak import file_reader
from stormbreak.batch.input.index import Rows
from stormbreak.batch.run_options import UNFINISHED_ROWS, BatchOptions, Choice
from stormbreak.batch.store.durable_file import replacing
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cost.accounts import Account
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason, system_errors_at
from stormbreak.hidden_keys import hidden

VERSION = 1
PINNED = ("model", "schema")
"""Options that must not change: an OUTPUT mixes answers of two models or forms only if the user asks for it.
"""

Option = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRef:
    """The table whose rows became the requests in `Run.input`, and how to read it again.

    `fingerprint` is of its files, `key` of all inputs of the requests except the `shard`. Without `has_columns` the
    rows are requests.
    """

    name: str
    paths: tuple[str, ...]
    format: Literal["csv", "jsonl", "parquet"]
    delimiter: str
    fingerprint: str
    key: str
    has_columns: bool
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The run that an OUTPUT belongs to; `started_at` is unix time. A run with a `Policy` object has no `flags`."""

    version: int = VERSION
    input: str
    fingerprint: str
    rows: int
    options: Mapping[str, Option]
    started_at: float
    salt: str = ""
    account: Account = field(default_factory=Account)
    flags: BatchOptions | None = None
    pauses: Mapping[str, float] = field(default_factory=dict)
    table: TableRef | None = None
    billed: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """What the user gave as INPUT."""
        return self.input if self.table is None else self.table.name


_RUN = Decoder(Run)


def read_run(files: BatchPaths) -> Run | None:
    """Read the run file; None if it does not exist."""
    content = None
    with (
        system_errors_at(files.run),
        suppress(FileNotFoundError),
        file_reader.opened(files.run) as file,
    ):
        content = file.read()
    if content is None:
        return None
    try:
        run = _decoded(content)
    except (ValueError, RecursionError):  # msgspec's errors are among them
        raise ConfigurationError(f"{path_of(files.run)}: not a stormbreak run file") from None
    if run.version != VERSION:
        why = f"written by another version of stormbreak (format {run.version}, not {VERSION})"
        raise ConfigurationError(f"{path_of(files.run)}: {why}")
    return run


def read_existing_run(files: BatchPaths) -> Run:
    run = read_run(files)
    if run is None:
        why = f"{path_of(files.output)} is not the output of a batch run"
        raise ConfigurationError(f"{path_of(files.run)}: not found; {why}")
    return run


def find_moved(path: str, beside: Path) -> Path:
    """Find a file of a batch whose folder may have moved: at its old place, else `beside` OUTPUT."""
    was = Path(path)
    return beside if was.name == beside.name and not was.exists() else was


def check(
    files: BatchPaths, rows: Rows, recorded: Mapping[str, Option], choice: Choice = UNFINISHED_ROWS
) -> Run | None:
    """Refuse a run that must not use these files, and change nothing; return the run to resume, None for a new one.

    A choice without fresh rows needs an earlier run, and may change pinned options.
    """
    run = check_before(files, (rows.path,), recorded, choice)
    if run is not None and (run.fingerprint, run.rows) != (rows.fingerprint, len(rows)):
        here, there = f"{path_of(rows.path)} ({len(rows):,} rows)", path_of(run.input)
        why = f"belongs to a run of {there} ({run.rows:,} rows), and {here} has different content"
        what = "choose another --output" if choice.fresh else "nothing is sent again"
        raise ConfigurationError(f"{path_of(files.output)}: {why}; {what}")
    return run


def check_before(
    files: BatchPaths,
    sources: Iterable[Path],
    recorded: Mapping[str, Option],
    choice: Choice = UNFINISHED_ROWS,
) -> Run | None:
    """Do the part of `check` that does not need INPUT, since reading it takes a while."""
    _check_places(files, sources)
    run = read_run(files) if choice.fresh else read_existing_run(files)
    if run is None:
        for path in (files.output, files.failed, files.table):
            if path is not None and path.exists() and path.stat().st_size:
                why = f"exists, and no {path_of(files.run.name)} says that a run of this input wrote it"
                raise ConfigurationError(f"{path_of(path)}: {why}; choose another --output")
        return None
    for name in PINNED if choice.fresh else ():
        if recorded.get(name) != run.options.get(name):
            was, now = (_with_option(name, of.get(name)) for of in (run.options, recorded))
            raise ConfigurationError(f"{path_of(files.output)}: was begun {was}, now {now}")
    return run


def record(
    files: BatchPaths,
    rows: Rows,
    recorded: Mapping[str, Option],
    *,
    last: Run | None,
    now: float,
    kept: BatchOptions | None = None,
    table: TableRef | None = None,
) -> tuple[Run, tuple[str, ...]]:
    """Write the run file; return it, and the names of the options that differ from `last`, which `check` returned.

    `recorded` and `kept` options hold no key and no prompt. Pinned options stay as in `last`, and so do its kept
    options if there are no new ones. `now` is unix time.
    """
    pinned = {name: last.options.get(name) for name in PINNED if name in recorded} if last else {}
    run = Run(
        input=str(rows.path.absolute()),
        fingerprint=rows.fingerprint,
        rows=len(rows),
        options=dict(recorded) | pinned,
        started_at=last.started_at if last else now,
        salt=(last.salt if last else "") or secrets.token_hex(16),
        account=(last.account if last else Account()).begin(),
        flags=kept or (last.flags if last else None),
        pauses=last.pauses if last else {},
        table=table or (last.table if last else None),
        billed=last.billed if last else (),
    )
    _write(files, run)
    if last is None:
        return run, ()
    names = sorted({*last.options, *run.options})
    return run, tuple(name for name in names if last.options.get(name) != run.options.get(name))


def note_account(
    files: BatchPaths, run: Run, account: Account, pauses: Mapping[str, float]
) -> None:
    """Write the run file again, with the spending so far and the pauses of models."""
    _write(files, replace(run, account=account, pauses=pauses))


def bill_batch(files: BatchPaths, run: Run, token: str, usage: Account) -> Run:
    """Add the usage of a batch at the provider to the account, once; return the updated run."""
    if token in run.billed:
        return run
    account = replace(run.account.merged(usage), at_work=run.account.at_work)
    run = replace(run, account=account, billed=(*run.billed, token))
    _write(files, run)
    return run


def _write(files: BatchPaths, run: Run) -> None:
    with replacing(files.run) as file:
        file.write(_encoded(run) + b"\n")


def _encoded(run: Run) -> bytes:
    """Write JSON; escape the lone surrogates of file names that are not UTF-8."""
    try:
        return indented(encode(run))
    except UnicodeEncodeError:
        return json.dumps(to_builtins(run), indent=2).encode("ascii")


def _decoded(content: bytes) -> Run:
    try:
        return _RUN.decode(content)
    except DecodeError:  # lone surrogates, which msgspec refuses
        return convert(json.loads(content), Run)


def _check_places(files: BatchPaths, sources: Iterable[Path]) -> None:
    table = () if files.table is None else (files.table,)
    for path in (files.output, files.failed, files.run, files.lock, *table):
        try:
            why = _unfit(path, sources)
            # The lock file, which we hold, may have the number of a standard stream that was closed.
            if why is None and path != files.lock and _is_standard_stream(path):
                why = "is standard output or error"
        except OSError as error:
            why = reason(error)
        if why:
            raise ConfigurationError(f"{path_of(path)}: {why}; choose another --output")


def _unfit(path: Path, sources: Iterable[Path]) -> str | None:
    """Explain why `path` cannot be a file of a run over `sources`; None if it can."""
    if not path.parent.is_dir():
        return "no such directory"
    if path.is_symlink():  # its target would be written, and the link replaced
        return "is a symbolic link"
    if not path.exists():
        return None
    if not path.is_file():
        return "not a regular file"
    same = any(source.exists() and path.samefile(source) for source in sources)
    return "is the input" if same else None


def _is_standard_stream(path: Path) -> bool:
    """Whether the program's standard output or error is this file, and would overwrite its answers."""
    for fd in (1, 2):
        with suppress(OSError):  # the file does not exist, or the stream is closed
            if os.path.samestat(path.stat(), os.fstat(fd)):
                return True
    return False


def _with_option(name: str, value: Option) -> str:
    return f"without --{name}" if value is None else f"with --{name} {hidden(plain(value))}"
