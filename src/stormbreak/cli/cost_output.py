"""How `stormbreak cost` answers: as a table and sentences, as JSON, as CSV, or with a report beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import click
from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from stormbreak.batch.plain import path_of, plain
from stormbreak.cli.draw import draw, wide
from stormbreak.cli.say import json_text, say
from stormbreak.cost.sheet import Column, Kind, Sheet, document
from stormbreak.report.cost_facts import CostFacts
from stormbreak.report.write import ReportFile

_LONGEST = 60  # characters of a cell
_MAX_SENTENCE = 1000
_MIN = 9  # characters of text in a line
_LINES = (2, 4)  # of a title
_BETWEEN = 2  # characters between columns
_ANY = 10_000  # characters: a width that bounds nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """In which form an answer is wanted."""

    as_json: bool = False
    as_csv: bool = False
    destination: ReportFile | None = None

    @classmethod
    def of(
        cls,
        *,
        as_json: bool,
        as_csv: bool,
        report: str | None,
        reads: Sequence[str | Path | None] = (),
    ) -> "Output":
        """Refuse what cannot be done before anything is worked out; a report may replace none of `reads`."""
        if as_json and as_csv:
            raise click.UsageError("--json and --csv: one of them")
        destination = None if report is None else _destination(report, reads)
        return cls(as_json=as_json, as_csv=as_csv, destination=destination)

    def answer(
        self,
        head: Mapping[str, object],
        said: Sequence[str] = (),
        *,
        facts: CostFacts,
        **sheets: Sheet,
    ) -> None:
        """Print the sheets, then write the report, with `facts` above them.

        `head` is for programs, `said` for people. As CSV, the first sheet alone is printed.
        """
        self._print(head, said, sheets)
        if self.destination is not None:
            self.destination.cost(facts, said, sheets)

    def _print(
        self, head: Mapping[str, object], said: Sequence[str], sheets: Mapping[str, Sheet]
    ) -> None:
        if self.as_json:
            say(json_text(document(head, **sheets)))
            return
        if self.as_csv:
            say(next(iter(sheets.values())).csv(), end="")
            return
        for place, sheet in enumerate(sheet for sheet in sheets.values() if sheet.rows):
            if place:
                say("")
            console = Console()
            table = _drawn(sheet, console.width if console.is_terminal else None)
            draw(table, least=wide(_ANY).measure(table).maximum)
        for sentence in said:
            say(plain(sentence, _MAX_SENTENCE))


def _destination(report: str, reads: Sequence[str | Path | None]) -> ReportFile:
    destination = ReportFile.of(report)
    if destination.path.resolve() in [Path(name).resolve() for name in reads if name is not None]:
        raise click.UsageError(f"--report {path_of(report)}: is a file of what is priced")
    return destination


def _drawn(sheet: Sheet, room: int | None) -> Table:
    """A table of the columns that say something. Numbers are never broken nor cut; text is, where there is little `room`."""
    kept = sheet.places_for_eyes()
    columns = [sheet.columns[place] for place in kept]
    rows = [
        [plain(sheet.shown(sheet.columns[place], row[place]), _LONGEST) for place in kept]
        for row in sheet.rows
    ]
    titles = [column.title.format(sheet.currency.code) for column in columns]
    widths = _widths(columns, titles, rows, room)
    drawn = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for column, title, width in zip(columns, titles, widths, strict=True):
        justify: JustifyMethod = "left" if column.kind is Kind.TEXT else "right"
        drawn.add_column(title, justify=justify, overflow="fold", width=width)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _widths(
    columns: Sequence[Column], titles: Sequence[str], rows: Sequence[list[str]], room: int | None
) -> list[int]:
    """How wide each column is: as it likes; else with its title in lines; else with the longest texts in lines, too."""
    cells = [max((cell_len(row[place]) for row in rows), default=0) for place in range(len(titles))]
    widths = [max(len(title), most) for title, most in zip(titles, cells, strict=True)]
    if room is None:
        return widths
    for lines in _LINES:
        if _fits(widths, room):
            return widths
        widths = [
            max(_folded(title, lines), most) for title, most in zip(titles, cells, strict=True)
        ]
    texts = [place for place, column in enumerate(columns) if column.kind is Kind.TEXT]
    while not _fits(widths, room):
        longest = max(texts, key=widths.__getitem__)
        if widths[longest] <= _MIN:
            break
        widths[longest] -= 1
    return widths


def _folded(title: str, lines: int) -> int:
    """How wide a title is that takes so many lines, or more where its words do."""
    longest = max(map(len, title.split()))
    widths = range(longest, len(title))
    return next((width for width in widths if len(wrap(title, width)) <= lines), len(title))


def _fits(widths: Sequence[int], room: int) -> bool:
    return sum(widths) + _BETWEEN * len(widths) <= room
