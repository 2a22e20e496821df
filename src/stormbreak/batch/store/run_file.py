"""`out.jsonl.run`: which input and options an OUTPUT belongs to; written before anything is sent.

On a later run the input must be the same, byte for byte (it may have moved), and so must every option in
`PINNED`. Other options may change from run to run, and the change is kept: to go on somewhere else, slower or
with another key is what a resume is for.

The `account` is what the attempts of all these runs used: written every second, and when a run ends.

The `flags` are what the last run was told, for `batch retry`, which may change even what is pinned: it is asked to.

`pauses` are times that the provider named: until then (unix time) a model is left alone, also by the next run.

The `salt` is what the idempotency keys of all these runs are made with, so that a row which is sent again after a crash
carries the key that it had.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from msgspec import DecodeError, convert, to_builtins
from msgspec.json import Decoder, encode
from msgspec.json import format as indented

from stormbreak import toml_file
from stormbreak.batch.flags import Flags
from stormbreak.batch.row_selection import UNFINISHED_ROWS, Choice
from stormbreak.batch.store.append_file import replacing
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.token_ledger import Account
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason
from stormbreak.key_patterns import hidden

VERSION = 1
PINNED = ("model",)
"""Options that may not change: an OUTPUT never holds the answers of two models unasked."""

Option = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is known about the run that an OUTPUT belongs to; `started_at` is unix time.

    There are no `flags` where no command line told them.
    """

    version: int = VERSION
    input: str
    fingerprint: str
    rows: int
    options: Mapping[str, Option]
    started_at: float
    salt: str = ""
    account: Account = field(default_factory=Account)
    flags: Flags | None = None
    pauses: Mapping[str, float] = field(default_factory=dict)


class InputRef(Protocol):
    """What a run is compared by (`Rows` has it)."""

    path: Path
    fingerprint: str

    def __len__(self) -> int: ...


_RUN = Decoder(Run)


def read_run(files: BatchPaths) -> Run | None:
    """Return what stands in the run file, or None if there is none."""
    try:
        with toml_file.opened(files.run) as file:
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path_of(files.run)}: {reason(error)}") from error
    try:
        run = _decoded(content)
    except (ValueError, RecursionError):  # msgspec's errors are among them
        raise ConfigurationError(f"{path_of(files.run)}: not a run file of stormbreak") from None
    if run.version != VERSION:
        said = f"written by another stormbreak (format {run.version}, not {VERSION})"
        raise ConfigurationError(f"{path_of(files.run)}: {said}")
    return run


def read_existing_run(files: BatchPaths) -> Run:
    """Return what stands in the run file. Raises ConfigurationError if there is none."""
    run = read_run(files)
    if run is None:
        said = f"{path_of(files.output)} is no output of a batch run"
        raise ConfigurationError(f"{path_of(files.run)}: not found; {said}")
    return run


def check(
    files: BatchPaths,
    rows: InputRef,
    options: Mapping[str, Option],
    choice: Choice = UNFINISHED_ROWS,
) -> Run | None:
    """Refuse what may not go on here, touching nothing; return the run to go on with, or None for a new one.

    Where no rows are fresh, there must be a run, and it may go on in another way than it was begun.
    """
    run = check_before(files, rows.path, options, choice)
    if run is not None and (run.fingerprint, run.rows) != (rows.fingerprint, len(rows)):
        here, there = f"{path_of(rows.path)} ({len(rows):,} rows)", path_of(run.input)
        said = f"belongs to a run of {there} ({run.rows:,} rows), and {here} has other content"
        what = "choose another --output" if choice.fresh else "nothing is sent again"
        raise ConfigurationError(f"{path_of(files.output)}: {said}; {what}")
    return run


def check_before(
    files: BatchPaths, source: Path, options: Mapping[str, Option], choice: Choice = UNFINISHED_ROWS
) -> Run | None:
    """Do as `check` does, as far as can be told before INPUT is read, which takes a while."""
    _check_places(files, source)
    run = read_run(files) if choice.fresh else read_existing_run(files)
    if run is None:
        for path in (files.output, files.failed):
            if path.exists() and path.stat().st_size:
                said = f"exists, and no {path_of(files.run.name)} says that a run of this input wrote it"
                raise ConfigurationError(f"{path_of(path)}: {said}; choose another --output")
        return None
    for name in PINNED if choice.fresh else ():
        if options.get(name) != run.options.get(name):
            was, now = (_said(name, of.get(name)) for of in (run.options, options))
            raise ConfigurationError(f"{path_of(files.output)}: was begun {was}, now {now}")
    return run


def record(
    files: BatchPaths,
    rows: InputRef,
    options: Mapping[str, Option],
    *,
    last: Run | None,
    now: float,
    flags: Flags | None = None,
) -> tuple[Run, tuple[str, ...]]:
    """Write the run file; return it, and the names of the options that differ from `last`, which `check` returned.

    `options` and `flags` hold no key and no prompt: they are stored as they are, but for what is pinned, which stays as it
    was. Without `flags` those of `last` stay. `now` is unix time.
    """
    pinned = {name: last.options.get(name) for name in PINNED} if last else {}
    run = Run(
        input=str(rows.path.absolute()),
        fingerprint=rows.fingerprint,
        rows=len(rows),
        options=dict(options) | pinned,
        started_at=last.started_at if last else now,
        salt=(last.salt if last else "") or secrets.token_hex(16),
        account=(last.account if last else Account()).begin(),
        flags=flags or (last.flags if last else None),
        pauses=last.pauses if last else {},
    )
    _write(files, run)
    if last is None:
        return run, ()
    names = sorted({*last.options, *run.options})
    return run, tuple(name for name in names if last.options.get(name) != run.options.get(name))


def note_account(
    files: BatchPaths, run: Run, account: Account, pauses: Mapping[str, float]
) -> None:
    """Write the run file again, with what has been spent by now, and which models are to be left alone."""
    _write(files, replace(run, account=account, pauses=pauses))


def _write(files: BatchPaths, run: Run) -> None:
    with replacing(files.run) as file:
        file.write(_encoded(run) + b"\n")


def _encoded(run: Run) -> bytes:
    """Write JSON; of a name that is not UTF-8, the bytes are lone surrogates, which are escaped."""
    try:
        return indented(encode(run))
    except UnicodeEncodeError:
        return json.dumps(to_builtins(run), indent=2).encode("ascii")


def _decoded(content: bytes) -> Run:
    try:
        return _RUN.decode(content)
    except DecodeError:  # lone surrogates, which are not for this decoder
        return convert(json.loads(content), Run)


def _check_places(files: BatchPaths, source: Path) -> None:
    for path in (files.output, files.failed, files.run, files.lock):
        try:
            why = _unfit(path, source)
        except OSError as error:
            why = reason(error)
        if why:
            raise ConfigurationError(f"{path_of(path)}: {why}; choose another --output")


def _unfit(path: Path, source: Path) -> str | None:
    """Say why `path` cannot be a file of a run over `source`, if it cannot."""
    if not path.parent.is_dir():
        return "no such directory"
    if path.is_symlink():  # what it points to would be written, and the link replaced
        return "is a symbolic link"
    if not path.exists():
        return None
    if not path.is_file():
        return "not a regular file"
    return "is the input" if source.exists() and path.samefile(source) else None


def _said(name: str, value: Option) -> str:
    return f"without --{name}" if value is None else f"with --{name} {hidden(plain(value))}"
