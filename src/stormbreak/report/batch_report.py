"""The report of a batch run: what came of the rows, how it went over time, and what went wrong."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from stormbreak.batch.running.runner import End
from stormbreak.batch.running.stats import Histogram, RunStats
from stormbreak.batch.running.summary import Summary
from stormbreak.batch.store.cost import BatchCost
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.escape import shown
from stormbreak.report.batch_charts import charts_of
from stormbreak.report.batch_cost import cost_section
from stormbreak.report.drawing import drawing_of
from stormbreak.report.page import Bar, Card, Chart, Page, Section, Table, keys_of
from stormbreak.report.picture import Picture, Tile

FAILURES = 20
"""Failed rows that are shown; all of them stand in the failed file."""

_LONG = 300  # characters of a message

_ENDS = {
    End.FINISHED.value: "",
    End.REFUSED.value: " The run stopped early: rows failed in a row for the same reason, which no row is to blame for.",
    End.SPENT.value: " The run stopped early: too little was left of its limit of spending.",
    End.UNREACHABLE.value: " The run stopped early: nothing answered there.",
    End.INTERRUPTED.value: " The run was interrupted; the same command goes on from there.",
}


def batch_page(summary: Summary, course: RunStats, cost: BatchCost | None = None) -> Page:
    """Make the page of a run that has ended; `cost` is what all runs on its OUTPUT cost, where that is known."""
    went: list[Section | None] = []
    if summary.attempts:
        went = [Section(title="Over time", charts=_charts(course)), _seconds(course)]
    sections = [
        Section(title="In figures", cards=_cards(summary, course)),
        *went,
        _retries(summary, course),
        _trouble(course),
        _targets(course),
        _failures(summary),
        cost_section(cost),
    ]
    return Page(
        kind="a batch run",
        title=shown(Path(summary.input).name),
        about="",
        verdict=_verdict(summary),
        facts=_facts(summary),
        sections=[section for section in sections if section is not None],
    )


def batch_picture(summary: Summary, course: RunStats) -> Picture:
    """Make the picture: the charts, and the figures above them."""
    tiles = [
        Tile(title=title, panel=panel, keys=keys_of(panel.lines))
        for title, panel in (charts_of(course) if summary.attempts else ())
    ]
    return Picture(
        title=f"{shown(Path(summary.input).name)} at {shown(summary.base_url, 80)}",
        verdict=_verdict(summary),
        tiles=tiles,
        keys=(),
        cards=_cards(summary, course)[:4],
    )


def _verdict(summary: Summary) -> str:
    said = (
        f"{summary.successful:,} of {summary.total:,} rows are answered"
        f"{f', {summary.failed:,} failed' if summary.failed else ''}"
        f"{f', {summary.left:,} are left' if summary.left else ''}."
    )
    if summary.attempts:
        said += (
            f" This run took {_span(summary.elapsed)} for {summary.answered:,} of them,"
            f" {summary.throughput:,.1f} a second."
        )
    else:
        said += " This run sent nothing."
    return said + _ENDS[summary.end]


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


def _cards(summary: Summary, course: RunStats) -> list[Card]:
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
            figure=_quantile(course.latencies, 0.5),
            about=f"median of attempts that were answered; 99th percentile {_quantile(course.latencies, 0.99)}",
        ),
        Card(
            name="Retries",
            figure=f"{summary.retries:,}",
            about=f"of {summary.attempts:,} attempts; {billed:,} may have been billed besides the answers",
        ),
        Card(
            name="Tokens",
            figure=f"{summary.input_tokens + summary.output_tokens:,}",
            about=f"{summary.input_tokens:,} of prompts and {summary.output_tokens:,} of answers",
        ),
        Card(
            name="Circuits and pauses",
            figure=f"{summary.circuits_opened:,} / {summary.cooldowns:,}",
            about="openings of circuits, and pauses that the provider asked for",
        ),
    ]


def _charts(course: RunStats) -> list[Chart]:
    return [
        Chart(title=title, drawing=drawing_of(panel, salt=title), keys=keys_of(panel.lines))
        for title, panel in charts_of(course)
    ]


def _seconds(course: RunStats) -> Section:
    shares = {"median": 0.5, "90th percentile": 0.9, "99th percentile": 0.99, "99.9th": 0.999}
    rows = [
        [name, *(_quantile(histogram, share) for share in shares.values())]
        for name, histogram in (
            ("from sending an attempt to its answer", course.latencies),
            ("waits of a row, before and between attempts", course.waits),
        )
    ]
    return Section(
        title="Seconds",
        lead="Right to within 5 %: times are counted in classes, so that any number of rows takes the same memory.",
        table=Table(heads=["", *shares], rows=rows),
    )


def _retries(summary: Summary, course: RunStats) -> Section | None:
    if not summary.retries:
        return None
    reasons = {
        verdict.replace("_", " "): count for verdict, count in course.retry_reasons.most_common()
    }
    later = summary.retries - sum(reasons.values())
    if later > 0:
        reasons["came back in a later round"] = later
    most = max(reasons.values(), default=1)
    bars = [
        Bar(name=name, share=count / most, figure=f"{count:,}") for name, count in reasons.items()
    ]
    return Section(
        title="Retries, by reason",
        lead="What the attempt before had come to. A row comes back in a later round where its call was not allowed a"
        " further attempt: the budget for retries was used up, or the pause was too long to wait in.",
        bars=bars,
    )


def _trouble(course: RunStats) -> Section | None:
    if not course.failures:
        return None
    rows = [
        [
            told.verdict.replace("_", " "),
            "" if told.status is None else str(told.status),
            "" if told.code is None else shown(told.code),
            f"{count:,}",
        ]
        for told, count in course.failures.most_common()
    ]
    return Section(
        title="What came back in place of answers",
        table=Table(
            heads=["verdict", "status", "the provider's code", "attempts"], rows=rows, texts=(2,)
        ),
    )


def _targets(course: RunStats) -> Section | None:
    if len(course.targets) < 2:
        return None
    rows = [[shown(name, 80), f"{count:,}"] for name, count in course.targets.most_common()]
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
        lead=f"{len(rows):,} of {summary.failed:,}; all of them stand in {shown(failed.name)}.",
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
