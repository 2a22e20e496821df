"""The course of a batch, as charts over time."""

from collections.abc import Iterator, Sequence
from math import nan
from typing import NamedTuple

from stormbreak.batch.course import Course, Slice
from stormbreak.report.panel import Line, Panel, clock_for
from stormbreak.types import Verdict

_KINDS = 4  # of outcomes that are drawn one by one, besides answers


class BatchChart(NamedTuple):
    """A panel under a heading."""

    title: str
    panel: Panel


def charts_of(course: Course) -> list[BatchChart]:
    """All of them, in the order in which they are shown; what never happened is left out."""
    charts = [
        _chart(course, "Rows", "rows per second", _rows(course)),
        _chart(course, "What came back", "attempts per second", _outcomes(course)),
        _chart(course, "Seconds to an answer", "seconds", _latencies(course)),
        _chart(course, "In flight, against the limit", "attempts", _in_flight(course)),
    ]
    waiting = [_mean(each, each.waiting) for each in course.slices]
    open_circuits = _or_nan(course, "open_circuits")
    cooling = _or_nan(course, "cooling")
    if any(value > 0 for value in waiting):
        lines = [Line(name="rows that wait", ys=waiting, stroke=0)]
        charts.append(_chart(course, "Waiting to leave, or to come back", "rows", lines))
    if any(value > 0 for value in (*open_circuits, *cooling)):
        lines = [
            Line(name="circuits that are not closed", ys=open_circuits, stroke=1),
            Line(name="targets that asked for a pause", ys=cooling, stroke=0),
        ]
        charts.append(_chart(course, "Circuits and pauses", "targets", lines))
    charts.append(_chart(course, "Tokens so far", "thousands of tokens", _tokens(course)))
    return charts


def _chart(course: Course, title: str, unit: str, lines: Sequence[Line]) -> BatchChart:
    span = course.width * max(1, len(course.slices))
    clock = clock_for(span)
    middles = [(start + end) / 2 / clock.seconds for start, end, _ in course.times()]
    told = ", ".join(line.name for line in lines)
    return BatchChart(
        title,
        Panel(
            about=f"{title}, in {unit}: {told}.",
            x_label=clock.label("the run began"),
            y_label=unit,
            xs=middles or [0.0],
            lines=lines if middles else [],
        ),
    )


def _rows(course: Course) -> list[Line]:
    lines = [Line(name="answered", ys=list(_rates(course, "answered")), stroke=0)]
    failed = list(_rates(course, "failed"))
    if any(value > 0 for value in failed):
        lines.append(Line(name="failed", ys=failed, stroke=1))
    return lines


def _rates(course: Course, total: str) -> Iterator[float]:
    """How fast a total grew in each slice; NaN where nobody looked."""
    before = course.first
    for each in course.slices:
        if each.last is None or before is None or each.last.at <= before.at:
            yield nan
            continue
        grown = getattr(each.last, total) - getattr(before, total)
        yield grown / (each.last.at - before.at)
        before = each.last


def _outcomes(course: Course) -> list[Line]:
    seen = sum((each.verdicts for each in course.slices), start=type(course.retries)())
    good = Verdict.OK.value
    kinds = [kind for kind, _ in seen.most_common() if kind != good]
    names = [good, *kinds[:_KINDS]]
    lines = [
        Line(
            name="answers" if name == good else name.replace("_", " "),
            ys=[each.verdicts[name] / course.width for each in course.slices],
            stroke=place,
        )
        for place, name in enumerate(names)
    ]
    rest = kinds[_KINDS:]
    if rest:
        ys = [sum(each.verdicts[kind] for kind in rest) / course.width for each in course.slices]
        lines.append(Line(name="all others", ys=ys, stroke=len(names)))
    return lines


def _latencies(course: Course) -> list[Line]:
    return [
        Line(
            name=name,
            ys=[_known(each.latencies.quantile(share)) for each in course.slices],
            stroke=stroke,
        )
        for stroke, (name, share) in enumerate((("p50", 0.5), ("p90", 0.9), ("p99", 0.99)))
    ]


def _in_flight(course: Course) -> list[Line]:
    return [
        Line(name="the limit", ys=[_mean(each, each.limit) for each in course.slices]),
        Line(
            name="in flight", ys=[_mean(each, each.in_flight) for each in course.slices], stroke=0
        ),
    ]


def _tokens(course: Course) -> list[Line]:
    sights = [each.last for each in course.slices]
    return [
        Line(
            name=name,
            ys=[nan if sight is None else getattr(sight, field) / 1000 for sight in sights],
            stroke=stroke,
        )
        for stroke, (name, field) in enumerate(
            (("prompts", "input_tokens"), ("answers", "output_tokens"))
        )
    ]


def _mean(each: Slice, total: int) -> float:
    return total / each.sights if each.sights else nan


def _or_nan(course: Course, name: str) -> list[float]:
    return [float(getattr(each, name)) if each.sights else nan for each in course.slices]


def _known(value: float | None) -> float:
    return nan if value is None else value
