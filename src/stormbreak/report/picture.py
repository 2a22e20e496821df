"""Charts, figures and bars in one picture (PNG), in the light theme, for places that do not accept HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from textwrap import wrap
from typing import Literal, Protocol, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from stormbreak.escape import ending
from stormbreak.report.drawing import draw, settings
from stormbreak.report.page import BarChart, Card, Chart, Key
from stormbreak.report.theme import light

# Lengths in hundredths of an inch.
_INCH = 100
_WIDTH, _MARGIN = 1200, 52
_INNER = _WIDTH - 2 * _MARGIN
_COLUMNS, _GUTTER = 2, 72
_PANEL, _BELOW_PANEL, _HEADING = 196, 62, 46
_LINE, _SMALL_LINE, _CARD, _CARD_LINE, _KEYS, _BLOCK = 30, 20, 64, 16, 30, 24
_LETTER, _BOLD_LETTER, _SMALL_LETTER = 8.0, 9.4, 7.2  # mean width
_KEY, _KEY_LINE = 72, 22  # a key of a legend, without its name
_CHART = (_INNER - (_COLUMNS - 1) * _GUTTER) / _COLUMNS
_BAR = 26  # with the space to the next

# Shares of the width of a bar chart.
_BAR_START, _BAR_LENGTH, _BAR_GAP, _BAR_THICKNESS = 0.38, 0.46, 0.008, 0.6

_SCALE = 140  # pixels to an inch
_BIG, _TEXT, _SMALL = 15.5, 10.5, 9.0  # points
HEADLINE_LETTERS = 92  # of one line
_NOTE_LETTERS, _BAR_LETTERS, _KEY_LETTERS = 160, 50, 48
_MAX_CARDS, _CARDS_PER_ROW = 6, 3  # four also fit in one row
_COLOURS, _KMEANS_ROUNDS = 256, 3
_Corner: TypeAlias = Literal["upper left", "upper right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Its parts, from top to bottom."""

    title: str
    verdict: str
    cards: Sequence[Card] = ()
    keys: Sequence[Key] = ()
    charts: Sequence[Chart] = ()
    bars: Sequence[BarChart] = ()
    note: str = ""


def png_of(picture: Picture) -> bytes:
    verdict, note = wrap(picture.verdict, HEADLINE_LETTERS), wrap(picture.note, _NOTE_LETTERS)
    keys = list(_rows_of_keys(picture.keys, _INNER))
    starts = range(0, len(picture.charts), _COLUMNS)
    parts: list[_Part] = [
        *_rows_of_cards(picture.cards[:_MAX_CARDS]),
        *(_Legend(row) for row in keys),
        *(_ChartRow(picture.charts[start : start + _COLUMNS]) for start in starts),
        *(_Bars(chart) for chart in picture.bars),
    ]
    text = _SMALL_LINE + len(verdict) * _LINE + len(note) * _SMALL_LINE
    with settings(""):
        sheet = _Sheet(2 * _MARGIN + text + sum(part.height for part in parts))
        sheet.write(_MARGIN, picture.title, size=_TEXT, role="muted")
        sheet.down(_SMALL_LINE + 6)
        for line in verdict:
            sheet.write(_MARGIN, line, size=_BIG, weight="bold")
            sheet.down(_LINE)
        for part in parts:
            part.draw(sheet)
        for line in note:
            sheet.write(_MARGIN, line, size=_SMALL, role="muted")
            sheet.down(_SMALL_LINE)
        return sheet.png()


class _Sheet:
    """A figure that is filled from top to bottom."""

    def __init__(self, height: float) -> None:
        self._height = height
        self._figure = Figure(figsize=(_WIDTH / _INCH, height / _INCH), dpi=_SCALE)
        self._figure.set_facecolor(light("page"))
        self._y = float(_MARGIN)

    def down(self, by: float) -> None:
        self._y += by

    def write(
        self,
        x: float,
        text: str,
        *,
        size: float,
        role: str = "ink",
        weight: str = "normal",
        below: float = 0.0,
    ) -> None:
        """Write a line of text at the current height plus `below`."""
        y = 1 - (self._y + below) / self._height
        self._figure.text(
            x / _WIDTH, y, text, fontsize=size, color=light(role), weight=weight, va="top"
        )

    def axes(self, x: float, width: float, height: float) -> Axes:
        bottom = 1 - (self._y + height) / self._height
        return self._figure.add_axes((x / _WIDTH, bottom, width / _WIDTH, height / self._height))

    def legend(
        self, keys: Sequence[Key], x: float, *, to: _Corner = "upper left", below: float = 0.0
    ) -> None:
        """Draw a legend with its corner at the current height plus `below`."""
        self._figure.legend(
            handles=[_handle(key) for key in keys],
            loc=to,
            bbox_to_anchor=(x / _WIDTH, 1 - (self._y + below) / self._height),
            borderaxespad=0,
            borderpad=0,
            ncols=len(keys),
            frameon=False,
            fontsize=_TEXT,
            labelcolor=light("ink"),
            handlelength=3,
            columnspacing=2.2,
        )

    def png(self) -> bytes:
        """Encode the picture with a palette: a third of the size, with the same look."""
        drawn, small = BytesIO(), BytesIO()
        self._figure.savefig(drawn, format="png", metadata={"Software": None})
        # MAXCOVERAGE keeps rare colours: those of thin lines. The rounds keep those of large areas as they are.
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        palette = (
            Image.open(drawn)
            .convert("RGB")
            .quantize(_COLOURS, method, kmeans=_KMEANS_ROUNDS, dither=dither)
        )
        palette.save(small, format="png", optimize=True)
        return small.getvalue()


