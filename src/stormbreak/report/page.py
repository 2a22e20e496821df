"""The page of a report as values, and its HTML. The file needs no script and no other file."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from typing import Self

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from stormbreak import __version__
from stormbreak.report.chart import Line, Panel
from stormbreak.report.drawing import drawing_of
from stormbreak.report.theme import STROKES, Stroke, variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A line of a legend; without a stroke it is the backdrop."""

    name: str
    stroke: Stroke | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A panel under a heading, with its own legend unless the section or picture has one."""

    title: str
    panel: Panel
    keys: Sequence[Key] = ()

    @classmethod
    def with_legend(cls, title: str, panel: Panel) -> Self:
        return cls(title=title, panel=panel, keys=keys_of(panel.lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One large figure with its name and an explanation."""

    name: str
    figure: str
    about: str
    stroke: Stroke | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar; `share` is its length relative to the longest."""

    name: str
    share: float
    figure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Bars under a heading."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The first cell of a row is its name. `texts` are the columns of text; the others are numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page. Empty parts are left out."""

    title: str
    lead: str = ""
    cards: Sequence[Card] = ()
    keys: Sequence[Key] = ()
    charts: Sequence[Chart] = ()
    bars: Sequence[Bar] = ()
    table: Table | None = None
    notes: Sequence[tuple[str, str]] = ()
    sentences: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report: its subject, the result in one sentence, and the sections."""

    kind: str
    title: str
    about: str = ""
    verdict: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def keys_of(lines: Sequence[Line]) -> list[Key]:
    return [
        Key(name=line.name, stroke=None if line.stroke is None else STROKES[line.stroke])
        for line in lines
    ]


def html_of(page: Page) -> str:
    """Render a page as HTML. All text in it is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = count(1)
    environment.filters["draw"] = lambda panel: drawing_of(panel, salt=f"chart {next(numbers)}")
    source = files("stormbreak.report").joinpath("page.html").read_text(encoding="utf-8")
    light, dark = map(Markup, variables())
    template = environment.from_string(source)
    return template.render(page=page, light=light, dark=dark, version=__version__)
