"""`stormbreak batch run`: answer every row of a file, with progress, a status socket, a summary and a report."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from stormbreak.batch.build_job import build_job
from stormbreak.batch.flags import Flags
from stormbreak.batch.job import Job, run_job
from stormbreak.batch.row_selection import UNFINISHED_ROWS
from stormbreak.batch.run_sample import watching
from stormbreak.batch.run_timeseries import Course
from stormbreak.batch.running.runner import End
from stormbreak.batch.running.summary import Summary, require_reached
from stormbreak.batch.store.cost import BatchCost, read_cost
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cli.batch.options import run_options
from stormbreak.cli.batch.progress import progress_on
from stormbreak.cli.batch.status import told
from stormbreak.cli.batch.status_socket import StatusSocket
from stormbreak.cli.command import option, subcommand
from stormbreak.cli.options import FILE
from stormbreak.cli.output import json_text, say, warn
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain
from stormbreak.report.destination import ReportFile

# ---------------------------------------------------------------- run a job


def work(
    job: Job, *, as_json: bool, quiet: bool, report: str | None, metrics_port: int | None
) -> int:
    """Run `job`, say what came of it, and return the exit code. Raises as `run_job` does."""
    destination = None if report is None else _destination(report, job)
    course = Course(began=time.monotonic())
    with (
        StatusSocket(job.output, metrics_port) as watched,
        progress_on(sys.stderr, quiet=quiet) as progress,
    ):
        tick, listeners = watched.beside(progress.tick), watched.listeners
        if destination is not None:
            tick, listeners = watching(course, tick), (*listeners, course.hear)
        summary = run_job(job, tick, listeners=listeners, reading=progress.reading)
    if as_json:
        say(json_text(summary))
    elif summary.end != End.UNREACHABLE.value:
        say(told(summary, retry=not job.choice.fresh))
    if destination is not None:  # last: whatever becomes of it, what came of the rows has been told
        _report(destination, summary, course, _cost_of(job))
    return _exit_code(summary)


def _destination(report: str, job: Job) -> ReportFile:
    """Where the report goes, which may be none of the files of the batch."""
    destination, files = ReportFile.of(report), BatchPaths.of(job.output)
    taken = (job.source, files.output, files.failed, files.run, files.lock)
    if destination.path.resolve() in [path.resolve() for path in taken]:
        raise click.UsageError(f"--report {path_of(report)}: is a file of the batch itself")
    return destination


def _cost_of(job: Job) -> BatchCost | None:
    """What all runs on OUTPUT have cost, where its files and the price lists say so."""
    prices: Sequence[str] = job.flags.prices if job.flags else ()
    try:
        return read_cost(job.output, load_lookup(prices))
    except ConfigurationError:
        return None


def _report(
    destination: ReportFile, summary: Summary, course: Course, cost: BatchCost | None
) -> None:
    """Write the report. The run is over and its answers are safe, so that trouble is told, and changes nothing else."""
    try:
        destination.batch(summary, course, cost)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run was not lost
        why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        warn(f"no report: {plain(why, limit=1000)}")


def _exit_code(summary: Summary) -> int:
    require_reached(summary)
    if summary.end == End.INTERRUPTED.value:
        return 130
    return 0 if summary.complete else 1


# ---------------------------------------------------------------- command


@subcommand(
    "stormbreak batch run prompts.jsonl -o answers.jsonl --provider openai -m gpt-4.1",
    "stormbreak batch run prompts.jsonl -o answers.jsonl --provider openai --max-cost 20 -c 50",
)
@click.argument("source", metavar="INPUT", type=FILE)
@option("-o --output", FILE, "File for the answers.", required=True)
@run_options
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
    """Send every row of INPUT and write the answers to a file.

    Failed rows go to a second file beside it, with the reason. Run the same command again to resume after a stop or a crash.
    """
    job = build_job(Flags(**flags), source=source, output=output, choice=UNFINISHED_ROWS)
    return work(job, as_json=as_json, quiet=quiet, report=report, metrics_port=metrics_port)
