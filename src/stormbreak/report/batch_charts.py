"""The course of a batch, as charts over time."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from math import isnan, nan
from typing import NamedTuple

from stormbreak.batch.running.stats import RunStats, Slice
from stormbreak.report.chart import Line, Panel, clock_for
from stormbreak.types import Verdict

_MOST = frozenset({"open_circuits", "cooling"})  # of which a slice keeps the most, not the sum
_KINDS = 4  # of outcomes that are drawn one by one, besides answers


class BatchChart(NamedTuple):
    """A panel under a heading."""

    title: str
    panel: Panel


def charts_of(course: RunStats) -> list[BatchChart]:
    """All of them, in the order in which they are shown; what never happened is left out."""
    charts = [
        _chart(course, "Rows", "rows per second", _rows(course)),
        _chart(course, "What came back", "attempts per second", _outcomes(course)),
        _chart(course, "Seconds to an answer", "seconds", _latencies(course)),
        _chart(course, "In flight, against the limit", "attempts", _in_flight(course)),
    ]
    waiting, open_circuits, cooling = (
        _standing(course, name) for name in ("waiting", "open_circuits", "cooling")
    )
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


def _chart(course: RunStats, title: str, unit: str, lines: Sequence[Line]) -> BatchChart:
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
            whole=unit == "targets",
            lines=lines if middles else [],
        ),
    )


def _rows(course: RunStats) -> list[Line]:
    lines = [Line(name="answered", ys=list(_rates(course, "done")), stroke=0)]
    failed = list(_rates(course, "failed"))
    if any(value > 0 for value in failed):
        lines.append(Line(name="failed", ys=failed, stroke=1))
    return lines


def _rates(course: RunStats, total: str) -> Iterator[float]:
    """How fast a total grew in each slice. Where nobody looked, it is as fast as until the next look."""
    before, unseen = course.first, 0
    for each in course.slices:
        unseen += 1
        if each.last is None or before is None or each.last.at <= before.at:
            continue
        grown = getattr(each.last, total) - getattr(before, total)
        yield from repeat(grown / (each.last.at - before.at), unseen)
        before, unseen = each.last, 0
    yield from repeat(nan, unseen)


def _outcomes(course: RunStats) -> list[Line]:
    seen = sum((each.verdicts for each in course.slices), start=type(course.retry_reasons)())
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


def _latencies(course: RunStats) -> list[Line]:
    return [
        Line(
            name=name,
            ys=[_known(each.latencies.quantile(share)) for each in course.slices],
            stroke=stroke,
        )
        for stroke, (name, share) in enumerate((("p50", 0.5), ("p90", 0.9), ("p99", 0.99)))
    ]


def _in_flight(course: RunStats) -> list[Line]:
    return [
        Line(name="the limit", ys=_standing(course, "limit")),
        Line(name="in flight", ys=_standing(course, "in_flight"), stroke=0),
    ]


def _tokens(course: RunStats) -> list[Line]:
    return [
        Line(name=name, ys=_so_far(course, total), stroke=stroke)
        for stroke, (name, total) in enumerate(
            (("prompts", "input_tokens"), ("answers", "output_tokens"))
        )
    ]


def _so_far(course: RunStats, total: str) -> list[float]:
    """Thousands of a total at the end of each slice."""
    sights = [each.last for each in course.slices]
    return _held(nan if sight is None else getattr(sight, total) / 1000 for sight in sights)


def _standing(course: RunStats, name: str) -> list[float]:
    """How things stood in each slice: the mean of what was seen, or the most where that was kept."""
    return _held(_seen(each, name) for each in course.slices)


def _seen(each: Slice, name: str) -> float:
    if not each.samples:
        return nan
    value: int = getattr(each, name)
    return value if name in _MOST else value / each.samples


def _held(values: Iterable[float]) -> list[float]:
    """Where nobody looked, all is as it was."""
    held: list[float] = []
    for value in values:
        held.append(held[-1] if isnan(value) and held else value)
    return held


def _known(value: float | None) -> float:
    return nan if value is None else value
