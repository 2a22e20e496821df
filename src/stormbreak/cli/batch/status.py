"""`stormbreak batch status`: how far a run has come, as text or JSON; also the text of a run's summary."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

import click

from stormbreak.batch.running.runner import End
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.status import Status, read_status
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cli.command import options, subcommand
from stormbreak.cli.numbers import format_cost
from stormbreak.cli.options import FILE, JSON, PRICES
from stormbreak.cli.output import json_text, say
from stormbreak.core.row_schedule import PROBE_ROWS
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.escape import path_of
from stormbreak.types import Verdict

# ---------------------------------------------------------------- summary of a run

_REFUSED = {
    Verdict.AUTH: "auth, the key was refused",
    Verdict.BILLING: "billing, the account has no credit or quota left",
    Verdict.NOT_FOUND: "not_found, no such model or address",
    Verdict.REDIRECTED: "redirected, another address is meant; redirects are never followed",
    Verdict.INVALID: "invalid, the request itself is wrong",
}


def told(summary: Summary, *, retry: bool = False) -> str:
    """Say what came of the run, or of a retry, a line each."""
    back = ", ".join(f"{verdict} {count:,}" for verdict, count in summary.verdicts.items())
    failed_file = path_of(BatchPaths.of(Path(summary.output)).failed)
    lines = {
        "answered": f"{summary.successful:,} of {summary.total:,} rows",
        "failed": f"{summary.failed:,}" + (f"; why: {failed_file}" if summary.failed else ""),
        "reason": _reason(summary),
        "left": _left(summary, retry=retry),
        "retried": _retried(summary, retry=retry),
        "took": f"{summary.elapsed:,.1f} s, {summary.throughput:,.1f} rows/s",
        "sent": _sent(summary, retry=retry),
        "came back": back,
        "cost": format_cost(summary.cost, summary.limit_of_cost),
        "tokens": f"{summary.input_tokens:,} in, {summary.output_tokens:,} out",
        "answers": path_of(summary.output) if summary.successful else "",
        "stopped": _stopped(summary),
        "next": _next_command(summary),
    }
    return "\n".join(f"{name:<10} {said}" for name, said in lines.items() if said)


def retry_command(output: str) -> str:
    """What to do about failed rows; the command stands at the end, as it is typed."""
    return f"mend the cause, then: stormbreak batch retry {shlex.quote(path_of(output))}"


def _left(summary: Summary, *, retry: bool) -> str:
    if not summary.left:
        return ""
    return f"{summary.left:,}" + ("; batch run goes on with them" if retry else "")


def _retried(summary: Summary, *, retry: bool) -> str:
    if not (summary.retried or retry):
        return ""
    return f"{summary.retried:,} rows that had failed; {summary.mended:,} of them are answered now"


def _sent(summary: Summary, *, retry: bool) -> str:
    if summary.attempts or summary.end != End.FINISHED.value:
        return f"{summary.attempts:,} attempts, {summary.retries:,} of them retries"
    if retry:
        return "nothing: no row has failed" + " that way" * bool(summary.failed)
    if summary.failed:
        return "nothing: what failed for good in an earlier run is not sent again by batch run"
    return "nothing: all rows were answered before"


def _reason(summary: Summary) -> str:
    """What most rows failed for, in the provider's words."""
    reason = summary.reason
    if reason is None:
        return ""
    said = f" {reason}" if str(reason) else ""
    return f"{reason.verdict}{said} ({reason.rows:,} row{'s' * (reason.rows > 1)} of this run)"


def _next_command(summary: Summary) -> str:
    if not summary.failed or summary.end != End.FINISHED.value:
        return ""
    return retry_command(summary.output)


def _stopped(summary: Summary) -> str:
    if summary.refused_by is not None:
        why = _REFUSED[summary.refused_by]
        return (
            f"{PROBE_ROWS} rows in a row failed: {why}; nothing was lost: fix the cause, then the same command sends"
            " these rows and the rest"
        )
    if summary.end == End.SPENT.value:
        return "what is left of the limit of spending is too little for the next row; with more, the same command goes on"
    if summary.end == End.INTERRUPTED.value:
        return "interrupted; the same command goes on from here"
    return ""


# ---------------------------------------------------------------- command


@subcommand("stormbreak batch status answers.jsonl")
@click.argument("output", type=FILE)
@options("Options", PRICES, JSON)
def command(output: Path, *, prices: tuple[str, ...], as_json: bool) -> None:
    """Show the progress of the run that writes OUTPUT. It reads only, and works during the run."""
    status = read_status(output, load_lookup(prices).price_of)
    if as_json:
        say(json_text(status))
        return
    say("\n".join(f"{name:<8} {said}" for name, said in _told(status) if said))


def _told(status: Status) -> list[tuple[str, str]]:
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
        ("cost", format_cost(status.cost, None)),
        ("next", _next(status)),
    ]


def _next(status: Status) -> str:
    if status.active or not status.failed:
        return ""
    return retry_command(status.output)


def _counted(status: Status) -> str:
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in status.failed.items())
    total = sum(status.failed.values())
    return f"{total:,} ({verdicts})" if total else "0"
