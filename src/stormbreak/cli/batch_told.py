"""What came of a run over a batch, in words."""

import shlex
from pathlib import Path

from stormbreak.batch.cost_words import format_cost
from stormbreak.batch.files import BatchPaths
from stormbreak.batch.plain import path_of
from stormbreak.batch.runner import End
from stormbreak.batch.summary import Summary
from stormbreak.core.schedule import PROBE_ROWS
from stormbreak.types import Verdict

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
        "next": _next(summary),
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


def _next(summary: Summary) -> str:
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
