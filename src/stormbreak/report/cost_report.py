"""The report of `stormbreak cost` and of an estimate: result, bars or savings, tables and notes."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

from stormbreak.cost.compare import MONTHS
from stormbreak.cost.money import Currency, near
from stormbreak.cost.roi import Case
from stormbreak.cost.sheet import Kind, Sheet, percent
from stormbreak.escape import shown
from stormbreak.report.chart import Line, Panel
from stormbreak.report.cost_facts import CostFacts, Costs
from stormbreak.report.drawing import drawing_of
from stormbreak.report.page import Bar, Card, Chart, Page, Section, Table, keys_of
from stormbreak.report.picture import BarBlock, Picture, Tile

# ---------------------------------------------------------------- savings chart and cards

SAVINGS = "Savings against the cost of the move"

_SCALES = (
    (10**12, "trillions of "),
    (10**9, "billions of "),
    (10**6, "millions of "),
    (10**3, "thousands of "),
)
_LARGE = 10  # of a unit, from which a tick is easier to read in it


def savings_panel(case: Case, currency: Currency) -> Panel:
    """Draw twelve months; what it takes to pay for the move is shaded, where it is less than that."""
    months = range(MONTHS + 1)
    saved = [case.saving * month * currency.per_usd for month in months]
    costs = case.migration * currency.per_usd
    size, scale = _scale(max(map(abs, (*saved, costs))))
    unit = f"{scale}{currency.code}"
    paid = case.payback
    return Panel(
        about=f"{SAVINGS}, in {unit}, over twelve months: {_told(paid)}.",
        x_label="months since the move",
        y_label=unit,
        xs=[float(month) for month in months],
        lines=[
            Line(name="saved so far", ys=[float(usd / size) for usd in saved], stroke=0),
            Line(name="the move costs", ys=[float(costs / size)] * len(months), stroke=1),
        ],
        shaded=(0.0, float(paid)) if paid and paid <= MONTHS else None,
        shaded_as=f"payback: {_months(paid)}" if paid else "",
    )


def savings_cards(case: Case, currency: Currency) -> list[Card]:
    """The figures of the case as given, each under its right name."""
    share, returned = case.share, case.returned
    return [
        Card(
            name="Saved a month",
            figure=currency.with_code(case.saving),
            about=f"{currency.with_code(case.current)} now, {currency.with_code(case.candidate)} then",
        ),
        Card(
            name="Savings",
            figure="none" if share is None else percent(share),
            about="of what is paid now",
        ),
        Card(
            name="Payback",
            figure="never" if case.payback is None else _months(case.payback),
            about=f"until the {currency.with_code(case.migration)} of the migration are saved",
        ),
        Card(
            name="Return, 12 months",
            figure="none" if returned is None else percent(returned),
            about=f"{currency.with_code(case.net)} after the migration is paid, against what it costs",
        ),
    ]


def _told(payback: Decimal | None) -> str:
    return "never paid back" if payback is None else f"paid back after {_months(payback)}"


def _months(months: Decimal) -> str:
    return f"{near(months, 1)} months"


def _scale(most: Decimal) -> tuple[int, str]:
    """The unit in which ticks are short."""
    return next((each for each in _SCALES if most >= _LARGE * each[0]), (1, ""))


# ---------------------------------------------------------------- report

BARS, BARS_OF_PICTURE, BLOCKS_OF_PICTURE = 20, 12, 4
"""Bars of a chart at the most; and how many of how many charts are in a picture. All amounts stand in the tables."""

_LONG = 1000  # characters of a sentence
_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "rows": "Offers",
        "prices": "Prices",
        "models": "By model",
        "waste": "Wasted, by reason",
        "times": "Time, by limit",
        "cases": "As given, and with other prices and volumes",
        "storm": "The outage, by policy",
    }
)


def cost_page(facts: CostFacts, said: Sequence[str], sheets: Mapping[str, Sheet]) -> Page:
    """Make the page: all sheets, and all that is `said` of them."""
    tables = [
        Section(title=_TITLES.get(name, name), table=_table(sheet))
        for name, sheet in sheets.items()
        if sheet.rows
    ]
    bars = [_bars_section(each, facts) for each in facts.bars if each.costs]
    return Page(
        kind=facts.kind,
        title=shown(facts.title, 120),
        about="",
        verdict=shown(facts.verdict, _LONG),
        facts=[(name, shown(value, 200)) for name, value in facts.facts],
        sections=[*_move(facts), *bars, *tables, *_said(said)],
    )


def cost_picture(facts: CostFacts) -> Picture:
    """Make the picture: the charts, and the figures of a move above them."""
    tiles, case = list[Tile](), facts.move
    if case is not None:
        panel = savings_panel(case, facts.currency)
        tiles = [Tile(title=SAVINGS, panel=panel, keys=keys_of(panel.lines))]
    blocks = [
        BarBlock(title=shown(each.title, 120), bars=_bars(each, facts, BARS_OF_PICTURE))
        for each in facts.bars[:BLOCKS_OF_PICTURE]
        if each.costs
    ]
    left = any(len(each.costs) > BARS_OF_PICTURE for each in facts.bars)
    return Picture(
        title=f"{facts.kind}: {shown(facts.title, 100)}",
        verdict=shown(facts.verdict, _LONG),
        tiles=tiles,
        keys=(),
        cards=[] if case is None else savings_cards(case, facts.currency),
        bars=blocks,
        note="Not all bars are shown; a page has more, and all tables."
        if left or len(facts.bars) > BLOCKS_OF_PICTURE
        else "",
    )


def _move(facts: CostFacts) -> Iterator[Section]:
    case = facts.move
    if case is None:
        return
    panel = savings_panel(case, facts.currency)
    chart = Chart(title=SAVINGS, drawing=drawing_of(panel, salt=SAVINGS), keys=keys_of(panel.lines))
    yield Section(title="In figures", cards=savings_cards(case, facts.currency))
    yield Section(title="Over twelve months", charts=[chart])


def _bars_section(each: Costs, facts: CostFacts) -> Section:
    count = len(each.costs)
    lead = f"The first {BARS} of {count:,}; all stand in the table." if count > BARS else ""
    return Section(title=shown(each.title, 120), lead=lead, bars=_bars(each, facts, BARS))


def _bars(each: Costs, facts: CostFacts, most: int) -> list[Bar]:
    costs = each.costs[:most]
    longest = max(cost.usd for cost in costs) or 1
    written = facts.currency.exact if each.exact else facts.currency.shown
    return [
        Bar(
            name=f"{shown(cost.name)}{' (a claim)' if cost.claim else ''}",
            share=float(cost.usd / longest),
            figure=f"{written(cost.usd)} {facts.currency.code}",
        )
        for cost in costs
    ]


def _table(sheet: Sheet) -> Table:
    places = sheet.visible_columns()
    columns = [sheet.columns[place] for place in places]
    return Table(
        heads=[column.title.format(sheet.currency.code) for column in columns],
        rows=[
            [shown(sheet.shown(sheet.columns[place], row[place])) for place in places]
            for row in sheet.rows
        ],
        texts=[number for number, column in enumerate(columns) if column.kind is Kind.TEXT],
    )


def _said(said: Sequence[str]) -> Iterator[Section]:
    """Sentences in groups, as empty lines part them; a first line that ends in a colon is the group's title."""
    groups: list[list[str]] = [[]]
    for sentence in said:
        if sentence:
            groups[-1].append(shown(sentence.removeprefix("- "), _LONG))
        else:
            groups.append([])
    for group in filter(None, groups):
        titled = group[0].endswith(":")
        title = group[0].removesuffix(":") if titled else "What to know of it"
        yield Section(title=title, said=group[1:] if titled else group)
