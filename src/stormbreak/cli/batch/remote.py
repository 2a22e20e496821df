"""`stormbreak batch submit`, `poll`, `fetch` and `cancel`: rows at the provider's own batch API."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from stormbreak.batch.job import Job, build_job
from stormbreak.batch.remote.caller import RemoteError
from stormbreak.batch.remote.commands import (
    FetchSummary,
    cancel_batches,
    fetch_batches,
    poll_batches,
)
from stormbreak.batch.remote.fetch import MISSING, UNPROCESSED, Fetched
from stormbreak.batch.remote.submit import Submission, submit_job
from stormbreak.batch.run_options import UNFINISHED_ROWS, BatchOptions
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.provider_batches import RemoteBatch
from stormbreak.batch.store.run_file import read_existing_run
from stormbreak.cli.batch.options import (
    API_KEY_ENV,
    CONNECT_GRACE_OPTION,
    QUIET,
    job_options,
    submit_options,
)
from stormbreak.cli.batch.retry import input_of_run, options_of_run
from stormbreak.cli.batch.status import in_journal, retry_command
from stormbreak.cli.command import flag, options, subcommand
from stormbreak.cli.options import FILE, JSON, PRICES
from stormbreak.cli.output import json_text, say, warn
from stormbreak.cost.formatting import format_cost
from stormbreak.escape import path_of, plain

F = TypeVar("F", bound=Callable[..., Any])

_WAIT = flag("-w --wait", "Wait until all batches have ended.")
_ACCESS = (API_KEY_ENV, CONNECT_GRACE_OPTION)


@subcommand(
    "stormbreak batch submit prompts.jsonl -o answers.jsonl --provider openai -m gpt-4.1",
    "stormbreak batch submit rows.csv -o out.csv --prompt 'Summarise {text}' --provider openai -m gpt-4.1",
)
@job_options
@submit_options
def submit(job: Job, *, batch_size: int | None, as_json: bool, quiet: bool) -> int:
    """Send the rows of INPUT to the provider's batch API, which answers within a day, at half the price.

    INPUT and OUTPUT are as for batch run. batch fetch writes the answers. Rows that come back without one can be sent
    with batch run. Run the same command again after a crash: nothing is submitted twice.
    """

    def on_batch(batch: RemoteBatch) -> None:
        if not (as_json or quiet):
            say(f"batch {batch.number:<4} {len(batch.ranges):,} rows for {batch.model}: {batch.id}")

    try:
        submission = submit_job(job, batch_size=batch_size, on_batch=on_batch)
    except RemoteError as error:
        warn(str(error))
        return 1
    say(json_text(_submission_facts(submission)) if as_json else _submission(submission))
    return 0 if submission.complete else 1


def _submission_facts(submission: Submission) -> dict[str, object]:
    return {
        "output": submission.output,
        "submitted": submission.rows,
        "batches": [batch.id for batch in submission.batches],
        "unsent": submission.unsent,
        "unsure": [batch.number for batch in submission.unsure],
    }


def _submission(submission: Submission) -> str:
    out = path_of(submission.output)
    lines = [f"submitted  {submission.rows:,} rows in {len(submission.batches):,} batch(es)"]
    if submission.unsent:
        usd, room = submission.refused_usd, submission.room_usd
        why = f"the next batch can cost {usd:.2f} USD, and {room:.2f} are left of --max-cost"
        lines.append(f"not sent   {submission.unsent:,} rows: {why}; see --batch-size")
    if submission.unsure:
        names = ", ".join(str(batch.number) for batch in submission.unsure)
        lines.append(
            f"unsure     batch {names}: the provider may have it; batch poll --wait finds out"
        )
    lines.append(f"next       stormbreak batch fetch --wait {out}")
    return "\n".join(lines)


def _job_of(output: Path, given: dict[str, Any]) -> Job:
    """Make the job of the last run on OUTPUT, with its options."""
    run = read_existing_run(BatchPaths.of(output))
    merged = options_of_run(BatchOptions(**given), run, output).clean()
    source = input_of_run(run, output)
    return build_job(merged, source=source, output=output, choice=UNFINISHED_ROWS)


@subcommand("stormbreak batch poll answers.jsonl", "stormbreak batch poll --wait answers.jsonl")
@click.argument("output", type=FILE)
@options("Options", _WAIT, *_ACCESS, JSON, QUIET)
def poll(output: Path, *, wait: bool, as_json: bool, quiet: bool, **given: Any) -> int:
    """Show the progress of the submitted batches of OUTPUT. Exit code 1: some are still running."""
    progress = _progress(quiet=quiet or as_json)
    return _shown(
        lambda job: poll_batches(job, wait=wait, on_poll=progress), output, given, as_json=as_json
    )


@subcommand("stormbreak batch cancel answers.jsonl")
@click.argument("output", type=FILE)
@options("Options", *_ACCESS, JSON)
def cancel(output: Path, *, as_json: bool, **given: Any) -> int:
    """Cancel the submitted batches of OUTPUT. Their answers so far can be fetched."""
    return _shown(cancel_batches, output, given, as_json=as_json)


def _shown(
    act: Callable[[Job], list[RemoteBatch]], output: Path, given: dict[str, Any], *, as_json: bool
) -> int:
    try:
        batches = act(_job_of(output, given))
    except RemoteError as error:
        warn(str(error))
        return 1
    if as_json:
        say(json_text([_facts(batch) for batch in batches]))
    else:
        say("\n".join(map(_line, batches)))
    return int(any(batch.is_there for batch in batches))


def _progress(*, quiet: bool) -> Callable[[Sequence[RemoteBatch]], None]:
    """Return the function that prints changed batches."""
    shown: dict[int, str] = {}

    def show(batches: Sequence[RemoteBatch]) -> None:
        for batch in batches:
            line = _line(batch)
            if not quiet and batch.is_there and shown.get(batch.number) != line:
                shown[batch.number] = line
                click.echo(line, err=True)

    return show


def _facts(batch: RemoteBatch) -> dict[str, object]:
    return {
        "number": batch.number,
        "id": batch.id,
        "step": batch.step.value,
        "status": batch.status,
        "model": batch.model,
        "endpoint": batch.endpoint,
        "rows": len(batch.ranges),
        "succeeded": batch.counts.succeeded,
        "failed": batch.counts.failed,
        "unprocessed": batch.counts.unprocessed,
        "errors": list(batch.errors),
    }


def _line(batch: RemoteBatch) -> str:
    counts, errors = batch.counts, ", ".join(plain(code, limit=64) for code in batch.errors)
    status = plain(batch.status, limit=40)
    state = status if batch.is_there and status else batch.step.value
    if not batch.is_there and status and status != state:
        state = f"{state} ({status})"
    done = f"{counts.succeeded:,} of {len(batch.ranges):,} answered"
    failed = f", {counts.failed:,} failed" * bool(counts.failed)
    line = f"batch {batch.number:<4} {state:<24} {done}{failed}  {plain(batch.model)}  {batch.id}"
    return f"{line}  {errors}".rstrip()


@subcommand("stormbreak batch fetch answers.jsonl", "stormbreak batch fetch --wait answers.jsonl")
@click.argument("output", type=FILE)
@options(
    "Options",
    _WAIT,
    flag("--accept-partial", "Give up results that the provider has counted but does not list."),
    *_ACCESS,
    PRICES,
    JSON,
    QUIET,
)
def fetch(
    output: Path, *, wait: bool, accept_partial: bool, as_json: bool, quiet: bool, **given: Any
) -> int:
    """Write the results of ended batches to OUTPUT and its failed file.

    Send rows without an answer with batch run, or with another batch submit.
    """
    try:
        summary = fetch_batches(
            _job_of(output, given),
            wait=wait,
            accept_partial=accept_partial,
            on_poll=_progress(quiet=quiet or as_json),
            on_fetched=_warn_of_odd,
        )
    except RemoteError as error:
        warn(str(error))
        return 1
    say(json_text(_summary_facts(summary)) if as_json else _summary(summary))
    return 0 if summary.complete else 1


def _warn_of_odd(fetched: Fetched) -> None:
    odd = {what: rows for what, rows in fetched.odd.items() if rows and what != UNPROCESSED}
    if fetched.is_done and fetched.errors:
        odd.pop(MISSING, None)  # it was refused as a whole
    if odd:
        counted = ", ".join(f"{what} {rows:,}" for what, rows in odd.items())
        warn(f"batch {fetched.batch.number}: lines of its results: {counted}")
    for error in fetched.errors[:3]:
        line = f", line {error.line}" if error.line else ""
        warn(f"batch {fetched.batch.number} was refused: {plain(error.code, limit=64)}{line}")
    if not fetched.is_done:
        warn(
            f"batch {fetched.batch.number} stays open: its results are incomplete; fetch again, or"
            " use --accept-partial to leave the rest to batch run"
        )


def _summary_facts(summary: FetchSummary) -> dict[str, object]:
    return {
        "output": summary.output,
        "total": summary.total,
        "successful": summary.successful,
        "failed": summary.failed,
        "left": summary.left,
        "open": summary.open,
        "batches": [
            _facts(each.batch)
            | {"answered": each.answered, "odd": {k: v for k, v in each.odd.items() if v}}
            for each in summary.batches
        ],
        "cost": summary.cost,
    }


def _summary(summary: FetchSummary) -> str:
    files = BatchPaths.of(Path(summary.output))
    reason = summary.reason
    unprocessed = sum(each.odd[UNPROCESSED] for each in summary.batches)
    lines = {
        "answered": f"{summary.successful:,} of {summary.total:,} rows",
        "failed": f"{summary.failed:,}" + f"; why: {path_of(files.failed)}" * bool(summary.failed),
        "reason": "" if reason is None else f"{reason.verdict} {reason} ({reason.rows:,} rows)",
        "left": f"{summary.left:,}" + f"; not processed {unprocessed:,}" * bool(unprocessed)
        if summary.left
        else "",
        "batches": f"{len(summary.batches):,} fetched, {summary.open:,} open",
        "cost": format_cost(summary.cost, None),
        "answers": "" if files.table is None or not summary.left else in_journal(summary.output),
        "next": _next(summary),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items() if text)


def _next(summary: FetchSummary) -> str:
    out = shlex.quote(path_of(summary.output))
    if summary.open:
        return f"stormbreak batch fetch --wait {out}"
    if summary.left:
        return f"send the remaining rows by batch run with the same INPUT and options: -o {out}"
    return retry_command(summary.output) if summary.failed else ""
