"""Charts of a batch over time."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from math import isnan, nan

from stormbreak.batch.running.stats import RunStats, Slice
from stormbreak.report.chart import Line, Panel, clock_for
from stormbreak.report.page import Chart
from stormbreak.types import Verdict

_MAXIMA = frozenset({"open_circuits", "cooling"})  # a slice has their maximum, not their sum
_KINDS = 4  # verdicts with their own line, besides answers


def charts_of(stats: RunStats) -> list[Chart]:
    """Make all charts in order, without charts of events that never happened."""
    charts = [
        _chart(stats, "Rows", "rows per second", _rows(stats)),
        _chart(stats, "Outcomes", "attempts per second", _outcomes(stats)),
        _chart(stats, "Seconds to an answer", "seconds", _latencies(stats)),
        _chart(stats, "In flight, against the limit", "attempts", _in_flight(stats)),
    ]
    waiting, open_circuits, cooling = (
        _levels(stats, name) for name in ("waiting", "open_circuits", "cooling")
    )
    if any(value > 0 for value in waiting):
        lines = [Line(name="rows that wait", ys=waiting, stroke=0)]
        charts.append(_chart(stats, "Waiting to be sent, or to be retried", "rows", lines))
    if any(value > 0 for value in (*open_circuits, *cooling)):
        lines = [
            Line(name="circuits that are not closed", ys=open_circuits, stroke=1),
            Line(name="targets that asked for a pause", ys=cooling, stroke=0),
        ]
        charts.append(_chart(stats, "Circuits and pauses", "targets", lines))
    charts.append(_chart(stats, "Tokens so far", "thousands of tokens", _tokens(stats)))
    return charts


def _chart(stats: RunStats, title: str, unit: str, lines: Sequence[Line]) -> Chart:
    span = stats.width * max(1, len(stats.slices))
    clock = clock_for(span)
    middles = [(start + end) / 2 / clock.seconds for start, end, _ in stats.times()]
    names = ", ".join(line.name for line in lines)
    return Chart.with_legend(
        title,
        Panel(
            about=f"{title}, in {unit}: {names}.",
            x_label=clock.label("the run began"),
            y_label=unit,
            xs=middles or [0.0],
            whole=unit == "targets",
            lines=lines if middles else [],
        ),
    )


def _rows(stats: RunStats) -> list[Line]:
    lines = [Line(name="answered", ys=list(_rates(stats, "done")), stroke=0)]
    failed = list(_rates(stats, "failed"))
    if any(value > 0 for value in failed):
        lines.append(Line(name="failed", ys=failed, stroke=1))
    return lines


def _rates(stats: RunStats, total: str) -> Iterator[float]:
    """Return the growth of a total per second in each slice. Slices without a snapshot have the rate until the next one."""
    before, pending = stats.first, 0
    for each in stats.slices:
        pending += 1
        if each.last is None or before is None or each.last.at <= before.at:
            continue
        grown = getattr(each.last, total) - getattr(before, total)
        yield from repeat(grown / (each.last.at - before.at), pending)
        before, pending = each.last, 0
    yield from repeat(nan, pending)


def _outcomes(stats: RunStats) -> list[Line]:
    seen = sum((each.verdicts for each in stats.slices), start=type(stats.retry_reasons)())
    good = Verdict.OK.value
    kinds = [kind for kind, _ in seen.most_common() if kind != good]
    names = [good, *kinds[:_KINDS]]
    lines = [
        Line(
            name="answers" if name == good else name.replace("_", " "),
            ys=[each.verdicts[name] / stats.width for each in stats.slices],
            stroke=place,
        )
        for place, name in enumerate(names)
    ]
    rest = kinds[_KINDS:]
    if rest:
        ys = [sum(each.verdicts[kind] for kind in rest) / stats.width for each in stats.slices]
        lines.append(Line(name="all others", ys=ys, stroke=len(names)))
    return lines


def _latencies(stats: RunStats) -> list[Line]:
    return [
        Line(
            name=name,
            ys=[_or_nan(each.latencies.quantile(share)) for each in stats.slices],
            stroke=stroke,
        )
        for stroke, (name, share) in enumerate((("p50", 0.5), ("p90", 0.9), ("p99", 0.99)))
    ]


def _in_flight(stats: RunStats) -> list[Line]:
    return [
        Line(name="the limit", ys=_levels(stats, "limit")),
        Line(name="in flight", ys=_levels(stats, "in_flight"), stroke=0),
    ]


def _tokens(stats: RunStats) -> list[Line]:
    return [
        Line(name=name, ys=_totals(stats, total), stroke=stroke)
        for stroke, (name, total) in enumerate(
            (("prompts", "input_tokens"), ("answers", "output_tokens"))
        )
    ]


def _totals(stats: RunStats, total: str) -> list[float]:
    """Return thousands of a total at the end of each slice."""
    last = [each.last for each in stats.slices]
    return _filled(nan if each is None else getattr(each, total) / 1000 for each in last)


def _levels(stats: RunStats, name: str) -> list[float]:
    """Return the mean of the snapshots in each slice, or their maximum."""
    return _filled(_level(each, name) for each in stats.slices)


def _level(each: Slice, name: str) -> float:
    if not each.samples:
        return nan
    value: int = getattr(each, name)
    return value if name in _MAXIMA else value / each.samples


def _filled(values: Iterable[float]) -> list[float]:
    filled: list[float] = []
    for value in values:
        filled.append(filled[-1] if isnan(value) and filled else value)
    return filled


def _or_nan(value: float | None) -> float:
    return nan if value is None else value
