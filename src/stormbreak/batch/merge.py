"""Merge the outputs of all shards of a table: the result is the OUTPUT that one run over the whole table would have written.

So `batch status`, `retry`, `export` and `cost report` work on it, and `batch run` over the whole table resumes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from itertools import zip_longest
from pathlib import Path

from stormbreak import file_reader
from stormbreak.batch.export.export import export
from stormbreak.batch.input.index import Rows, new_fingerprint
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.durable_file import replacing
from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.output_line import entries
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.provider_batches import require_no_batches
from stormbreak.batch.store.run_file import (
    PINNED,
    Run,
    TableRef,
    check_before,
    note_account,
    read_existing_run,
    record,
)
from stormbreak.cost.accounts import Account
from stormbreak.cost.price_source import PriceOf
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, reason

_Shard = tuple[BatchPaths, Run, TableRef]


def merge(output: Path, shards: Sequence[Path], *, price_of: PriceOf) -> int:
    """Merge `shards` into `output`, a new file; return the number of rows. The shards do not change.

    Raises:
        ConfigurationError: they are not the shards of one table, a run is writing one of them, or a file cannot be read or written.
    """
    _check_once(shards)
    with ExitStack() as stack:
        found = _ordered([_read(shard, stack) for shard in shards])
        _, first, ref = found[0]
        flags = first.flags or BatchOptions()
        files = BatchPaths.of(output, flatten=flags.flatten)
        if check_before(files, [paths.output for paths, _, _ in found], first.options) is not None:
            raise ConfigurationError(f"{path_of(output)}: is the output of a batch; choose another")
        stack.enter_context(locked(files))
        try:
            rows = stack.enter_context(_merged_requests(files, found))
            run = _write(files, rows, found, replace(ref, shard=(1, 1)))
        except BaseException:
            if not files.run.exists():
                files.input.unlink(missing_ok=True)
            raise
        if files.table is not None:
            export(files, rows, run, files.table, given=flags, price_of=price_of)
        return len(rows)


def _check_once(shards: Sequence[Path]) -> None:
    """Raise ConfigurationError for a shard that is given twice, even by two names."""
    seen: set[Path] = set()
    for shard in shards:
        file = shard.resolve()
        if file in seen:
            raise ConfigurationError(f"{path_of(shard)}: is given twice")
        seen.add(file)


def _read(shard: Path, stack: ExitStack) -> _Shard:
    files = BatchPaths.of(shard)
    run = read_existing_run(files)
    if run.table is None or run.table.shard == (1, 1):
        raise ConfigurationError(f"{path_of(shard)}: is not the output of a run with --shard")
    stack.enter_context(locked(files))
    require_no_batches(files)
    return files, run, run.table


def _ordered(found: list[_Shard]) -> list[_Shard]:
    """Sort the shards. Raises ConfigurationError if they are not all shards of one table."""
    files, first, ref = found[0]
    for other, run, table in found:
        same = (run.options.get(name) == first.options.get(name) for name in PINNED)
        if table.key != ref.key or not all(same):
            what = f"are shards of other rows, or with another prompt, {' or '.join(PINNED)}"
            raise ConfigurationError(f"{path_of(files.output)} and {path_of(other.output)}: {what}")
    count = ref.shard[1]
    have = sorted(table.shard for _, _, table in found)
    if have != [(index, count) for index in range(1, count + 1)]:
        names = ", ".join(f"{index}/{of}" for index, of in have)
        raise ConfigurationError(
            f"needs each shard from 1/{count} to {count}/{count} once, got {names}"
        )
    return sorted(found, key=lambda each: each[2].shard)


def _merged_requests(files: BatchPaths, found: list[_Shard]) -> Rows:
    """Put the requests of all shards into the order of the table."""
    with ExitStack() as opened, replacing(files.input) as file:
        try:
            spools = [opened.enter_context(file_reader.opened(run.input)) for _, run, _ in found]
        except OSError as error:
            raise ConfigurationError(f"{path_of(error.filename)}: {reason(error)}") from None
        digests = [new_fingerprint() for _ in found]
        for lines in zip_longest(*spools):
            for line, digest in zip(lines, digests, strict=True):
                if line is not None:
                    digest.update(line)
                    file.write(line)
        for (_, run, _), digest in zip(found, digests, strict=True):
            if digest.hexdigest() != run.fingerprint:
                raise ConfigurationError(f"{path_of(run.input)}: has changed since the run")
    model = found[0][1].options.get("model")
    name = found[0][2].name
    return Rows.read(files.input, model=model if isinstance(model, str) else None, table=name)


def _write(files: BatchPaths, rows: Rows, found: list[_Shard], table: TableRef) -> Run:
    """Write the journal, then the run file: it shows that the merge is complete."""
    for name in ("output", "failed"):
        paths = [getattr(shard, name) for shard, _, _ in found]
        if any(path.exists() for path in paths):
            with replacing(getattr(files, name)) as file:
                file.writelines(_lines(paths))
    runs = [run for _, run, _ in found]
    run, _ = record(
        files,
        rows,
        runs[0].options,
        last=None,
        now=min(run.started_at for run in runs),
        kept=runs[0].flags,
        table=table,
    )
    account = reduce(Account.merged, (run.account for run in runs), Account())
    note_account(files, run, account, {})
    return replace(run, account=account)


def _lines(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        for entry in entries(path):
            yield entry.raw if entry.raw.endswith(b"\n") else entry.raw + b"\n"
