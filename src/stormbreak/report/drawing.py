"""Draw panels with matplotlib, without pyplot: as SVG in a page, or together in a picture (`picture.py`).

Some settings of matplotlib are global. They are set during a drawing, under a lock, and restored. The user's settings
file is ignored.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import isnan
from typing import Any
from xml.etree.ElementTree import Element, fromstring, tostring

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stormbreak.drivers.locks import new_lock
from stormbreak.report.chart import Line, Panel
from stormbreak.report.theme import STROKES, Colours, placeholder, themed

_LOCK = new_lock()
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "path.simplify_threshold": 0.2,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a name may have a dollar in it
}
# Space above the highest value, for the name of a shaded span.
_HEADROOM, _HEADROOM_WITH_NAME = 1.08, 1.2
_MARKERS = 5  # on each line, approximately
_THIN, _THICK = 1.1, 1.9  # points


@contextmanager
def settings(salt: str) -> Iterator[None]:
    """Draw in this context. The same salt makes the same drawing identical."""
    with _LOCK, warnings.catch_warnings(), mpl.rc_context():
        # The font may lack letters of a name: a page shows them, a picture shows boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS | {"svg.hashsalt": salt})
        yield


def draw(panel: Panel, axes: Axes, paint: Colours, size: float) -> None:
    """Draw `panel` on `axes`, with text of `size` points."""
    axes.set_facecolor("none")
    _frame(panel, axes, paint, size)
    if panel.shaded is not None:
        _shade(panel, axes, paint, size)
    for line in panel.lines:
        if line.drawn:
            _draw_line(panel, line, axes, paint)
    headroom = _HEADROOM if panel.shaded is None else _HEADROOM_WITH_NAME
    axes.set_ylim(panel.bottom * _HEADROOM, panel.top * headroom or 1)
    axes.set_xlim(panel.xs[0], panel.xs[-1] if len(panel.xs) > 1 else panel.xs[0] + 1)


def _frame(panel: Panel, axes: Axes, paint: Colours, size: float) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(paint("muted"))
    axes.grid(axis="y", color=paint("rule"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=paint("muted"), labelcolor=paint("muted"), labelsize=size, length=3)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(
        MaxNLocator(4, min_n_ticks=1 if panel.whole else 3, integer=panel.whole)
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel(panel.x_label, color=paint("muted"), fontsize=size)
    axes.set_title(panel.y_label, loc="left", color=paint("muted"), fontsize=size, pad=8)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:g}"


def _shade(panel: Panel, axes: Axes, paint: Colours, size: float) -> None:
    assert panel.shaded is not None
    start, end = panel.shaded
    axes.axvspan(start, end, color=paint("trigger"), alpha=0.14, linewidth=0)
    for edge in (start, end):
        axes.axvline(edge, color=paint("trigger"), linewidth=0.8, alpha=0.7, dashes=(2, 2))
    first, last = panel.xs[0], panel.xs[-1]
    wide = end - start > 0.25 * (last - first)
    axes.annotate(
        panel.shaded_as,
        (start if wide else end, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4, -2),
        textcoords="offset points",
        va="top",
        color=paint("trigger"),
        fontsize=size,
    )


def _draw_line(panel: Panel, line: Line, axes: Axes, paint: Colours) -> None:
    if line.stroke is None:
        axes.fill_between(panel.xs, line.ys, color=paint("ideal"), alpha=0.22, linewidth=0)
        axes.plot(panel.xs, line.ys, color=paint("ideal"), linewidth=_THIN)
        return
    stroke = STROKES[line.stroke]
    if line.low is not None and line.high is not None:
        axes.fill_between(
            panel.xs, line.low, line.high, color=paint(stroke.role), alpha=0.18, linewidth=0
        )
    axes.plot(
        panel.xs,
        line.ys,
        color=paint(stroke.role),
        linewidth=_THICK,
        dashes=stroke.dash or (None, None),
        marker=stroke.marker,
        markersize=5,
        markevery=_marked(line),
        markeredgewidth=0,
        solid_capstyle="round",
    )


def _marked(line: Line) -> list[int]:
    """Choose the points with a marker, at other places than those of the other lines."""
    known = [place for place, y in enumerate(line.ys) if not isnan(y)]
    step = max(1, len(known) // _MARKERS)
    offset = step * ((line.stroke or 0) + 1) // (len(STROKES) + 1)
    return known[min(offset, len(known) - 1) :: step]


# Text stays text, colours are CSS variables of the page.

WIDTH, HEIGHT = 440, 232  # of a drawing in its own units: about the width of a page column
_TEXT = 12.5
_MARGINS = {"left": 46, "right": 10, "top": 30, "bottom": 42}  # in the same units
_INCH = 72
_LONG_NUMBER = re.compile(r"-?\d+\.\d\d+")
_DROPPED = {"metadata", "style"}


def drawing_of(panel: Panel, *, salt: str) -> Markup:
    """Draw `panel` as SVG. `salt` must be unique in a page: ids are made from it."""
    with settings(salt):
        figure = Figure(figsize=(WIDTH / _INCH, HEIGHT / _INCH), dpi=_INCH)
        figure.patch.set_visible(False)
        axes = figure.add_axes(
            (
                _MARGINS["left"] / WIDTH,
                _MARGINS["bottom"] / HEIGHT,
                1 - (_MARGINS["left"] + _MARGINS["right"]) / WIDTH,
                1 - (_MARGINS["top"] + _MARGINS["bottom"]) / HEIGHT,
            )
        )
        draw(panel, axes, placeholder, _TEXT)
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    root = fromstring(drawn.getvalue())  # noqa: S314 - written by matplotlib
    _clean(root)
    root.attrib = {
        "class": "chart",
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "role": "img",
        "aria-label": panel.about,
    }
    return Markup(tostring(root, encoding="unicode"))  # noqa: S704 - escaped by tostring


def _clean(element: Element) -> None:
    """Remove namespaces, metadata and styles that the page defines."""
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if element.tag == "g":
        attributes.pop("id", None)  # not referenced, and the same in each drawing
    if "style" in attributes:
        attributes["style"] = _style(attributes["style"])
    if "d" in attributes:
        attributes["d"] = _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.1f}", attributes["d"])
    element.attrib = attributes
    for child in list(element):
        _clean(child)
        if child.tag in _DROPPED or (child.tag == "defs" and not len(child)):
            element.remove(child)


def _style(style: str) -> str:
    kept = [part.strip() for part in style.split(";") if "font-family" not in part]
    return themed("; ".join(part for part in kept if part))


def _local(name: str) -> str:
    return name.rpartition("}")[2]