class _Part(Protocol):
    """A part of the picture over its whole width."""

    @property
    def height(self) -> float: ...

    def draw(self, sheet: _Sheet) -> None: ...


@dataclass(frozen=True, slots=True)
class _Cards:
    """Cards side by side; `texts` are the wrapped lines of each."""

    cards: Sequence[Card]
    texts: Sequence[Sequence[str]]
    width: float

    @property
    def height(self) -> float:
        return _CARD + _CARD_LINE * max(map(len, self.texts))

    def draw(self, sheet: _Sheet) -> None:
        sheet.down(_BLOCK / 2)
        for place, (card, text) in enumerate(zip(self.cards, self.texts, strict=True)):
            x = _MARGIN + place * self.width
            role = "ink" if card.stroke is None else card.stroke.role
            name = ending(card.name, int(self.width / _BOLD_LETTER))
            sheet.write(x, name, size=_TEXT, role=role, weight="bold")
            sheet.write(x, card.figure, size=_BIG, weight="bold", below=17)
            sheet.write(x, "\n".join(text), size=_SMALL, role="muted", below=41)
        sheet.down(self.height - _BLOCK / 2)


def _rows_of_cards(cards: Sequence[Card]) -> list[_Cards]:
    columns = len(cards) if len(cards) == _CARDS_PER_ROW + 1 else _CARDS_PER_ROW
    width = _INNER / columns
    letters = int(width / _SMALL_LETTER)
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    return [_Cards(row, [wrap(card.about, letters)[:3] for card in row], width) for row in rows]


@dataclass(frozen=True, slots=True)
class _Legend:
    """One row of the legend of all charts."""

    keys: Sequence[Key]
    height: float = _KEYS

    def draw(self, sheet: _Sheet) -> None:
        sheet.legend(self.keys, _MARGIN)
        sheet.down(_KEYS)


def _rows_of_keys(keys: Sequence[Key], width: float) -> Iterator[list[Key]]:
    """Break a legend into rows of that width; long names are shortened."""
    row, left = list[Key](), width
    for key in keys:
        short = replace(key, name=ending(key.name, _KEY_LETTERS))
        needed = _KEY + _LETTER * len(short.name)
        if row and needed > left:
            yield row
            row, left = [], width
        row.append(short)
        left -= needed
    if row:
        yield row


def _handle(key: Key) -> Line2D | Patch:
    stroke = key.stroke
    if stroke is None:
        return Patch(facecolor=light("ideal"), alpha=0.3, label=key.name)
    return Line2D(
        [],
        [],
        color=light(stroke.role),
        linewidth=1.9,
        dashes=stroke.dash or (None, None),
        marker=stroke.marker,
        markersize=5,
        markeredgewidth=0,
        label=key.name,
    )


class _ChartRow:
    """Charts side by side. Legends are beside the titles, or below them if one is too wide."""

    def __init__(self, charts: Sequence[Chart]) -> None:
        self._charts = charts
        legends = [chart.keys if len(chart.keys) > 1 else () for chart in charts]
        widths = [_CHART - _BOLD_LETTER * len(chart.title) - _BLOCK for chart in charts]
        beside = [
            list(_rows_of_keys(keys, width)) for keys, width in zip(legends, widths, strict=True)
        ]
        self._beside = all(len(rows) <= 1 for rows in beside)
        self._legends = (
            beside if self._beside else [list(_rows_of_keys(keys, _CHART)) for keys in legends]
        )
        below = 0 if self._beside else _KEY_LINE * max(map(len, self._legends))
        self._heading = _HEADING + below
        self.height = self._heading + _PANEL + _BELOW_PANEL

    def draw(self, sheet: _Sheet) -> None:
        places = [_MARGIN + place * (_CHART + _GUTTER) for place in range(len(self._charts))]
        for x, chart, legend in zip(places, self._charts, self._legends, strict=True):
            sheet.write(x, chart.title, size=_TEXT, weight="bold")
            for number, keys in enumerate(legend, 0 if self._beside else 1):
                sheet.legend(keys, x + _CHART, to="upper right", below=number * _KEY_LINE)
        sheet.down(self._heading)
        for x, chart in zip(places, self._charts, strict=True):
            draw(chart.panel, sheet.axes(x + 20, _CHART - 20, _PANEL), light, _SMALL)
        sheet.down(_PANEL + _BELOW_PANEL)


class _Bars:
    """A bar chart over the whole width."""

    def __init__(self, chart: BarChart) -> None:
        self._chart = chart
        self._bars = _BAR * len(chart.bars)
        self.height = _KEYS + self._bars + _BLOCK

    def draw(self, sheet: _Sheet) -> None:
        sheet.down(_BLOCK / 2)
        sheet.write(_MARGIN, self._chart.title, size=_TEXT, weight="bold")
        sheet.down(_KEYS)
        self._draw_bars(sheet.axes(_MARGIN, _INNER, self._bars))
        sheet.down(self._bars + _BLOCK / 2)

    def _draw_bars(self, axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(self._chart.bars) - 0.5, -0.5)
        for place, bar in enumerate(self._chart.bars):
            length = _BAR_LENGTH * bar.share
            axes.barh(place, length, _BAR_THICKNESS, left=_BAR_START, color=light("line-1"))
            for x, text, side in (
                (_BAR_START - _BAR_GAP, ending(bar.name, _BAR_LETTERS), "right"),
                (_BAR_START + length + _BAR_GAP, bar.figure, "left"),
            ):
                axes.text(x, place, text, ha=side, va="center", fontsize=_TEXT, color=light("ink"))
