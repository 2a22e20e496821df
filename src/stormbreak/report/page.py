"""The page: what stands on it, as values, and the filling in of its template. No script, and nothing from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from stormbreak import __version__
from stormbreak.report.chart import Line
from stormbreak.report.theme import STROKES, Stroke, variables

_TEMPLATE = "page.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a line of the charts stands for; without a stroke, the backdrop."""

    name: str
    stroke: Stroke | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing under a heading, with its own legend where the section has none."""

    title: str
    drawing: Markup
    keys: Sequence[Key] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One figure that is worth being large, what it is of, and a word about it."""

    name: str
    figure: str
    about: str
    stroke: Stroke | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A length among others: `share` of the longest."""

    name: str
    share: float
    figure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under heads; the first cell of a row is its name, the others are figures. `texts` are columns of words."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page; whatever it has not is left out."""

    title: str
    lead: str = ""
    cards: Sequence[Card] = ()
    keys: Sequence[Key] = ()
    charts: Sequence[Chart] = ()
    bars: Sequence[Bar] = ()
    table: Table | None = None
    notes: Sequence[tuple[str, str]] = ()
    said: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report: what it is about, what came of it in one sentence, and the sections."""

    kind: str
    title: str
    about: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def keys_of(lines: Sequence[Line]) -> list[Key]:
    """The legend of these lines."""
    return [
        Key(name=line.name, stroke=None if line.stroke is None else STROKES[line.stroke])
        for line in lines
    ]


def fill_in(page: Page) -> str:
    """Make the HTML of `page`. All text in it is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("stormbreak.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    light, dark = map(Markup, variables())
    template = environment.from_string(source)
    return template.render(page=page, light=light, dark=dark, version=__version__)
