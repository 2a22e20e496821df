"""Tables of typed cells, written as CSV that is safe to open, or as values for JSON.

Text that a spreadsheet would read as a formula gets an apostrophe in front, and control characters are escaped; numbers
stay numbers.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum, auto
from typing import Any, Generic, Self, TypeVar

from stormbreak.cost.money import KEPT, USD, Currency, near, rounded, without_zeros
from stormbreak.escape import printable

Cell = Decimal | int | str | None
T = TypeVar("T")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


NOTHING = "-"  # shown for an empty cell, unless its column has its own word


class Kind(Enum):
    """The kind of a column's cells."""

    TEXT = auto()
    MONEY = auto()  # dollars
    PRICE = auto()  # dollars per million tokens
    SHARE = auto()  # 1 is 100 %
    VOLUME = auto()  # tokens
    COUNT = auto()
    NUMBER = auto()


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column: its name for programs, its title for people (none: hidden), and the kind of its cells.

    A `{}` in the title is replaced by the currency. People see `absent` in empty cells; a column is hidden if every row
    has its `usual` value. `of` gets the cell's value from an item.
    """

    key: str
    title: str
    kind: Kind = Kind.TEXT
    absent: str = NOTHING
    usual: str = ""
    of: Callable[[T], Cell] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table with amounts in dollars, to be shown in a currency."""

    columns: Sequence[Column[Any]]
    rows: Sequence[Sequence[Cell]]
    currency: Currency = USD

    @classmethod
    def of(
        cls, columns: Sequence[Column[T]], things: Iterable[T], currency: Currency = USD
    ) -> Self:
        """Make a row from each item."""
        rows = [[column.of(each) for column in columns] for each in things]
        return cls(columns=columns, rows=rows, currency=currency)

    def with_currency(self) -> Self:
        """Add the code of the currency, for programs."""
        code: Column[Any] = Column("currency", "")
        rows = [[*row, self.currency.code] for row in self.rows]
        return replace(self, columns=(*self.columns, code), rows=rows)

    def records(self) -> list[dict[str, Cell]]:
        """Each row by key, with amounts in the currency of the sheet, and numbers to a millionth."""
        return [
            {
                each.key: self._plain(each, cell)
                for each, cell in zip(self.columns, row, strict=True)
            }
            for row in self.rows
        ]

    def csv(self) -> str:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.key for column in self.columns)
        for record in self.records():
            writer.writerow(map(csv_safe, record.values()))
        return file.getvalue()

    def visible_columns(self) -> list[int]:
        return [place for place in range(len(self.columns)) if self._worth_a_column(place)]

    def shown(self, column: Column[Any], cell: Cell) -> str:
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
                return volume(Decimal(cell)) if column.kind is Kind.VOLUME else f"{cell:,}"

    def _worth_a_column(self, place: int) -> bool:
        column = self.columns[place]
        cells = {row[place] for row in self.rows}
        if column.title and column.absent != NOTHING:
            return True
        idle = {0} if column.kind is Kind.COUNT else {None, "", column.usual}
        if not column.title or not cells - idle:
            return False
        return column.kind is not Kind.VOLUME or len(self.rows) == 1 or len(cells) > 1

    def _plain(self, column: Column[Any], cell: Cell) -> Cell:
        if cell is None or isinstance(cell, str):
            return cell
        number = Decimal(cell)
        if column.kind in (Kind.MONEY, Kind.PRICE):
            return self.currency.of(number)
        return without_zeros(rounded(number, KEPT))


def csv_safe(cell: Cell) -> Cell:
    """Escape text that a spreadsheet would read as a formula; a number stays unchanged."""
    if isinstance(cell, str):
        apostrophe = "'" if cell.startswith(_FORMULA) else ""
        return apostrophe + printable(cell)
    if isinstance(cell, Decimal):
        return f"{cell:f}"
    return cell


def volume(tokens: Decimal) -> str:
    """Format a number of tokens; shorten a round one: 50M."""
    for suffix, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens >= size and tokens % (size // 100) == 0:
            return f"{without_zeros(tokens / size):,}{suffix}"
        if tokens >= size:
            break
    return f"{without_zeros(rounded(tokens, 0)):,}"


def percent(share: Decimal) -> str:
    """Format a share in percent, with one decimal place."""
    return f"{near(share * 100, 1)} %"
