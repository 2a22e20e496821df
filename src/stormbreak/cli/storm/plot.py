"""Draw a simulation second by second, as text: answers above, requests below.

Each line has its own mark, which the title explains, so that it works without colours. For a long simulation it shows
the trigger and the time after it; a column of several seconds shows their mean.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import ceil, floor, log10
from statistics import fmean
from textwrap import wrap
from typing import Any, NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.escape import plain
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.result import Result

NARROWEST = 40  # columns
_MARGIN = 9  # columns next to the canvas
_HEIGHTS = (14, 11)  # lines
_BEFORE, _AFTER = 0.5, 3.0  # the time shown before and after the trigger, in lengths of the trigger
_TICK = 10  # minimum columns from one to the next
_TICKS = 4  # maximum steps


class _Line(NamedTuple):
    """One number per second, and the mark to draw it with."""

    mark: str
    values: Sequence[float]


class _View(NamedTuple):
    """The seconds to show, and how many of them share a column."""

    start: int
    end: int
    step: int

    def points(self, line: _Line) -> tuple[list[float], list[float]]:
        places = range(self.start, self.end, self.step)
        parts = [line.values[place : min(place + self.step, self.end)] for place in places]
        return [place + (self.step - 1) / 2 for place in places], [fmean(part) for part in parts]


def picture(
    scenario: Scenario, results: Sequence[Result], *, width: int, colour: bool = False
) -> str:
    """Draw the runs of one policy, the mean of all seeds, `width` columns wide.

    Raises ConfigurationError if plotext cannot be used here.
    """
    plotext = _plotext()
    figure = plotext.figure
    width = max(width, NARROWEST)
    lines = {
        name: _mean([getattr(one.series, name) for one in results])
        for name in ("calls", "attempts", "answers", "ideal")
    }
    view = _view(scenario, len(lines["calls"]), width - _MARGIN)
    figure.clear()
    figure.subplots(2, 1)
    figure.plot_size(width, sum(_HEIGHTS))
    above, below = figure.subplot(1, 1), figure.subplot(2, 1)
    for plot, height in zip((above, below), _HEIGHTS, strict=True):
        plot.theme("simple")
        plot.canvas("default")
        plot.plot_size(width, height)
    above.title("answers per second: o in time, - what was possible")
    _draw(above, scenario, [_Line("-", lines["ideal"]), _Line("o", lines["answers"])], view)
    below.title("sent per second: x attempts, . calls")
    _draw(below, scenario, [_Line("x", lines["attempts"]), _Line(".", lines["calls"])], view)
    drawn = str(figure.build().string(colorless=not colour)).splitlines()
    title = f"{plain(results[0].policy)}: {_below(scenario, view, len(lines['calls']))}"
    drawn += [line.center(width) for line in wrap(title, width)]
    return "\n".join(line.rstrip() for line in drawn)


def _plotext() -> Any:
    """Import plotext, with any size allowed."""
    try:
        import plotext  # type: ignore[import-untyped]  # noqa: PLC0415 - a quarter of a second
    except (ImportError, OSError) as error:
        raise ConfigurationError(f"--plot: plotext cannot be used here: {error}") from None
    plotext.terminal.limit(width=False, height=False)
    return plotext


def _mean(several: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip_longest(*several, fillvalue=0)]


def _view(scenario: Scenario, length: int, columns: int) -> _View:
    start, end = 0, length
    if trigger := _trigger(scenario):
        at, until = trigger[0], trigger[-1]
        start = max(0, floor(at - _BEFORE * (until - at)))
        end = min(length, ceil(until + _AFTER * (until - at)))
        if start >= end:
            start, end = 0, length
    return _View(start, end, max(1, ceil((end - start) / columns)))


def _trigger(scenario: Scenario) -> tuple[float, ...]:
    load = scenario.load
    if load is None or load.trigger_until is None:
        return ()
    return (load.trigger_at or 0.0, load.trigger_until)


def _draw(plot: Any, scenario: Scenario, lines: Sequence[_Line], view: _View) -> None:
    """The trigger in the background, then the lines in order."""
    points = [view.points(line) for line in lines]
    top = max(max(values) for _, values in points) or 1.0
    for at in _trigger(scenario):
        plot.draw(plot.segment((at, at), (0, top), marker="│"))
    for line, (times, values) in zip(lines, points, strict=True):
        plot.draw(plot.signal(times, values, marker=line.mark).lines(True))
    ticks = _ticks(0, top, _TICKS)
    plot.ruler("y").lim(0, top)
    plot.ruler("y").ticks(ticks, [f"{at:,g}" for at in ticks])
    ticks = _ticks(view.start, view.end - 1, plot.size()[0] // _TICK)
    plot.ruler("x").lim(view.start, max(view.end - 1, view.start + 1))
    plot.ruler("x").ticks(ticks, [f"{at:,g}" for at in ticks])


def _ticks(low: float, high: float, max_steps: int) -> list[float]:
    """Return round numbers from `low` to `high`, in at most `max_steps` steps of 1, 2, 5, 10, 20 and so on."""
    span = high - low or 1.0
    step = next(step for step in _steps(span) if span / step <= max(2, max_steps))
    return [step * number for number in range(ceil(low / step), floor(high / step) + 1)]


def _steps(span: float) -> Iterator[float]:
    """Yield step sizes, starting far below `span`."""
    power = 10.0 ** floor(log10(span) - 1)
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _below(scenario: Scenario, view: _View, length: int) -> str:
    parts = [f"seconds, of {length:,}"]
    if trigger := _trigger(scenario):
        parts.append(f"the trigger between the lines, {trigger[0]:g} to {trigger[1]:g}")
    if view.step > 1:
        parts.append(f"means of {view.step} s")
    return "; ".join(parts)
