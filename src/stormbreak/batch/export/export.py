"""Export a batch as a table, at the end of a run or later, even while a run is active."""

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec.structs import replace

from stormbreak.batch import parquet
from stormbreak.batch.export.results import Results, RowCounts
from stormbreak.batch.export.tables import RequestIds, write_table
from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.table import Shard, Table
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.cost import lookup_of
from stormbreak.batch.store.paths import BatchPaths, require_plain_file
from stormbreak.batch.store.run_file import Run, TableRef, find_moved, read_existing_run
from stormbreak.cost.price_source import PriceOf
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.http.endpoint import find_endpoint


def export_output(output: Path, path: Path, *, given: BatchOptions, price_of: PriceOf) -> RowCounts:
    """Write the rows and results so far of the batch at `output` as a table to `path`; return the counts of its rows.

    Raises ConfigurationError if there is no such batch, its INPUT has changed, or a file cannot be read or written.
    """
    files = BatchPaths.of(output)
    run = read_existing_run(files)
    # If it is a link, replace its target, as for OUTPUT. The link of another user might point to any file of ours.
    if path.is_symlink() and path.lstat().st_uid == os.geteuid() and path.is_file():
        path = path.resolve()
    _check_place(files, run, path)
    if given.prefix is None and run.flags is not None:
        given = replace(given, prefix=run.flags.prefix)
    with open_requests(files, run) as requests:
        return export(files, requests, run, path, given=given, price_of=price_of)


def read_table(output: str | PathLike[str], *, prices: Sequence[str] = ()) -> Any:
    """Read the rows of the batch at `output` and their results as a pyarrow table, in the order of the rows.

    Prices come from these price files, or those of the last run, then from today's list prices. Raises as
    `export_output` does, and if a price file cannot be read or pyarrow is not installed.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "table.parquet")
        price_of = lookup_of(Path(output), tuple(prices)).price_of
        export_output(Path(output), path, given=BatchOptions(), price_of=price_of)
        return parquet.read_file(path)


def export(
    files: BatchPaths,
    requests: Rows,
    run: Run,
    path: Path,
    *,
    given: BatchOptions,
    price_of: PriceOf,
) -> RowCounts:
    """Write the table of a run whose requests are open. Only the table options of `given` are used."""
    table = run.table
    rows = (
        RequestIds(requests) if table is None or not table.has_columns else _reopened(files, table)
    )
    with Results(files, requests, provider=_provider(run), price_of=price_of) as results:
        write_table(
            path, rows, results, prefix=given.prefix or "", escape_formulas=given.escape_formulas
        )
        return results.counts()


def open_requests(files: BatchPaths, run: Run) -> Rows:
    """Open the requests of a run. Raises ConfigurationError if they are not there, or have changed."""
    model = run.options.get("model")
    rows = Rows.read(
        find_moved(run.input, files.input),
        model=model if isinstance(model, str) else None,
        checked=run.fingerprint,
        table=None if run.table is None else run.table.name,
    )
    if rows.fingerprint != run.fingerprint:
        rows.close()
        raise ConfigurationError(f"{path_of(run.input)}: has changed since the run")
    return rows


def _reopened(files: BatchPaths, ref: TableRef) -> Table:
    """Open the table of a run again, unchanged."""
    table = Table(
        name=ref.name,
        paths=tuple(find_moved(path, files.rows) for path in ref.paths),
        format=ref.format,
        delimiter=ref.delimiter,
        shard=Shard(*ref.shard),
    )
    if table.fingerprint() != ref.fingerprint:
        what = "has changed since the run, so the answers do not fit its rows"
        raise ConfigurationError(f"{path_of(ref.name)}: {what}; undo the change and export again")
    return table


def _provider(run: Run) -> str:
    """The provider of answers that did not come from a fallback."""
    name, base_url = None if run.flags is None else run.flags.provider, run.options.get("base_url")
    url = base_url if isinstance(base_url, str) else None
    return find_endpoint(name, base_url=url, api_key="-", allow_http=True).provider


def _check_place(files: BatchPaths, run: Run, path: Path) -> None:
    """Refuse to overwrite a file of the batch or its INPUT, or to use a name with a compression suffix."""
    require_plain_file(path)
    own = [files.output, files.failed, files.run, files.lock, files.input, files.rows]
    own += [Path(each) for each in (run.input, *(run.table.paths if run.table else ()))]
    if path.exists() and any(each.exists() and path.samefile(each) for each in own):
        raise ConfigurationError(f"{path_of(path)}: is a file of the batch; choose another")
