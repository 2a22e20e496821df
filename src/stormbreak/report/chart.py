"""The data of a chart: lines over time or over another quantity."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

POINTS = 120  # maximum points of a line: with more, dashes look alike
_CLIPPED_AT = 1.5  # times the highest number of the lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values at the points of a panel; NaN if there is none.

    `stroke` is an index in `theme.STROKES`; None is the backdrop. `low` and `high` are the minimum and maximum of
    several runs.
    """

    name: str
    ys: Sequence[float]
    stroke: int | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    @property
    def drawn(self) -> bool:
        return not all(map(isnan, self.ys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines over `xs`, with an optional shaded span.

    `about` is the text alternative. With `whole` the y axis has whole numbers only. With `clipped` the backdrop may
    exceed the top.
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
        """The upper end of the y axis."""
        lines = [line for line in self.lines if not (self.clipped and line.stroke is None)]
        heights = [y for line in lines for y in (*line.ys, *(line.high or ())) if not isnan(y)]
        return max(heights, default=0.0) * (_CLIPPED_AT if self.clipped else 1.0)

    @property
    def bottom(self) -> float:
        """The lower end of the y axis: the lowest negative value, or 0."""
        return min((y for line in self.lines for y in line.ys if y < 0), default=0.0)


@dataclass(frozen=True, slots=True)
class Clock:
    """The unit of a time axis."""

    unit: str
    seconds: float

    def label(self, since: str) -> str:
        return f"{self.unit} since {since}"


def clock_for(span: float) -> Clock:
    """Choose the unit for a time span in seconds."""
    if span < 600:
        return Clock("seconds", 1.0)
    return Clock("minutes", 60.0) if span < 4 * 3600 else Clock("hours", 3600.0)


def stride(count: int) -> int:
    """Return how many of `count` values to merge into one, for at most `POINTS`: 1, 2, 5, 10, 20, 50, ..."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if count <= step * POINTS:
                return step
        scale *= 10


def means(values: Sequence[float], step: int) -> list[float]:
    return [mean(values[start : start + step]) for start in range(0, len(values), step)]


def mean(values: Sequence[float]) -> float:
    known = [value for value in values if not isnan(value)]
    return sum(known) / len(known) if known else nan
