"""Output of `stormbreak cost`: a table and sentences, JSON, CSV or a report; and the notes under a table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from textwrap import wrap
from typing import Any, Self

import click
from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from stormbreak.cli.output import draw, json_text, say, wide
from stormbreak.cost.compare import Mix, Row
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import PriceLookup
from stormbreak.cost.sheet import Column, Kind, Sheet, percent, volume
from stormbreak.cost.token_prices import Prices, Service, Source
from stormbreak.escape import path_of, plain
from stormbreak.report.cost_facts import Cost, CostFacts, Costs
from stormbreak.report.destination import ReportFile

_LONGEST = 60  # characters of a cell
_MAX_SENTENCE = 1000
_MIN = 9  # characters of text in a line
_LINES = (2, 4)  # of a title
_BETWEEN = 2  # characters between columns
_ANY = 10_000  # characters: a width that never limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The form in which results are printed, and the currency of amounts."""

    as_json: bool
    as_csv: bool
    destination: ReportFile | None
    currency: Currency

    @classmethod
    def of(cls, *, as_json: bool, as_csv: bool, report: str | None, currency: Currency) -> Self:
        """Reject impossible combinations before anything is calculated."""
        if as_json and as_csv:
            raise click.UsageError("--json and --csv: give one of them, not both")
        destination = None if report is None else ReportFile.of(report)
        return cls(as_json=as_json, as_csv=as_csv, destination=destination, currency=currency)

    def protect(self, *paths: str | Path) -> None:
        """Raise UsageError if the report would replace one of `paths`."""
        if self.destination is None:
            return
        report = self.destination.path
        if report.resolve() in [Path(path).resolve() for path in paths]:
            raise click.UsageError(f"--report {path_of(report)}: is an input of this command")

    def write(
        self, head: Mapping[str, object], notes: Sequence[str], *, facts: CostFacts, **sheets: Sheet
    ) -> None:
        """Print the sheets, then write the report, with `facts` above them.

        `head` is for JSON, `notes` for people. CSV has only the first sheet.
        """
        self._print(head, notes, sheets)
        if self.destination is not None:
            self.destination.cost(facts, notes, sheets)

    def _print(
        self, head: Mapping[str, object], notes: Sequence[str], sheets: Mapping[str, Sheet]
    ) -> None:
        if self.as_json:
            say(json_text({**head, **{name: sheet.records() for name, sheet in sheets.items()}}))
            return
        if self.as_csv:
            say(next(iter(sheets.values())).csv(), end="")
            return
        for place, sheet in enumerate(sheet for sheet in sheets.values() if sheet.rows):
            if place:
                say("")
            console = Console()
            table = _drawn(sheet, console.width if console.is_terminal else None)
            draw(table, min_width=wide(_ANY).measure(table).maximum)
        for note in notes:
            say(plain(note, _MAX_SENTENCE))


def _drawn(sheet: Sheet, room: int | None) -> Table:
    """A table without empty columns. Numbers are never wrapped or cut; text is, if there is little `room`."""
    kept = sheet.visible_columns()
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
    columns: Sequence[Column[Any]],
    titles: Sequence[str],
    rows: Sequence[list[str]],
    room: int | None,
) -> list[int]:
    """Return the width of each column: natural, or with folded titles, or also with the longest texts folded."""
    cells = [max((cell_len(row[place]) for row in rows), default=0) for place in range(len(titles))]
    widths = [max(len(title), cell) for title, cell in zip(titles, cells, strict=True)]
    if room is None:
        return widths
    for lines in _LINES:
        if _fits(widths, room):
            return widths
        widths = [
            max(_folded(title, lines), cell) for title, cell in zip(titles, cells, strict=True)
        ]
    texts = [place for place, column in enumerate(columns) if column.kind is Kind.TEXT]
    while not _fits(widths, room):
        longest = max(texts, key=widths.__getitem__)
        if widths[longest] <= _MIN:
            break
        widths[longest] -= 1
    return widths


def _folded(title: str, lines: int) -> int:
    longest = max(map(len, title.split()))
    widths = range(longest, len(title))
    return next((width for width in widths if len(wrap(title, width)) <= lines), len(title))


def _fits(widths: Sequence[int], room: int) -> bool:
    return sum(widths) + _BETWEEN * len(widths) <= room


def costs_of(
    title: str, amounts: Iterable[tuple[str, Decimal | None, Prices | None]], *, exact: bool = False
) -> Costs:
    """Compare known amounts in bars, by name; prices may be a claim."""
    costs = [
        Cost(name=name, usd=usd, claim=prices is not None and prices.source.claim)
        for name, usd, prices in amounts
        if usd is not None
    ]
    return Costs(title=title, costs=costs, exact=exact)


def assumed(volumes: Sequence[int], mix: Mix) -> str:
    tokens = ", ".join(volume(Decimal(each)) for each in volumes)
    cached = "none of it cached"
    if mix.cache_rate:
        cached = f"{percent(mix.cache_rate)} of that from a cache"
    long = f", in prompts of {volume(Decimal(mix.prompt))}" if mix.prompt > 1 else ""
    kind = f", at {mix.service} prices" if mix.service is not Service.STANDARD else ""
    return (
        f"{tokens} tokens a month: {percent(mix.input_share)} of them input, {cached}{long}{kind}."
    )


def source_notes(rows: Sequence[Row], lookup: PriceLookup) -> Iterator[str]:
    """List offers without a price, and the sources of the others."""
    yield from dict.fromkeys(sentence(row.why) for row in rows if row.why)
    yield from price_notes([row.prices for row in rows if row.prices], lookup)


def price_notes(priced: Sequence[Prices], lookup: PriceLookup) -> Iterator[str]:
    for source in dict.fromkeys(prices.source for prices in priced):
        yield source_note(source)
        file = lookup.files.get(source.name)
        if file is not None and file.note:
            yield " ".join(file.note.split())
    yield from notes_of(priced)


def notes_of(priced: Sequence[Prices]) -> Iterator[str]:
    for prices in dict.fromkeys(priced):
        if prices.notes:
            yield f"{prices.place}: {'; '.join(prices.notes)}."
    if any(prices.latency for prices in priced):
        yield "Latencies are the seller's claims; they are not measured."


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith("?") else ".")


def source_note(source: Source) -> str:
    """Write the source and date of prices, and whether they are a claim."""
    of = f", {source.as_of}" if source.as_of else ""
    about = f" ({source.about})" if source.about else ""
    if source.claim:
        return f"Prices by {source.name}{of} are a claim{about}."
    return f"Prices by {source.name}{of}{about}."
