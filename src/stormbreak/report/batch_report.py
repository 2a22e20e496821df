"""The report of a batch run: rows, charts over time, retries, failures and cost."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from stormbreak.batch.running.runner import End
from stormbreak.batch.running.stats import Histogram, RunStats
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.store.cost import BatchCost, ModelCost
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cost.accounts import Span
from stormbreak.cost.money import USD, between
from stormbreak.escape import shown
from stormbreak.report.batch_charts import charts_of
from stormbreak.report.page import Bar, Card, Page, Section, Table
from stormbreak.report.picture import Picture

FAILURES = 20  # maximum failed rows on the page; the failed file has all of them
_LONG = 300  # characters of a message

_ENDS = {
    End.FINISHED.value: "",
    End.REFUSED.value: " The run stopped early: many consecutive rows failed for a reason unrelated to the rows.",
    End.SPENT.value: " The run stopped early: the spend limit was reached.",
    End.UNREACHABLE.value: " The run stopped early: the provider could not be reached.",
    End.WORKER_LOST.value: " A worker process was lost; run the same command again to answer its rows.",
    End.INTERRUPTED.value: " The run was interrupted; run the same command again to resume it.",
}


def batch_page(summary: Summary, stats: RunStats, cost: BatchCost | None = None) -> Page:
    """Make the page of a finished run; `cost` is the cost of all runs on its OUTPUT, if known."""
    over_time: list[Section | None] = []
    if summary.attempts:
        over_time = [Section(title="Over time", charts=charts_of(stats)), _seconds(stats)]
    sections = [
        Section(title="In figures", cards=_cards(summary, stats)),
        *over_time,
        _retries(summary, stats),
        _failed_attempts(stats),
        _targets(stats),
        _failures(summary),
        _cost(cost),
    ]
    return Page(
        kind="a batch run",
        title=shown(Path(summary.input).name),
        verdict=_verdict(summary),
        facts=_facts(summary),
        sections=[section for section in sections if section is not None],
    )


def batch_picture(summary: Summary, stats: RunStats) -> Picture:
    return Picture(
        title=f"{shown(Path(summary.input).name)} at {shown(summary.base_url, 80)}",
        verdict=_verdict(summary),
        cards=_cards(summary, stats)[:4],
        charts=charts_of(stats) if summary.attempts else (),
    )


def _verdict(summary: Summary) -> str:
    text = (
        f"{summary.successful:,} of {summary.total:,} rows are answered"
        f"{f', {summary.failed:,} failed' if summary.failed else ''}"
        f"{f', {summary.left:,} are left' if summary.left else ''}."
    )
    if summary.attempts:
        text += (
            f" This run took {_span(summary.elapsed)} for {summary.answered:,} of them,"
            f" {summary.throughput:,.1f} a second."
        )
    else:
        text += " This run sent nothing."
    return text + _ENDS[summary.end]


def _facts(summary: Summary) -> list[tuple[str, str]]:
    facts = [
        ("input", shown(summary.input, 200)),
        ("answers", shown(summary.output, 200)),
        ("sent to", shown(summary.base_url, 120)),
        ("ended", summary.end),
    ]
    reason = summary.reason
    if reason is not None:
        facts.append(("failed for", shown(f"{reason.verdict} {reason}".strip(), _LONG)))
    return facts


def _cards(summary: Summary, stats: RunStats) -> list[Card]:
    billed = summary.maybe_processed
    return [
        Card(
            name="Answered",
            figure=f"{summary.successful:,}",
            about=f"of {summary.total:,} rows; {summary.failed:,} failed, {summary.left:,} left",
        ),
        Card(
            name="Throughput",
            figure=f"{summary.throughput:,.1f} rows/s",
            about=f"{summary.answered:,} rows answered in {_span(summary.elapsed)}",
        ),
        Card(
            name="Time to an answer",
            figure=_quantile(stats.latencies, 0.5),
            about=f"median of attempts that were answered; 99th percentile {_quantile(stats.latencies, 0.99)}",
        ),
        Card(
            name="Retries",
            figure=f"{summary.retries:,}",
            about=f"of {summary.attempts:,} attempts; {billed:,} without an answer may have been billed",
        ),
        Card(
            name="Tokens",
            figure=f"{summary.input_tokens + summary.output_tokens:,}",
            about=f"{summary.input_tokens:,} of prompts and {summary.output_tokens:,} of answers",
        ),
        Card(
            name="Circuits and pauses",
            figure=f"{summary.circuits_opened:,} / {summary.cooldowns:,}",
            about="circuits opened, and pauses that the provider requested",
        ),
    ]


def _seconds(stats: RunStats) -> Section:
    shares = {"median": 0.5, "90th percentile": 0.9, "99th percentile": 0.99, "99.9th": 0.999}
    rows = [
        [name, *(_quantile(histogram, share) for share in shares.values())]
        for name, histogram in (
            ("from sending an attempt to its answer", stats.latencies),
            ("waits of a row, before and between attempts", stats.waits),
        )
    ]
    return Section(
        title="Seconds",
        lead="Accurate to 5 %: times are counted in classes, so memory does not grow with the rows.",
        table=Table(heads=["", *shares], rows=rows),
    )


def _retries(summary: Summary, stats: RunStats) -> Section | None:
    if not summary.retries:
        return None
    reasons = {
        verdict.replace("_", " "): count for verdict, count in stats.retry_reasons.most_common()
    }
    later = summary.retries - sum(reasons.values())
    if later > 0:
        reasons["sent again in a later round"] = later
    most = max(reasons.values(), default=1)
    bars = [
        Bar(name=name, share=count / most, figure=f"{count:,}") for name, count in reasons.items()
    ]
    return Section(
        title="Retries, by reason",
        lead="The verdict of the last attempt. A row is sent again in a later round if its call got no retry: the retry"
        " budget was empty, or the pause was too long.",
        bars=bars,
    )


def _failed_attempts(stats: RunStats) -> Section | None:
    if not stats.failures:
        return None
    rows = [
        [
            kind.verdict.replace("_", " "),
            "" if kind.status is None else str(kind.status),
            "" if kind.code is None else shown(kind.code),
            f"{count:,}",
        ]
        for kind, count in stats.failures.most_common()
    ]
    return Section(
        title="Responses that were not answers",
        table=Table(
            heads=["verdict", "status", "the provider's code", "attempts"], rows=rows, texts=(2,)
        ),
    )


def _targets(stats: RunStats) -> Section | None:
    if len(stats.targets) < 2:
        return None
    rows = [[shown(name, 80), f"{count:,}"] for name, count in stats.targets.most_common()]
    return Section(
        title="Where attempts went", table=Table(heads=["target", "attempts"], rows=rows)
    )


def _failures(summary: Summary) -> Section | None:
    failed = BatchPaths.of(Path(summary.output)).failed
    failures = list(islice(summary.failures(), FAILURES)) if summary.failed else []
    if not failures:
        return None
    rows: Sequence[Sequence[str]] = [
        [
            shown(each.custom_id),
            shown(each.verdict.replace("_", " ")),
            shown(each.message, _LONG),
            f"{each.attempts:,}",
        ]
        for each in failures
    ]
    return Section(
        title="Rows that failed",
        lead=f"{len(rows):,} of {summary.failed:,}; {shown(failed.name)} has all of them.",
        table=Table(heads=["custom_id", "verdict", "why", "attempts"], rows=rows, texts=(1, 2)),
    )


def _quantile(histogram: Histogram, share: float) -> str:
    seconds = histogram.quantile(share)
    if seconds is None:
        return "none"
    if seconds < 1:
        return f"{1000 * seconds:,.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else _span(seconds)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


_COST_HEADS = (
    "model", "answers", "tokens in", "tokens out", "useful, USD", "wasted, USD", "in all, USD",
)  # fmt: skip
_UNKNOWN_COST = "not known"


def _cost(cost: BatchCost | None) -> Section:
    """Make the section of the cost of all runs on one OUTPUT, by model. None: unknown."""
    if cost is None or not cost.models:
        return Section(
            title="Cost",
            lead="Unknown: no answer has a usage, or there is no price list (pip install 'stormbreak[cost]').",
        )
    lead = (
        "All runs on this file, at list prices or the given ones. The cost of an attempt without an answer is"
        " a range: only the provider knows it."
    )
    return Section(
        title="Cost",
        lead=" ".join([lead, *(shown(note, 200) for note in cost.notes)]),
        table=Table(heads=_COST_HEADS, rows=[_cost_row(each) for each in cost.models]),
    )


def _cost_row(each: ModelCost) -> list[str]:
    return [
        shown(each.model),
        f"{each.answers:,}",
        f"{each.tokens.input:,.0f}",
        f"{each.tokens.output:,.0f}",
        _UNKNOWN_COST if each.useful is None else USD.shown(each.useful),
        _usd(each.wasted),
        _usd(each.in_all),
    ]


def _usd(span: Span | None) -> str:
    if span is None:
        return _UNKNOWN_COST
    return between(USD.shown(span.min_usd), USD.shown(span.max_usd))
