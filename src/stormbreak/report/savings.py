"""What a move saves, month by month, against what it costs once: as a chart and as cards."""

from decimal import Decimal

from stormbreak.cost.compare import MONTHS
from stormbreak.cost.money import Currency, near
from stormbreak.cost.roi import Case
from stormbreak.cost.sheet import percent
from stormbreak.report.page import Card
from stormbreak.report.panel import Line, Panel

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
            name="CircuitSnapshot a month",
            figure=currency.told(case.saving),
            about=f"{currency.told(case.current)} now, {currency.told(case.candidate)} then",
        ),
        Card(
            name="Savings",
            figure="none" if share is None else percent(share),
            about="of what is paid now",
        ),
        Card(
            name="Payback",
            figure="never" if case.payback is None else _months(case.payback),
            about=f"until the {currency.told(case.migration)} of the migration are saved",
        ),
        Card(
            name="Return, 12 months",
            figure="none" if returned is None else percent(returned),
            about=f"{currency.told(case.net)} after the migration is paid, against what it costs",
        ),
    ]


def _told(payback: Decimal | None) -> str:
    return "never paid back" if payback is None else f"paid back after {_months(payback)}"


def _months(months: Decimal) -> str:
    return f"{near(months, 1)} months"


def _scale(most: Decimal) -> tuple[int, str]:
    """The unit in which ticks are short."""
    return next((each for each in _SCALES if most >= _LARGE * each[0]), (1, ""))
