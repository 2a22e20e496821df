"""The pictures of docs/background/published.md: lines are our engine, open marks the published model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from published import contention, retries
from published.bare_collapse import LOADS, SPIKE, Second
from published.means import Mean
from published.study import RATES, Courses, Sides, Study

WIDE = 9.0  # inches
DOTS = 110  # per inch


class Look(NamedTuple):
    """How a curve looks: a colour of Okabe and Ito, which the colour-blind can tell apart, and more than a colour."""

    colour: str
    marker: str
    line: Any


_LOOKS = (
    Look("#000000", "o", "-"),
    Look("#D55E00", "s", "--"),
    Look("#0072B2", "^", "-."),
    Look("#009E73", "D", ":"),
    Look("#CC79A7", "v", (0, (5, 1, 1, 1, 1, 1))),
    Look("#E69F00", "P", (0, (1, 1))),
)


def draw(study: Study, folder: Path) -> None:
    """Draw all of them into `folder`."""
    folder.mkdir(exist_ok=True)
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for name, figure in (
        ("contention", _contention(study.contention)),
        ("retries", _retries(study.retries)),
        ("collapse", _collapse(study.collapse)),
    ):
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DOTS)
        _shrink(path)


def _shrink(path: Path) -> None:
    """64 colours are enough for lines, and take a third of the bytes."""
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(64)
    few.save(path, optimize=True)


def _contention(cases: Mapping[tuple[str, int], Sides]) -> Figure:
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for look, name in zip(_LOOKS, contention.STRATEGIES, strict=False):
        sides = [cases[name, clients] for clients in contention.CLIENTS]
        for axes, place in ((left, 0), (right, 1)):
            _curve(axes, contention.CLIENTS, [side.ours[place] for side in sides], look, name)
            bare = [side.bare[place] for side in sides if side.bare]
            _watcher(axes, contention.CLIENTS, bare, look)
    for axes, title, unit in (
        (left, "Calls", "writes until everybody is done"),
        (right, "Landing time", "time until everybody is done (ms)"),
    ):
        axes.set(xscale="log", yscale="log", title=title, ylabel=unit)
        axes.set_xlabel("clients that change the same row")
        axes.set_xticks(contention.CLIENTS, [str(clients) for clients in contention.CLIENTS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    _legend(left, "backoff", contention.STRATEGIES)
    return figure


def _retries(cases: Mapping[tuple[str, float], Sides]) -> Figure:
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = (*retries.STRATEGIES, retries.DEFAULT)
    percent = [100 * rate for rate in RATES]
    for look, name in zip(_LOOKS, names, strict=False):
        sides = [cases[name, rate] for rate in RATES]
        for axes, place in ((left, 0), (right, 1)):
            _curve(axes, percent, [side.ours[place] for side in sides], look, name)
            bare = [side.bare[place] for side in sides if side.bare]
            _watcher(axes, percent[: len(bare)], bare, look)
    for axes, title, unit in (
        (left, "What clients see", "calls that succeed (%)"),
        (right, "What the service sees", "load (% of the load without retries)"),
    ):
        axes.set(title=title, xlabel="requests that the service fails (%)", ylabel=unit)
        axes.grid(alpha=0.3)
    _legend(left, "strategy", names)
    return figure


def _collapse(cases: Mapping[tuple[str, str], Courses]) -> Figure:
    policies = list(dict.fromkeys(policy for _, policy in cases))
    figure = Figure(figsize=(WIDE, 2.1 * len(policies)), layout="constrained")
    grid = figure.subplots(len(policies), len(LOADS), sharex=True, sharey="row", squeeze=False)
    for row, policy in zip(grid, policies, strict=True):
        for axes, load in zip(row, LOADS, strict=True):
            courses = cases[load, policy]
            for look, name in zip(_LOOKS, Second._fields, strict=False):
                _function_call(axes, courses, name, look)
            if load == "spike":
                axes.axvspan(*SPIKE, color="0.85", zorder=0)
            axes.set_title(f"{load}: {policy}", fontsize=9)
            axes.grid(alpha=0.3)
        row[0].set_ylabel("per second")
    for axes in grid[-1]:
        axes.set_xlabel("simulated time (s)")
    _legend(grid[0][0], "", Second._fields)
    return figure


def _function_call(axes: Axes, courses: Courses, name: str, look: Look) -> None:
    ours = [second[name].value for second in courses.ours]
    axes.plot(range(len(ours)), ours, color=look.colour, linestyle=look.line, linewidth=1.3)
    if courses.bare is not None:
        every = range(0, len(courses.bare), 4)
        bare = [courses.bare[second][name].value for second in every]
        axes.plot(every, bare, look.marker, color=look.colour, markerfacecolor="none", markersize=4)


def _curve(axes: Axes, at: Sequence[float], means: Sequence[Mean], look: Look, name: str) -> None:
    axes.plot(
        at, [mean.value for mean in means], color=look.colour, linestyle=look.line, label=name
    )


def _watcher(axes: Axes, at: Sequence[float], means: Sequence[Mean], look: Look) -> None:
    axes.errorbar(
        at,
        [mean.value for mean in means],
        yerr=[3 * mean.error for mean in means],
        fmt=look.marker,
        color=look.colour,
        markerfacecolor="none",
        markersize=6,
        capsize=3,
        linestyle="none",
    )


def _legend(axes: Axes, title: str, names: Sequence[str] | Mapping[str, object]) -> None:
    lines = [
        Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=name,
               markerfacecolor="none", markersize=5)
        for look, name in zip(_LOOKS, names, strict=False)
    ]  # fmt: skip
    axes.legend(handles=lines, title=title or None, fontsize=8, frameon=False)
