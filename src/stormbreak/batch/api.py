"""Run a batch from Python: `run` for programs and notebooks, `arun` for code with an event loop.

Rows that are Python objects go to a file beside OUTPUT, since a run that is resumed reads its INPUT again.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from stormbreak.batch.background_run import BackgroundRun, OnProgress
from stormbreak.batch.input.index import fingerprint_of, new_fingerprint
from stormbreak.batch.job import Job, build_job
from stormbreak.batch.options import (
    UNFINISHED_ROWS,
    Choice,
    Options,
    StrPath,
    options_from,
    path_from,
)
from stormbreak.batch.running.summary import Summary, require_reached
from stormbreak.batch.store.append_file import replacing
from stormbreak.batch.store.lock import held, locked
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.run_file import read_run
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.http.answer_schema import AnswerSchema
from stormbreak.http.request import encode_payload

RowObjects = Iterable[Mapping[str, Any]]
Rows = RowObjects | StrPath


def run(
    rows: Rows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Answer every row, or explain why not; block until then. Call it again to resume after a stop.

    Args:
        rows: the path of an input file, or dicts such as `{"prompt": ...}`, `{"messages": ...}` or lines in the OpenAI Batch
            format. Dicts are written to a file beside `output` (`out.input.jsonl`, mode 0600) at once.
        output: the file for answers, as with `stormbreak batch run`, with the same files beside it. A later call needs the same
            rows.
        choice: `failed_rows()` sends the rows that failed, and no others.
        on_progress: is called with a `RunSnapshot` four times a second, in another thread; its exceptions are logged.
        options: `Options`, the options of the command line: provider, base_url, api_key_env, model, policy, concurrency, rpm,
            tpm, max_cost, max_output_tokens, prices, timeout, idle_timeout, deadline, connect_grace, ordered, fallback_base_url,
            fallback_api_key_env, schema, repairs.

    Returns:
        The summary. `answers()` and `failures()` read the rows back; `end` says why the run ended: a wrong key, for example,
        stops it early.

    Raises:
        ConfigurationError: an option is wrong, nothing answers at that address, or `output` cannot be written.
        KeyboardInterrupt: after Ctrl-C, when what was sent is answered and written; a second one ends that at once.
    """
    job, spooled = _begin(rows, output, choice, options)
    with spooled as fingerprint:
        summary = BackgroundRun(replace(job, fingerprint=fingerprint), on_progress).wait()
    require_reached(summary)
    return summary


async def arun(
    rows: Rows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Do as `run` does, without blocking the event loop.

    Cancelling it does what Ctrl-C does there: what was sent is still answered and written, for as long as an attempt may take.
    """
    job, spooled = _begin(rows, output, choice, options)
    with spooled as fingerprint:
        summary = await BackgroundRun(
            replace(job, fingerprint=fingerprint), on_progress
        ).async_wait()
    require_reached(summary)
    return summary


def _begin(
    rows: Rows, output: StrPath, choice: Choice, options: Options
) -> tuple[Job, AbstractContextManager[str | None]]:
    """Make the job, and the context that spools rows to a file, where they are in none."""
    place = path_from("output", output, "a path, where answers are kept and a later run goes on")
    files, policy, schema = BatchPaths.of(place), options.get("policy"), options.get("schema")
    source = Path(rows) if isinstance(rows, str | os.PathLike) else files.input
    job = build_job(
        options_from(options),
        source=source,
        output=place,
        choice=choice,
        policy=policy if isinstance(policy, Policy) else None,
        schema=schema if isinstance(schema, Mapping | type | AnswerSchema) else None,
        name_of=str,
    )
    if isinstance(rows, str | os.PathLike):
        return job, nullcontext()
    return job, spool_rows(files, rows)


# ---------------------------------------------------------------- spooled rows


@contextmanager
def spool_rows(files: BatchPaths, rows: RowObjects) -> Iterator[str]:
    """Write `rows` to `files.input` (mode 0600) and yield their fingerprint; remove the file if no run was begun.

    Raises:
        ConfigurationError: a row is no dict or no JSON, OUTPUT belongs to other rows, or another run is writing to it.
    """
    fingerprint = _write(files, rows)
    try:
        yield fingerprint
    finally:
        if not files.run.exists() and not held(files):  # nor is another run about to write it
            files.input.unlink(missing_ok=True)


def _write(files: BatchPaths, rows: RowObjects) -> str:
    digest, count = new_fingerprint(), 0
    try:
        with locked(files), replacing(files.input) as file:
            for count, row in enumerate(_guarded(rows), 1):
                line = _line(row, count)
                digest.update(line)
                file.write(line)
            _check(files, digest.hexdigest(), count)
    except _RowsError as error:
        raise error.cause from None
    return digest.hexdigest()


def _check(files: BatchPaths, fingerprint: str, count: int) -> None:
    """Refuse rows of another run, and a file that stormbreak did not write; the files stay as they are."""
    run = read_run(files)
    if run is not None and run.fingerprint != fingerprint:
        why = f"belongs to a run of other rows ({run.rows:,}; these are {count:,})"
        raise ConfigurationError(f"{path_of(files.output)}: {why}; choose another output")
    if run is None and files.input.exists() and fingerprint_of(files.input) != fingerprint:
        why = f"exists, and no {path_of(files.run.name)} says that a run wrote it"
        raise ConfigurationError(f"{path_of(files.input)}: {why}; choose another output")


def _line(row: object, number: int) -> bytes:
    if not isinstance(row, Mapping):
        raise ConfigurationError(f"row {number} must be a dict, got {type(row).__name__}")
    return encode_payload(dict(row), name=f"row {number}") + b"\n"


class _RowsError(Exception):
    """Wraps an OSError of the caller's iterable, which `replacing` would take for one of our files."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _guarded(rows: RowObjects) -> Iterator[object]:
    try:
        yield from rows
    except OSError as error:
        raise _RowsError(error) from None
