"""`stormbreak batch run`: answer every row of a file."""

from pathlib import Path
from typing import Any

import click

from stormbreak.batch.choice import UNFINISHED_ROWS
from stormbreak.batch.flags import Flags
from stormbreak.batch.from_flags import build_job
from stormbreak.cli.batch_flags import shared
from stormbreak.cli.batch_work import work


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where answers go.")
@shared
def command(
    source: Path,
    *,
    output: Path,
    as_json: bool,
    quiet: bool,
    report: str | None,
    metrics_port: int | None,
    **flags: Any,
) -> int:
    """Answer every row of INPUT, or explain why not. Run it again to go on after a stop or a crash."""
    job = build_job(Flags(**flags), source=source, output=output, choice=UNFINISHED_ROWS)
    return work(job, as_json=as_json, quiet=quiet, report=report, metrics_port=metrics_port)
