"""`stormbreak batch status`: the progress of a run, as text or JSON; also the text of a run's summary."""

import shlex
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from urllib.parse import urlsplit

import click

from stormbreak.batch.running.runner import End
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.store.cost import lookup_of
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.reader import Status, read_status
from stormbreak.cli.command import options, subcommand
from stormbreak.cli.options import FILE, JSON, PRICES
from stormbreak.cli.output import json_text, say
from stormbreak.core.row_schedule import PROBE_ROWS
from stormbreak.cost.formatting import format_cost
from stormbreak.escape import path_of
from stormbreak.types import Verdict

_RETRY = "stormbreak batch retry"
_REFUSED = {
    Verdict.AUTH: "auth, the key was refused",
    Verdict.BILLING: "billing, the account has no credit or quota left",
    Verdict.NOT_FOUND: "not_found, no such model or address",
    Verdict.REDIRECTED: "redirected, the address points elsewhere; redirects are never followed",
    Verdict.INVALID: "invalid, the request itself is wrong",
    Verdict.SCHEMA_MISMATCH: "schema_mismatch, no answer matches the schema",
}


def summary_text(summary: Summary, *, retry: bool = False) -> str:
    back = ", ".join(f"{verdict} {count:,}" for verdict, count in summary.verdicts.items())
    failed_file = path_of(BatchPaths.of(Path(summary.output)).failed)
    left = f"{summary.left:,}" + "; batch run continues with them" * retry
    reused = f"{summary.reused:,} of these answers, from the cache or from identical rows"
    fallback = f"{summary.from_fallback:,} of these answers, from a fallback"
    is_over = summary.end == End.FINISHED.value
    lines = {
        "answered": _answered(summary, retry=retry),
        "failed": f"{summary.failed:,}" + (f"; why: {failed_file}" if summary.failed else ""),
        "reason": _reason(summary),
        "left": left * bool(summary.left),
        "retried": _retried(summary, retry=retry),
        "reused": reused * bool(summary.reused),
        "fallback": fallback * bool(summary.from_fallback),
        "took": f"{summary.elapsed:,.1f} s, {summary.throughput:,.1f} rows/s",
        "sent": _sent(summary, retry=retry),
        "came back": back,
        "cost": format_cost(summary.cost, summary.cost_limit),
        "tokens": f"{summary.input_tokens:,} in, {summary.output_tokens:,} out",
        "answers": _answers(summary),
        "stopped": _stopped(summary),
        "next": _after_failures(summary) if summary.failed and is_over else "",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items() if text)


def _answered(summary: Summary, *, retry: bool) -> str:
    """The rows with an answer; after a resume also those of this run, which most figures below describe."""
    of_all = f"{summary.successful:,} of {summary.total:,} rows"
    is_resume = summary.successful != summary.answered and not retry
    return of_all + (f"; {summary.answered:,} of them in this run" if is_resume else "")


def _answers(summary: Summary) -> str:
    """The file of the answers: the journal, until the table is made from it."""
    if not summary.successful:
        return ""
    if BatchPaths.of(Path(summary.output)).table is None or summary.end == End.FINISHED.value:
        return path_of(summary.output)
    return in_journal(summary.output)


def in_journal(output: str) -> str:
    """The file of the answers while there is no table yet, and how to make one."""
    export = f"stormbreak batch export {shlex.quote(path_of(output))} FILE"
    return f"{path_of(BatchPaths.of(Path(output)).output)}; as a table: {export}"


def retry_command(output: str) -> str:
    """Advice for failed rows; the command to type comes last."""
    return f"fix the cause, then: {_RETRY} {shlex.quote(path_of(output))}"


def _after_failures(summary: Summary) -> str:
    reason = summary.reason
    if reason is None or reason.retry_at is None:
        return retry_command(summary.output)
    return f"after {_local(reason.retry_at)}: {_RETRY} {shlex.quote(path_of(summary.output))}"


