"""Rows of typed cells, which can be written as CSV that is safe to open, or as plain values for JSON.

Text that a spreadsheet would take for a formula gets an apostrophe in front, and control characters are escaped; numbers
stay numbers.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto

from stormbreak.cost.money import KEPT, USD, Currency, near, plain, rounded
from stormbreak.escape import printable

Cell = Decimal | int | str | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


NOTHING = "-"
"""How nothing is shown, unless a column has another word for it."""


class Kind(Enum):
    """What a column holds."""

    TEXT = auto()
    MONEY = auto()  # dollars
    PRICE = auto()  # dollars per million tokens
    SHARE = auto()  # 1 is all
    VOLUME = auto()  # tokens
    COUNT = auto()
    NUMBER = auto()


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name for programs, its title for eyes (none: not shown to them), and what it holds.

    A `{}` in the title stands for the currency. Eyes see `absent` where there is nothing, and no column that says the
    `usual` in every row.
    """

    key: str
    title: str
    kind: Kind = Kind.TEXT
    absent: str = NOTHING
    usual: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table with amounts in dollars, to be shown in a currency."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    currency: Currency = USD

    def plain(self) -> list[dict[str, Cell]]:
        """Each row by key, with amounts in the currency of the sheet, and numbers to a millionth."""
        return [
            {column.key: self._plain(column, cell) for column, cell in self._cells(row)}
            for row in self.rows
        ]

    def csv(self) -> str:
        """The sheet as CSV with a head."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.key for column in self.columns)
        for row in self.rows:
            cells = (self._plain(column, cell) for column, cell in self._cells(row))
            writer.writerow(harmless(cell) for cell in cells)
        return file.getvalue()

    def places_for_eyes(self) -> list[int]:
        """Places of the columns that say something."""
        return [place for place in range(len(self.columns)) if self._worth_a_column(place)]

    def shown(self, column: Column, cell: Cell) -> str:
        """A cell for eyes."""
        if cell is None or isinstance(cell, str):
            return cell or column.absent
        match column.kind:
            case Kind.MONEY:
                return self.currency.shown(Decimal(cell))
            case Kind.PRICE:
                return self.currency.exact(Decimal(cell))
            case Kind.SHARE:
                return percent(Decimal(cell))
            case Kind.NUMBER:
                return near(Decimal(cell), 1)
            case _:
                return volume(Decimal(cell))

    def _cells(self, row: Sequence[Cell]) -> list[tuple[Column, Cell]]:
        return list(zip(self.columns, row, strict=True))

    def _worth_a_column(self, place: int) -> bool:
        column = self.columns[place]
        cells = {row[place] for row in self.rows}
        if column.title and column.absent != NOTHING:
            return True
        idle = {0} if column.kind is Kind.COUNT else {None, "", column.usual}
        if not column.title or not cells - idle:
            return False
        return column.kind is not Kind.VOLUME or len(self.rows) == 1 or len(cells) > 1

    def _plain(self, column: Column, cell: Cell) -> Cell:
        if cell is None or isinstance(cell, str):
            return cell
        number = Decimal(cell)
        if column.kind in (Kind.MONEY, Kind.PRICE):
            return self.currency.of(number)
        return plain(rounded(number, KEPT))


def harmless(cell: Cell) -> Cell:
    """A cell that no spreadsheet takes for a formula; a number stays as it is."""
    if isinstance(cell, str):
        apostrophe = "'" if cell.startswith(_FORMULA) else ""
        return apostrophe + printable(cell)
    if isinstance(cell, Decimal):
        return f"{cell:f}"
    return cell


def volume(tokens: Decimal) -> str:
    """A number of tokens as people write it, where it is a round one: 50M."""
    for suffix, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens >= size and tokens % (size // 100) == 0:
            return f"{plain(tokens / size):,}{suffix}"
        if tokens >= size:
            break
    return f"{plain(rounded(tokens, 0)):,}"


def percent(share: Decimal) -> str:
    """A share in percent, with one digit after the point; rounded half up."""
    return f"{near(share * 100, 1)} %"


def document(head: Mapping[str, object], **sheets: Sheet) -> dict[str, object]:
    """One document for JSON: the head, and the sheets by name."""
    return {**head, **{name: sheet.plain() for name, sheet in sheets.items()}}
