"""`stormbreak batch run`: answer every row of a file, with progress, a status socket, a summary and a report."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.running.runner import End
from stormbreak.batch.running.stats import RunStats
from stormbreak.batch.running.summary import Summary, require_reached
from stormbreak.batch.running.workers import Running
from stormbreak.batch.store.cost import BatchCost, read_cost
from stormbreak.cli.batch.options import CONCURRENCY, job_options, run_options
from stormbreak.cli.batch.progress import progress_on
from stormbreak.cli.batch.status import summary_text
from stormbreak.cli.batch.status_socket import StatusSocket
from stormbreak.cli.command import subcommand
from stormbreak.cli.output import json_text, say, warn
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.drivers.garbage import collecting_less_often
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain
from stormbreak.report.destination import ReportFile
from stormbreak.telemetry.status_client import SET_CONCURRENCY


def run_and_report(
    job: Job,
    *,
    as_json: bool,
    quiet: bool,
    report: str | None,
    metrics_port: tuple[str, int] | None,
) -> int:
    """Run `job`, print the summary, write the report, and return the exit code. Raises as `run_job` does."""
    if metrics_port is not None and job.workers > 1:
        raise click.UsageError(
            "--metrics-port: not with --workers; stormbreak top shows all workers"
        )
    destination = None if report is None else _destination(report, job)
    stats = RunStats(began=None if destination is None else time.monotonic())
    control = _Control(job)
    with (
        _interruptible(),
        collecting_less_often(),
        StatusSocket(
            job.files.output, metrics_port, {SET_CONCURRENCY: control.set_concurrency}
        ) as status,
        progress_on(sys.stderr, quiet=quiet) as progress,
    ):

        def tick(runner: Running) -> None:
            control.run = runner
            status.tick(runner)
            progress.tick(runner)

        summary = run_job(
            job,
            tick,
            listeners=status.listeners,
            on_read=progress.on_read,
            stats=stats,
            view=status,
        )
    if as_json:
        say(json_text(summary))
    elif summary.end != End.UNREACHABLE.value:
        say(summary_text(summary, retry=not job.choice.fresh))
    if destination is not None:  # last: the summary is already printed if this fails
        _report(destination, summary, stats, _cost_of(job))
    return _exit_code(summary)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM act like Ctrl-C, even while INPUT is read or a table is made: one line, and exit code 130."""
    heard = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    heard = heard and threading.current_thread() is threading.main_thread()
    if heard:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        warn("interrupted; run the same command again to continue")
        raise click.exceptions.Exit(130) from None
    finally:
        if heard:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Control:
    """Changes an active run, from another thread."""

    def __init__(self, job: Job) -> None:
        self.run: Running | None = None
        self._job = job

    def set_concurrency(self, text: str) -> str:
        """Change the maximum of concurrent requests, or set it to `auto`. Raises ConfigurationError."""
        if self.run is None:
            raise ConfigurationError("the run has not begun yet")
        try:
            concurrency = CONCURRENCY.parse(text)
        except ValueError as error:
            raise ConfigurationError(f"concurrency {error}") from None
        limit, width = self._job.limit_for(concurrency)
        self.run.change_limit(limit, width)
        return f"concurrency {concurrency}"


def _destination(report: str, job: Job) -> ReportFile:
    """Check that the report does not overwrite a file of the batch."""
    destination, files = ReportFile.of(report), job.files
    taken = [job.source, files.output, files.failed, files.run, files.lock, files.table]
    taken += () if job.table is None else job.table.table.paths
    if destination.path.resolve() in [path.resolve() for path in taken if path is not None]:
        raise click.UsageError(f"--report {path_of(report)}: is a file of the batch itself")
    return destination


def _cost_of(job: Job) -> BatchCost | None:
    """The cost of all runs on OUTPUT; None if its files or the price lists cannot be read."""
    try:
        return read_cost(job.output, load_lookup(job.options.prices))
    except ConfigurationError:
        return None


def _report(
    destination: ReportFile, summary: Summary, stats: RunStats, cost: BatchCost | None
) -> None:
    """Write the report. The answers are safe, so an error is only printed."""
    try:
        destination.batch(summary, stats, cost)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run was not lost
        why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        warn(f"no report: {plain(why, limit=1000)}")


def _exit_code(summary: Summary) -> int:
    require_reached(summary)
    if summary.end == End.INTERRUPTED.value:
        return 130
    return 0 if summary.complete else 1


@subcommand(
    "stormbreak batch run prompts.jsonl -o answers.jsonl --provider openai -m gpt-4.1",
    "stormbreak batch run prompts.jsonl -o answers.jsonl --provider openai --max-cost 20 -c 50",
    "stormbreak batch run rows.csv -o out.csv --prompt 'Summarise {text}' --provider openai -m gpt-4.1",
)
@job_options
@run_options
def command(job: Job, **shown: Any) -> int:
    """Send every row of INPUT and write the answers to a file.

    INPUT is a table (CSV, Parquet or JSON lines) that --prompt, --template or --body turns into requests, or JSON lines
    that are requests. OUTPUT is a table (.csv, .parquet), or JSON lines in the OpenAI Batch format.

    Failed rows go to a second file next to it, with the reason. Run the same command again to resume after a stop or a
    crash.
    """
    return run_and_report(job, **shown)
