"""What a chart shows, before anybody draws it: numbers over time, or over something else."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

POINTS = 120
"""Points of a line, at the most: with more, dashes cannot be told apart any more."""

_CLIPPED_AT = 1.5  # times the highest number of the lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Numbers at the points of a panel; NaN where there is none.

    `stroke` is a place in `theme.STROKES`; None is the backdrop that others are held against. `low` and `high` are
    the least and the most of several runs.
    """

    name: str
    ys: Sequence[float]
    stroke: int | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    @property
    def drawn(self) -> bool:
        """Whether there is anything to see."""
        return not all(map(isnan, self.ys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: lines over `xs`, with a span that is shaded.

    `about` tells it in words to those who cannot see it; with `whole`, there are whole numbers at the y axis only.
    """

    about: str
    x_label: str
    y_label: str
    xs: Sequence[float]
    lines: Sequence[Line]
    shaded: tuple[float, float] | None = None
    shaded_as: str = ""
    whole: bool = False
    clipped: bool = False

    @property
    def top(self) -> float:
        """The highest number in it; of a `clipped` one, that of its lines, and the backdrop may go beyond."""
        lines = [line for line in self.lines if not (self.clipped and line.stroke is None)]
        heights = [y for line in lines for y in (*line.ys, *(line.high or ())) if not isnan(y)]
        return max(heights, default=0.0) * (_CLIPPED_AT if self.clipped else 1.0)

    @property
    def bottom(self) -> float:
        """The lowest number of its lines, where that is below nothing."""
        return min((y for line in self.lines for y in line.ys if y < 0), default=0.0)


@dataclass(frozen=True, slots=True)
class Clock:
    """In which unit a span of time is told."""

    unit: str
    seconds: float

    def label(self, since: str) -> str:
        """Name the axis."""
        return f"{self.unit} since {since}"


def clock_for(span: float) -> Clock:
    """Choose the unit that a span of so many seconds is best read in."""
    if span < 600:
        return Clock("seconds", 1.0)
    return Clock("minutes", 60.0) if span < 4 * 3600 else Clock("hours", 3600.0)


def stride(count: int) -> int:
    """How many of `count` numbers become one, so that no more than `POINTS` are left: 1, 2, 5, 10, 20, 50, ..."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if count <= step * POINTS:
                return step
        scale *= 10


def means(values: Sequence[float], step: int) -> list[float]:
    """The mean of every `step` numbers."""
    return [mean(values[start : start + step]) for start in range(0, len(values), step)]


def mean(values: Sequence[float]) -> float:
    """The mean of those that are none NaN; NaN where there is none."""
    known = [value for value in values if not isnan(value)]
    return sum(known) / len(known) if known else nan
