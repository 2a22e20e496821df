"""The report of `stormbreak cost` and of an estimate: the result, charts, tables and notes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from stormbreak.cost.compare import MONTHS
from stormbreak.cost.money import Currency, near
from stormbreak.cost.roi import Case
from stormbreak.cost.sheet import Kind, Sheet, percent
from stormbreak.escape import shown
from stormbreak.report.chart import Line, Panel
from stormbreak.report.cost_facts import CostFacts, Costs
from stormbreak.report.page import Bar, BarChart, Card, Chart, Page, Section, Table
from stormbreak.report.picture import Picture

SAVINGS = "Savings against the cost of the move"

_SCALES = (
    (10**12, "trillions of "),
    (10**9, "billions of "),
    (10**6, "millions of "),
    (10**3, "thousands of "),
)
_LARGE = 10  # units from which the larger unit is used


def savings_chart(case: Case, currency: Currency, listed: Case | None = None) -> Chart:
    """Make the chart of twelve months, with the payback time shaded; and with savings against the list price."""
    months = range(MONTHS + 1)
    saved = [case.saving * month * currency.per_usd for month in months]
    at_list = [] if listed is None else [listed.saving * each * currency.per_usd for each in months]
    costs = case.migration * currency.per_usd
    size, scale = _scale(max(map(abs, (*saved, *at_list, costs))))
    unit = f"{scale}{currency.code}"
    paid = case.payback
    payback = "never paid back" if paid is None else f"paid back after {_months(paid)}"
    panel = Panel(
        about=f"{SAVINGS}, in {unit}, over twelve months: {payback}.",
        x_label="months since the move",
        y_label=unit,
        xs=[float(month) for month in months],
        lines=[
            Line(
                name="saved, by a claim" if at_list else "saved so far",
                ys=[float(usd / size) for usd in saved],
                stroke=0,
            ),
            Line(name="the move costs", ys=[float(costs / size)] * len(months), stroke=1),
        ],
        shaded=(0.0, float(paid)) if paid and paid <= MONTHS else None,
        shaded_as=f"payback: {_months(paid)}" if paid else "",
    )
    if at_list:
        line = Line(name="saved, list price", ys=[float(usd / size) for usd in at_list], stroke=2)
        panel = replace(panel, lines=[*panel.lines, line])
    return Chart.with_legend(SAVINGS, panel)


def savings_cards(case: Case, currency: Currency, by: str = "") -> list[Card]:
    """Make the cards of a case; `by`, such as ", by a claim", ends their names."""
    share, returned = case.share, case.returned
    return [
        Card(
            name=f"Saved a month{by}",
            figure=currency.with_code(case.saving),
            about=f"{currency.with_code(case.current)} now, {currency.with_code(case.candidate)} then",
        ),
        Card(
            name=f"Savings{by}",
            figure="none" if share is None else percent(share),
            about="of the current cost",
        ),
        Card(
            name=f"Payback{by}",
            figure="never" if case.payback is None else _months(case.payback),
            about=f"until the {currency.with_code(case.migration)} of the migration are saved"
            if case.payback is not None
            else f"are the {currency.with_code(case.migration)} of the migration saved",
        ),
        Card(
            name=f"Return, 12 months{by}",
            figure="none" if returned is None else percent(returned),
            about=f"{currency.with_code(case.net)} after the migration is paid, relative to its cost",
        ),
    ]


def _months(months: Decimal) -> str:
    return f"{near(months, 1)} months"


def _scale(largest: Decimal) -> tuple[int, str]:
    return next((each for each in _SCALES if largest >= _LARGE * each[0]), (1, ""))


BARS, BARS_OF_PICTURE, BLOCKS_OF_PICTURE = 20, 12, 4
"""Maximum bars of a chart on a page and in a picture, and charts in a picture. The tables have all amounts."""

_CARDS_OF_PICTURE = 3  # of a claim, and as many at the list price

_LONG = 1000  # characters of a sentence
_TITLES: Mapping[str, str] = {
    "rows": "Offers",
    "prices": "Prices",
    "models": "By model",
    "waste": "Wasted, by reason",
    "times": "Time, by limit",
    "cases": "As given, and with other prices and volumes",
    "storm": "The outage, by policy",
}


def cost_page(facts: CostFacts, sentences: Sequence[str], sheets: Mapping[str, Sheet]) -> Page:
    tables = [
        Section(title=_TITLES.get(name, name), table=_table(sheet))
        for name, sheet in sheets.items()
        if sheet.rows
    ]
    bars = [_bars_section(each, facts) for each in facts.bars if each.costs]
    return Page(
        kind=facts.kind,
        title=shown(facts.title, 120),
        verdict=shown(facts.verdict, _LONG),
        facts=[(name, shown(value, 200)) for name, value in facts.facts],
        sections=[*_move(facts), *bars, *tables, *_notes(sentences)],
    )


def cost_picture(facts: CostFacts) -> Picture:
    case = facts.move
    left = any(len(each.costs) > BARS_OF_PICTURE for each in facts.bars)
    return Picture(
        title=f"{facts.kind}: {shown(facts.title, 100)}",
        verdict=shown(facts.verdict, _LONG),
        cards=_cards_of_picture(facts),
        charts=[] if case is None else [savings_chart(case, facts.currency, facts.listed)],
        bars=[
            BarChart(title=shown(each.title, 120), bars=_bars(each, facts, BARS_OF_PICTURE))
            for each in facts.bars[:BLOCKS_OF_PICTURE]
            if each.costs
        ],
        note="Not all bars are shown; the HTML report has more, and all tables."
        if left or len(facts.bars) > BLOCKS_OF_PICTURE
        else "",
    )


def _cards_of_picture(facts: CostFacts) -> list[Card]:
    """Make the cards of a move; for a claim, its first cards and then those at the list price."""
    case, listed, currency = facts.move, facts.listed, facts.currency
    if case is None:
        return []
    if listed is None:
        return savings_cards(case, currency)
    claimed = savings_cards(case, currency, ", by a claim")[:_CARDS_OF_PICTURE]
    return [*claimed, *savings_cards(listed, currency, ", list price")[:_CARDS_OF_PICTURE]]


def _move(facts: CostFacts) -> Iterator[Section]:
    case = facts.move
    if case is None:
        return
    title = "In figures" if facts.listed is None else "In figures, by a claim"
    yield Section(title=title, cards=savings_cards(case, facts.currency))
    if facts.listed is not None:
        title = "In figures, against today's list price"
        yield Section(title=title, cards=savings_cards(facts.listed, facts.currency))
    yield Section(
        title="Over twelve months", charts=[savings_chart(case, facts.currency, facts.listed)]
    )


def _bars_section(each: Costs, facts: CostFacts) -> Section:
    count = len(each.costs)
    lead = f"The first {BARS} of {count:,}; all are in the table." if count > BARS else ""
    return Section(title=shown(each.title, 120), lead=lead, bars=_bars(each, facts, BARS))


def _bars(each: Costs, facts: CostFacts, maximum: int) -> list[Bar]:
    costs = each.costs[:maximum]
    longest = max(cost.usd for cost in costs) or 1
    amount = facts.currency.exact if each.exact else facts.currency.shown
    return [
        Bar(
            name=f"{shown(cost.name)}{' (a claim)' if cost.claim else ''}",
            share=float(cost.usd / longest),
            figure=f"{amount(cost.usd)} {facts.currency.code}",
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


def _notes(sentences: Sequence[str]) -> Iterator[Section]:
    """Group sentences at empty ones; a first sentence that ends in a colon is the title of its group."""
    groups: list[list[str]] = [[]]
    for sentence in sentences:
        if sentence:
            groups[-1].append(shown(sentence.removeprefix("- "), _LONG))
        else:
            groups.append([])
    for group in filter(None, groups):
        titled = group[0].endswith(":")
        title = group[0].removesuffix(":") if titled else "Notes"
        yield Section(title=title, sentences=group[1:] if titled else group)
