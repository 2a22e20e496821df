"""Several panels and bars in one picture (PNG), for places that take no page. Always in the light theme."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from textwrap import wrap
from typing import Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from stormbreak.escape import ending
from stormbreak.report.chart import Panel
from stormbreak.report.drawing import draw, settings
from stormbreak.report.page import Bar, Card, Key
from stormbreak.report.theme import Colours, Stroke, light

# ---------------------------------------------------------------- bars

_BAR = 26  # hundredths of an inch, with the space to the next
_THICK = 0.6  # of that
_START, _LONGEST = 0.38, 0.46  # of the width
_GAP = 0.008
_LETTERS = 50  # of a name


@dataclass(frozen=True, slots=True, kw_only=True)
class BarBlock:
    """Bars under a heading."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> float:
        """Of the bars, in hundredths of an inch."""
        return _BAR * len(self.bars)


def draw_bars(block: BarBlock, axes: Axes, paint: Colours, size: float) -> None:
    """Draw them over all of `axes`, with text of `size` points."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(block.bars) - 0.5, -0.5)
    for place, bar in enumerate(block.bars):
        length = _LONGEST * bar.share
        axes.barh(place, length, _THICK, left=_START, color=paint("line-1"))
        for x, text, side in (
            (_START - _GAP, ending(bar.name, _LETTERS), "right"),
            (_START + length + _GAP, bar.figure, "left"),
        ):
            axes.text(x, place, text, ha=side, va="center", fontsize=size, color=paint("ink"))


# ---------------------------------------------------------------- picture

# All in hundredths of an inch.
_WIDTH, _MARGIN = 1200, 52
_COLUMNS, _BETWEEN = 2, 72
_PANEL, _BELOW, _HEADING = 196, 62, 46
_LINE, _SMALL_LINE, _CARD, _CARD_LINE, _KEYS, _BLOCK = 30, 20, 64, 16, 30, 24
_LETTER, _BOLD_LETTER, _SMALL_LETTER = 8.0, 9.4, 7.2  # about as wide as most are
_KEY = 72  # of a key, besides its name
_KEY_LINE = 22
_TILE = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _BETWEEN) / _COLUMNS
_INCH = 100

_SCALE = 140  # pixels to an inch
_BIG, _TEXT, _SMALL = 15.5, 10.5, 9.0  # points
_VERDICT, _NOTE = 92, 160  # characters of a line
_Corner: TypeAlias = Literal["upper left", "upper right"]
_MAX_CARDS = 6
_CARDS_IN_A_ROW = 3  # four stand in one, too
_MAX_KEY = 48  # characters
_COLOURS = 256
_ROUNDS = 3


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
    bars: Sequence[BarBlock] = ()
    note: str = ""


def png_of(picture: Picture) -> bytes:
    """Draw it."""
    verdict, note = wrap(picture.verdict, _VERDICT), wrap(picture.note, _NOTE)
    cards = _cards(picture.cards[:_MAX_CARDS])
    keys = list(_in_rows(picture.keys, _WIDTH - 2 * _MARGIN))
    starts = range(0, len(picture.tiles), _COLUMNS)
    rows = [_Row(picture.tiles[start : start + _COLUMNS]) for start in starts]
    height = (
        _MARGIN * 2
        + _SMALL_LINE
        + len(verdict) * _LINE
        + sum(row.height for row in cards)
        + _KEYS * len(keys)
        + sum(row.height for row in rows)
        + sum(_heading_and(block) for block in picture.bars)
        + len(note) * _SMALL_LINE
    )
    with settings(""):
        sheet = _Sheet(height)
        sheet.write(_MARGIN, picture.title, size=_TEXT, role="muted")
        sheet.down(_SMALL_LINE + 6)
        for line in verdict:
            sheet.write(_MARGIN, line, size=_BIG, weight="bold")
            sheet.down(_LINE)
        for row in cards:
            row.draw(sheet)
        for line_of_keys in keys:
            sheet.legend(line_of_keys, _MARGIN)
            sheet.down(_KEYS)
        for tiles in rows:
            tiles.draw(sheet)
        for block in picture.bars:
            sheet.down(_BLOCK / 2)
            sheet.write(_MARGIN, block.title, size=_TEXT, weight="bold")
            sheet.down(_KEYS)
            draw_bars(block, sheet.axes(_MARGIN, _WIDTH - 2 * _MARGIN, block.height), light, _TEXT)
            sheet.down(block.height + _BLOCK / 2)
        for line in note:
            sheet.write(_MARGIN, line, size=_SMALL, role="muted")
            sheet.down(_SMALL_LINE)
        return sheet.png()


def _heading_and(block: BarBlock) -> float:
    return _KEYS + block.height + _BLOCK


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

    def legend(
        self, keys: Sequence[Key], x: float, *, to: _Corner = "upper left", below: float = 0.0
    ) -> None:
        """Draw a legend whose top left, or top right, is here, or so much below."""
        handles = [_handle(key) for key in keys]
        self._figure.legend(
            handles=handles,
            loc=to,
            bbox_to_anchor=(x / _WIDTH, 1 - (self._y + below) / self._height),
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
        # MAXCOVERAGE keeps colours that are rare: those of thin lines. The rounds keep those of large areas as they are.
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        palette = (
            Image.open(drawn)
            .convert("RGB")
            .quantize(_COLOURS, method, kmeans=_ROUNDS, dither=dither)
        )
        palette.save(small, format="png", optimize=True)
        return small.getvalue()


@dataclass(frozen=True, slots=True)
class _Cards:
    """Cards side by side, and what each of them says, in lines."""

    cards: Sequence[Card]
    told: Sequence[Sequence[str]]
    width: float

    @property
    def height(self) -> float:
        return _CARD + _CARD_LINE * max(map(len, self.told))

    def draw(self, sheet: _Sheet) -> None:
        sheet.down(_BLOCK / 2)
        for place, (card, told) in enumerate(zip(self.cards, self.told, strict=True)):
            x = _MARGIN + place * self.width
            role = "ink" if card.stroke is None else card.stroke.role
            name = ending(card.name, int(self.width / _BOLD_LETTER))
            sheet.write(x, name, size=_TEXT, role=role, weight="bold")
            sheet.write(x, card.figure, size=_BIG, weight="bold", below=17)
            sheet.write(x, "\n".join(told), size=_SMALL, role="muted", below=41)
        sheet.down(self.height - _BLOCK / 2)


def _cards(cards: Sequence[Card]) -> list[_Cards]:
    """Cards in rows that leave each of them its place."""
    columns = len(cards) if len(cards) == _CARDS_IN_A_ROW + 1 else _CARDS_IN_A_ROW
    width = (_WIDTH - 2 * _MARGIN) / columns
    letters = int(width / _SMALL_LETTER)
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    return [_Cards(row, [wrap(card.about, letters)[:3] for card in row], width) for row in rows]


def _in_rows(keys: Sequence[Key], room: float) -> Iterator[list[Key]]:
    """Keys of a legend, as many in a row as there is room for, with names that are not too long."""
    row, left = list[Key](), room
    for key in keys:
        named = replace(key, name=ending(key.name, _MAX_KEY))
        width = _KEY + _LETTER * len(named.name)
        if row and width > left:
            yield row
            row, left = [], room
        row.append(named)
        left -= width
    if row:
        yield row


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


class _Row:
    """Tiles side by side. Their legends stand beside the titles, or below them where one is too wide for that."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self._tiles = tiles
        legends = [tile.keys if len(tile.keys) > 1 else () for tile in tiles]
        rooms = [_TILE - _BOLD_LETTER * len(tile.title) - _BLOCK for tile in tiles]
        beside = [list(_in_rows(keys, room)) for keys, room in zip(legends, rooms, strict=True)]
        self._beside = all(len(rows) <= 1 for rows in beside)
        self._legends = (
            beside if self._beside else [list(_in_rows(keys, _TILE)) for keys in legends]
        )

    @property
    def _heading(self) -> float:
        return _HEADING + (0 if self._beside else _KEY_LINE * max(map(len, self._legends)))

    @property
    def height(self) -> float:
        return self._heading + _PANEL + _BELOW

    def draw(self, sheet: _Sheet) -> None:
        places = [_MARGIN + place * (_TILE + _BETWEEN) for place in range(len(self._tiles))]
        for x, tile, legend in zip(places, self._tiles, self._legends, strict=True):
            sheet.write(x, tile.title, size=_TEXT, weight="bold")
            for number, keys in enumerate(legend, 0 if self._beside else 1):
                sheet.legend(keys, x + _TILE, to="upper right", below=number * _KEY_LINE)
        sheet.down(self._heading)
        for x, tile in zip(places, self._tiles, strict=True):
            draw(tile.panel, sheet.axes(x + 20, _TILE - 20, _PANEL), light, _SMALL)
        sheet.down(_PANEL + _BELOW)
