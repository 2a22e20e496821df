"""Several panels in one picture (PNG): to be pasted where a page cannot go. Light, whatever the theme of who looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from textwrap import wrap
from typing import Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from stormbreak.report.drawing import draw, settings
from stormbreak.report.page import Card, Key
from stormbreak.report.panel import Panel
from stormbreak.report.theme import Stroke, light

# All in hundredths of an inch.
_WIDTH, _MARGIN = 1200, 52
_COLUMNS, _BETWEEN = 2, 72
_PANEL, _BELOW, _HEADING = 196, 62, 46
_LINE, _SMALL_LINE, _CARD, _KEYS, _BLOCK = 30, 20, 96, 30, 24
_INCH = 100

_SCALE = 140  # pixels to an inch
_BIG, _TEXT, _SMALL = 15.5, 10.5, 9.0  # points
_VERDICT, _NOTE = 92, 160  # characters of a line
_Corner: TypeAlias = Literal["upper left", "upper right"]
_MOST_CARDS = 6
_COLOURS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A panel under a heading, with its own legend where the picture has none."""

    title: str
    panel: Panel
    keys: Sequence[Key] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is on it, from the top down."""

    title: str
    verdict: str
    tiles: Sequence[Tile]
    keys: Sequence[Key]
    cards: Sequence[Card]
    note: str = ""


def png_of(picture: Picture) -> bytes:
    """Draw it."""
    verdict, note = wrap(picture.verdict, _VERDICT), wrap(picture.note, _NOTE)
    rows = ceil(len(picture.tiles) / _COLUMNS)
    height = (
        _MARGIN * 2
        + _SMALL_LINE
        + len(verdict) * _LINE
        + _CARD * bool(picture.cards)
        + _KEYS * bool(picture.keys)
        + rows * (_HEADING + _PANEL + _BELOW)
        + len(note) * _SMALL_LINE
    )
    with settings(""):
        sheet = _Sheet(height)
        sheet.write(_MARGIN, picture.title, size=_TEXT, role="muted")
        sheet.down(_SMALL_LINE + 6)
        for line in verdict:
            sheet.write(_MARGIN, line, size=_BIG, weight="bold")
            sheet.down(_LINE)
        if picture.cards:
            _draw_cards(sheet, picture.cards[:_MOST_CARDS])
        if picture.keys:
            sheet.legend(picture.keys, _MARGIN)
            sheet.down(_KEYS)
        for start in range(0, len(picture.tiles), _COLUMNS):
            _draw_row(sheet, picture.tiles[start : start + _COLUMNS])
        for line in note:
            sheet.write(_MARGIN, line, size=_SMALL, role="muted")
            sheet.down(_SMALL_LINE)
        return sheet.png()


class _Sheet:
    """A figure that is filled from the top down."""

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
        """Write a line of text whose top is here, or so much below."""
        y = 1 - (self._y + below) / self._height
        self._figure.text(
            x / _WIDTH, y, text, fontsize=size, color=light(role), weight=weight, va="top"
        )

    def axes(self, x: float, width: float, height: float) -> Axes:
        bottom = 1 - (self._y + height) / self._height
        return self._figure.add_axes((x / _WIDTH, bottom, width / _WIDTH, height / self._height))

    def legend(self, keys: Sequence[Key], x: float, *, to: _Corner = "upper left") -> None:
        """Draw a legend whose top left, or top right, is here."""
        handles = [_handle(key) for key in keys]
        self._figure.legend(
            handles=handles,
            loc=to,
            bbox_to_anchor=(x / _WIDTH, 1 - self._y / self._height),
            borderaxespad=0,
            borderpad=0,
            ncols=len(handles),
            frameon=False,
            fontsize=_TEXT,
            labelcolor=light("ink"),
            handlelength=3,
            columnspacing=2.2,
        )

    def png(self) -> bytes:
        """The picture. A chart has few colours: with a palette it is a third as large, and looks the same."""
        drawn, small = BytesIO(), BytesIO()
        self._figure.savefig(drawn, format="png", metadata={"Software": None})
        # MAXCOVERAGE keeps colours that are rare: those of thin lines.
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        palette = Image.open(drawn).convert("RGB").quantize(_COLOURS, method, dither=dither)
        palette.save(small, format="png", optimize=True)
        return small.getvalue()


def _draw_cards(sheet: _Sheet, cards: Sequence[Card]) -> None:
    width = (_WIDTH - 2 * _MARGIN) / max(3, len(cards))
    sheet.down(_BLOCK / 2)
    for place, card in enumerate(cards):
        x = _MARGIN + place * width
        role = "ink" if card.stroke is None else card.stroke.role
        sheet.write(x, card.name, size=_TEXT, role=role, weight="bold")
        sheet.write(x, card.figure, size=_BIG, weight="bold", below=17)
        told = wrap(card.about, int(width / 7.2))[:2]
        sheet.write(x, "\n".join(told), size=_SMALL, role="muted", below=41)
    sheet.down(_CARD - _BLOCK / 2)


def _handle(key: Key) -> Line2D | Patch:
    stroke: Stroke | None = key.stroke
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


def _draw_row(sheet: _Sheet, tiles: Sequence[Tile]) -> None:
    width = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _BETWEEN) / _COLUMNS
    for place, tile in enumerate(tiles):
        x = _MARGIN + place * (width + _BETWEEN)
        sheet.write(x, tile.title, size=_TEXT, weight="bold")
        if len(tile.keys) > 1:
            sheet.legend(tile.keys, x + width, to="upper right")
    sheet.down(_HEADING)
    for place, tile in enumerate(tiles):
        axes = sheet.axes(_MARGIN + place * (width + _BETWEEN) + 20, width - 20, _PANEL)
        draw(tile.panel, axes, light, _SMALL)
    sheet.down(_PANEL + _BELOW)
