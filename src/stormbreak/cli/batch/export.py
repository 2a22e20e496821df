"""`stormbreak batch export`: a table of the rows and their answers, from a run that is finished, stopped or under way."""

from pathlib import Path

import click

from stormbreak.batch.export.export import export_output
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.cost import lookup_of
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
def command(
    output: Path,
    file: Path,
    *,
    prefix: str | None,
    escape_formulas: bool,
    prices: tuple[str, ...],
) -> None:
    """Write the rows of the batch at OUTPUT, in the order of INPUT, with what became of them, to FILE.

    The ending of FILE says the format: .csv, .tsv, .parquet, or JSON lines. Rows without an answer yet have empty
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
