"""Run a batch from Python: `run` for programs and notebooks, `arun` for code with an event loop.

Rows that are Python objects go to a file next to OUTPUT, since a resumed run reads its INPUT again.
"""

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event
from typing import Any, Unpack, cast

from msgspec.json import decode

from stormbreak.batch.background_run import BackgroundRun, OnProgress, ResultStream, call_soon
from stormbreak.batch.input.spool import (
    Frame,
    RowObjects,
    Spooled,
    encode_row,
    find_table,
    spooled,
    table_of,
)
from stormbreak.batch.job import Job, build_job
from stormbreak.batch.run_options import (
    UNFINISHED_ROWS,
    Choice,
    Options,
    StrPath,
    options_from,
    path_from,
    table_options_from,
)
from stormbreak.batch.running.summary import Summary, require_reached
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.reader import Answered, Failed
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http.answer_schema import AnswerSchema

Rows = RowObjects | Frame | StrPath
AsyncRows = AsyncIterable[Mapping[str, Any]]


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
        rows: the path of an input file, dicts, or a data frame. With `prompt`, `template` or `body`, they are rows of a
            table that become requests; else dicts such as `{"prompt": ...}`, `{"messages": ...}` or lines in the OpenAI
            Batch format. Anything but a path is written to files next to `output` (mode 0600) at once.
        output: the file for answers, as with `stormbreak batch run`, with the same files next to it. A later call needs
            the same rows.
        choice: `failed_rows()` sends the rows that failed, and no others.
        on_progress: is called with a `RunSnapshot` four times a second, in another thread; its exceptions are logged. Without it, a
            notebook shows a progress bar.
        options: `Options`, the options of the command line: provider, base_url, api_key_env, model, policy, concurrency, rpm,
            tpm, fleet, max_cost, max_output_tokens, prices, timeout, idle_timeout, deadline, connect_grace, ordered, fallback_base_url,
            fallback_api_key_env, schema, repairs, check_only, dedupe, cache, flatten, prefix, escape_formulas; and those of a
            table: prompt, system, template, body, id, url, delimiter, shard.

    Returns:
        The summary. `answers()` and `failures()` read the rows back; `end` says why the run ended: a wrong key, for example,
        stops it early.

    Raises:
        ConfigurationError: an option is wrong, nothing answers at that address, or `output` cannot be written.
        KeyboardInterrupt: after Ctrl-C, when all requests in flight are answered and written; a second Ctrl-C does not
            wait for them.
    """
    with _begun(rows, output, choice, options) as job:
        summary = BackgroundRun(job, on_progress).wait()
    return require_reached(summary)


async def arun(
    rows: Rows | AsyncRows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Do as `run` does, without blocking the event loop; `rows` may also be an async iterable.

    Cancelling it does what Ctrl-C does there: requests in flight are still answered and written, which takes as long as
    an attempt may.
    """
    async with _iterable(rows, output) as found:
        with _begun(found, output, choice, options) as job:
            summary = await BackgroundRun(job, on_progress).async_wait()
    return require_reached(summary)


def results(
    rows: Rows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> Iterator[Answered | Failed]:
    """Run as `run` does, and yield each row of this run as it ends, in any order.

    The run waits for its reader: while 256 results are unread, no further row is sent. Rows that earlier runs have
    answered are in `output`. A reader that stops early, as with `break`, stops the run as Ctrl-C does.

    Raises:
        ConfigurationError: as `run`, at the first row that is asked for.
    """
    something = Event()
    stream = ResultStream(something.set)
    with _begun(rows, output, choice, options) as job:
        background = BackgroundRun(job, on_progress, stream)
        try:
            while not (background.is_over and stream.is_empty):
                something.clear()
                yield from stream.take()
                if not background.is_over:
                    something.wait()
        finally:
            summary = background.stop_and_wait()
    require_reached(summary)


async def aresults(
    rows: Rows | AsyncRows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[Answered | Failed]:
    """Do as `results` does, without blocking the event loop. To stop early, use `contextlib.aclosing`."""
    something = asyncio.Event()
    stream = ResultStream(partial(call_soon, asyncio.get_running_loop(), something.set))
    async with _iterable(rows, output) as found:
        with _begun(found, output, choice, options) as job:
            background = BackgroundRun(job, on_progress, stream)
            try:
                while not (background.is_over and stream.is_empty):
                    something.clear()
                    for result in stream.take():
                        yield result
                    if not background.is_over:
                        await something.wait()
            finally:
                summary = await background.async_stop_and_wait()
    require_reached(summary)


@contextmanager
def _begun(rows: Rows, output: StrPath, choice: Choice, options: Options) -> Iterator[Job]:
    """Make the job; write rows that are not in a file to one first."""
    # The program may change its directory during the run.
    place = path_from(
        "output", output, "a path: answers are kept there, and a later run resumes there"
    )
    place = place.absolute()
    given, of_table = options_from(options), table_options_from(options)
    policy, schema = options.get("policy"), options.get("schema")
    files = BatchPaths.of(place, flatten=given.flatten)
    source, table = files.input, None
    spool: AbstractContextManager[Spooled] | None = None
    if isinstance(rows, str | os.PathLike):
        source = Path(rows).absolute()
        table = find_table(source, of_table, given, str)
    else:
        made = table_of(rows, of_table, given)
        if made is None and not isinstance(rows, Iterable):
            what = "a path, an iterable of dicts or a data frame"
            raise ConfigurationError(f"rows must be {what}, got {type(rows).__name__}")
        spool = spooled(files, made or cast("RowObjects", rows))
    job = build_job(
        given,
        source=source,
        output=place,
        choice=choice,
        policy=policy if isinstance(policy, Policy) else None,
        table=table,
        schema=schema if isinstance(schema, Mapping | type | AnswerSchema) else None,
        name_of=str,
    )
    with spool or nullcontext() as written:
        yield replace(job, spooled=written)


@asynccontextmanager
async def _iterable(rows: Rows | AsyncRows, output: StrPath) -> AsyncIterator[Rows]:
    """Read an async iterable into a file without a name, since another thread needs its rows."""
    if not isinstance(rows, AsyncIterable):
        yield rows
        return
    with TemporaryFile(dir=Path(output).parent) as file:
        number = 0
        async for row in rows:
            number += 1
            file.write(encode_row(row, number))
        file.seek(0)
        yield map(decode, file)
