"""How `stormbreak cost` answers: as a table and sentences, as JSON, as CSV, or with a report beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click
from msgspec.json import Encoder
from msgspec.json import format as indented
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from stormbreak.batch.plain import plain
from stormbreak.cli.say import draw, say
from stormbreak.cost.sheet import NOTHING, Kind, Sheet, document
from stormbreak.errors import ConfigurationError

_JSON = Encoder(decimal_format="number")
_LONGEST = 60  # characters of a cell
_WIDTH = 140  # characters of a table in a file or a pipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """In which form an answer is wanted."""

    as_json: bool = False
    as_csv: bool = False

    @classmethod
    def of(cls, *, as_json: bool, as_csv: bool, report: str | None) -> "Output":
        """Refuse what cannot be done before anything is worked out."""
        if as_json and as_csv:
            raise click.UsageError("--json and --csv: one of them")
        if report is not None:
            refuse_report()
        return cls(as_json=as_json, as_csv=as_csv)

    def answer(self, head: Mapping[str, object], said: Sequence[str] = (), **sheets: Sheet) -> None:
        """Print the sheets; `head` is for programs, `said` for people. As CSV, the first sheet alone."""
        if self.as_json:
            say(indented(_JSON.encode(document(head, **sheets))).decode())
            return
        if self.as_csv:
            say(next(iter(sheets.values())).csv(), end="")
            return
        for sheet in sheets.values():
            draw(table(sheet), width=_WIDTH)
        for sentence in said:
            say(sentence)


def refuse_report() -> None:
    """Reports of costs: the one place where they would be written."""
    raise ConfigurationError("--report is not built yet")


def table(sheet: Sheet) -> Table:
    """Draw a sheet: without the columns that hold nothing, or the same in all of several rows."""
    drawn = Table(box=SIMPLE, pad_edge=False)
    kept = [place for place in range(len(sheet.columns)) if _worth_a_column(sheet, place)]
    for place in kept:
        column = sheet.columns[place]
        text = column.kind is Kind.TEXT
        title = column.title.format(sheet.currency.code)
        drawn.add_column(
            title, justify="left" if text else "right", no_wrap=not text, overflow="fold"
        )
    for row in sheet.rows:
        cells = (sheet.shown(sheet.columns[place], row[place]) for place in kept)
        drawn.add_row(*(Text(plain(cell, _LONGEST)) for cell in cells))
    return drawn


def _worth_a_column(sheet: Sheet, place: int) -> bool:
    column = sheet.columns[place]
    cells = {row[place] for row in sheet.rows}
    if column.title and column.absent != NOTHING:
        return True
    if not column.title or not cells - ({0} if column.kind is Kind.COUNT else {None, ""}):
        return False
    return column.kind is not Kind.VOLUME or len(sheet.rows) == 1 or len(cells) > 1
