"""`stormbreak batch merge`: one output of the outputs of all shards."""

from pathlib import Path

import click

from stormbreak.batch.merge import merge
from stormbreak.batch.store.cost import lookup_of
from stormbreak.batch.store.reader import read_status
from stormbreak.cli.command import options, subcommand
from stormbreak.cli.options import FILE, PRICES
from stormbreak.cli.output import say
from stormbreak.escape import path_of


@subcommand("stormbreak batch merge out.parquet out.1.jsonl out.2.jsonl")
@click.argument("output", type=FILE)
@click.argument("shards", type=FILE, nargs=-1, required=True)
@options("Options", PRICES)
def command(output: Path, shards: tuple[Path, ...], *, prices: tuple[str, ...]) -> None:
    """Merge SHARDS, the outputs of all runs with --shard over one table, into OUTPUT.

    OUTPUT is what one run over the whole table would have written: status, retry, export and cost report work on it. The
    shards stay as they are.
    """
    price_of = lookup_of(shards[0], prices).price_of
    rows = merge(output, shards, price_of=price_of)
    status = read_status(output, price_of)
    lines = [f"{rows:,} rows in {path_of(output)}"]
    if status.failed:
        lines.append(f"{sum(status.failed.values()):,} of them failed")
    if status.left:
        again = "batch run over the table, without --shard, continues with them"
        lines.append(f"{status.left:,} of them have no answer yet; {again}")
    say("\n".join(lines))
