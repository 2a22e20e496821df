"""`stormbreak batch export` and `merge`: make a table of rows and answers; merge the outputs of all shards."""

from pathlib import Path

import click

from stormbreak.batch.export.export import export_output
from stormbreak.batch.merge import merge
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.cost import lookup_of
from stormbreak.batch.store.reader import read_status
from stormbreak.cli.batch.options import ESCAPE_FORMULAS, PREFIX
from stormbreak.cli.command import options, subcommand
from stormbreak.cli.options import FILE, PRICES
from stormbreak.cli.output import say
from stormbreak.escape import path_of


@subcommand(
    "stormbreak batch export answers.parquet so_far.csv",
    "stormbreak batch export answers.jsonl answers.parquet",
)
@click.argument("output", type=FILE)
@click.argument("file", type=FILE)
@options("Options", PREFIX, ESCAPE_FORMULAS, PRICES)
def export(
    output: Path, file: Path, *, prefix: str | None, escape_formulas: bool, prices: tuple[str, ...]
) -> None:
    """Write the rows of the batch at OUTPUT with their results to FILE, in the order of INPUT.

    The suffix of FILE sets the format: .csv, .tsv, .parquet, or JSON lines. Rows without an answer yet have empty
    columns.
    """
    given = BatchOptions(prefix=prefix, escape_formulas=escape_formulas)
    counts = export_output(output, file, given=given, price_of=lookup_of(output, prices).price_of)
    lines = [f"{counts.rows:,} rows in {path_of(file)}"]
    if counts.failed:
        lines.append(f"{counts.failed:,} of them failed")
    if counts.left:
        lines.append(f"{counts.left:,} of them have no answer yet; batch run continues with them")
    say("\n".join(lines))


@subcommand("stormbreak batch merge out.parquet out.1.jsonl out.2.jsonl")
@click.argument("output", type=FILE)
@click.argument("shards", type=FILE, nargs=-1, required=True)
@options("Options", PRICES)
def merge_shards(output: Path, shards: tuple[Path, ...], *, prices: tuple[str, ...]) -> None:
    """Merge SHARDS, the outputs of all runs with --shard over one table, into OUTPUT.

    OUTPUT is what one run over the whole table would have written: status, retry, export and cost report work on it.
    The shards do not change.
    """
    price_of = lookup_of(shards[0], prices).price_of
    rows = merge(output, shards, price_of=price_of)
    status = read_status(output, price_of)
    lines = [f"{rows:,} rows in {path_of(output)}"]
    if status.failed:
        lines.append(f"{sum(status.failed.values()):,} of them failed")
    if status.left:
        again = "batch run over the table, without --shard, sends them"
        lines.append(f"{status.left:,} of them have no answer yet; {again}")
    say("\n".join(lines))