def _local(seconds: float) -> str:
    whole = ceil(seconds / 60) * 60  # never a minute too early
    return f"{datetime.fromtimestamp(whole, UTC).astimezone():%Y-%m-%d %H:%M}"


def _retried(summary: Summary, *, retry: bool) -> str:
    if not (summary.retried or retry):
        return ""
    return (
        f"{summary.retried:,} rows that had failed; {summary.recovered:,} of them are now answered"
    )


def _sent(summary: Summary, *, retry: bool) -> str:
    if summary.attempts or summary.end != End.FINISHED.value:
        return f"{summary.attempts:,} attempts, {summary.retries:,} of them retries"
    if not summary.total:
        return "nothing: this shard has no rows"
    if summary.reused:
        return "nothing: no other row was left"
    if retry:
        return "nothing: no row has failed" + " that way" * bool(summary.failed)
    if summary.failed:
        return "nothing: batch run does not resend rows that failed permanently"
    return "nothing: all rows were answered before"


def _reason(summary: Summary) -> str:
    """Why most rows failed, in the provider's words."""
    reason = summary.reason
    if reason is None:
        return ""
    text = f" {reason}" if str(reason) else ""
    text = f"{reason.verdict}{text} ({reason.rows:,} row{'s' * (reason.rows > 1)} of this run)"
    if reason.retry_at is None:
        return text
    return (
        f"{text}; they must wait until {_local(reason.retry_at)}, and a row waits for a day at most"
    )


def _stopped(summary: Summary) -> str:
    if summary.refused_by is not None:
        why = _REFUSED[summary.refused_by]
        if summary.refused_by is Verdict.NOT_FOUND:
            place = urlsplit(summary.base_url)
            hint = "" if place.path.strip("/") else ", which may need a /v1"
            why += f" at {place.scheme}://{place.netloc}{hint}"
        return (
            f"{PROBE_ROWS} consecutive rows failed: {why}; nothing is lost: fix the cause, then run the"
            " same command again"
        )
    if summary.end == End.SPENT.value:
        return "the budget left is too small for the next row; run again with a higher --max-cost to continue"
    if summary.end == End.WORKER_LOST.value:
        return "a worker process was killed; run the same command again to continue with its rows"
    if summary.end == End.INTERRUPTED.value:
        return "interrupted; run the same command again to continue"
    return ""


@subcommand("stormbreak batch status answers.jsonl")
@click.argument("output", type=FILE)
@options("Options", PRICES, JSON)
def command(output: Path, *, prices: tuple[str, ...], as_json: bool) -> None:
    """Show the progress of the run that writes OUTPUT. It only reads, and works during the run."""
    status = read_status(output, lookup_of(output, prices).price_of)
    if as_json:
        say(json_text(status))
        return
    say("\n".join(f"{name:<8} {text}" for name, text in _lines(status) if text))


def _lines(status: Status) -> list[tuple[str, str]]:
    begun = datetime.fromtimestamp(status.started_at, UTC).astimezone()
    share = f" ({status.done / status.total:.1%})" if status.total else ""
    return [
        ("input", path_of(status.input)),
        ("output", path_of(status.output)),
        (
            "run",
            ("active" if status.active else "not active") + f", begun {begun:%Y-%m-%d %H:%M:%S}",
        ),
        ("total", f"{status.total:,}"),
        ("done", f"{status.done:,}{share}"),
        ("failed", _counted(status)),
        ("left", f"{status.left:,}"),
        ("batches", f"{status.submitted:,} rows are at the provider" * bool(status.submitted)),
        ("cost", format_cost(status.cost, None)),
        ("next", _next(status)),
    ]


def _next(status: Status) -> str:
    if status.submitted:
        return f"stormbreak batch fetch --wait {shlex.quote(path_of(status.output))}"
    if status.active or not status.failed:
        return ""
    return retry_command(status.output)


def _counted(status: Status) -> str:
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in status.failed.items())
    total = sum(status.failed.values())
    return f"{total:,} ({verdicts})" if total else "0"
