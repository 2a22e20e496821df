"""Bars in a picture: names at the left, figures at the right of each bar. On a page they are elements of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from stormbreak.batch.plain import ending
from stormbreak.report.page import Bar
from stormbreak.report.theme import Colours

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
