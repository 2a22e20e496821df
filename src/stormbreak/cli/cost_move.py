"""A move from one offer to another, for `stormbreak cost roi`: looked up, as a sheet of cases, and in words."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple, Self

from stormbreak.cli.cost_told import Told
from stormbreak.cli.cost_words import notes_of, whence
from stormbreak.cost.advice import Migration, outcome, reasons
from stormbreak.cost.compare import Demand, at_list
from stormbreak.cost.lookup import Offer, PriceLookup
from stormbreak.cost.money import KEPT, Currency, near, rounded
from stormbreak.cost.outage import Downtime
from stormbreak.cost.prices import Prices
from stormbreak.cost.roi import Case, sensitivity
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet, percent, volume
from stormbreak.errors import ConfigurationError

_COLUMNS = (
    Column("case", "case"),
    Column("current", "{} a month now", Kind.MONEY),
    Column("candidate", "then", Kind.MONEY),
    Column("saved_a_month", "saved a month", Kind.MONEY),
    Column("saved_a_year", "a year", Kind.MONEY),
    Column("savings_share", "savings", Kind.SHARE),
    Column("payback_months", "payback, months", Kind.NUMBER, "never"),
    Column("return_12_months", "return, 12 months", Kind.SHARE),
    Column("break_even_tokens", "", Kind.VOLUME),
)


class Offers(NamedTuple):
    """What is used today, and what would be."""

    current: Offer
    candidate: Offer

    @classmethod
    def parse(cls, current: str, candidate: str) -> Self:
        """Read what `--current` and `--candidate` say."""
        return cls(_parse("--current", current), _parse("--candidate", candidate))

    def move(
        self, demand: Demand, migration: Decimal, lookup: PriceLookup, downtime: Downtime | None
    ) -> Migration:
        """Look the prices up. Raises UnknownPriceError."""
        now, then = (lookup.find(offer) for offer in self)
        case = Case(
            tokens=demand.tokens.total,
            current=demand.cost(now),
            candidate=demand.cost(then),
            migration=migration,
        )
        return Migration(
            case=case,
            current=now,
            candidate=then,
            listed_current=at_list(now, demand, lookup) if now.source.claim else None,
            listed_candidate=at_list(then, demand, lookup),
            per_minute=downtime.per_minute if downtime else None,
            on=lookup.market.on,
        )


def migration_cost(told: Told, move: Migration) -> None:
    """Add a move to what will be printed."""
    case, currency = move.case, told.currency
    against = list(reasons(move, currency))
    told.sheets["cases"] = Sheet(columns=_COLUMNS, rows=list(_rows(move)), currency=currency)
    told.head.update(
        current=_head(move.current),
        candidate=_head(move.candidate),
        tokens=case.tokens,
        migration=currency.of(case.migration),
        price_headroom=None if case.headroom is None else rounded(case.headroom, KEPT),
        when_not_to_switch=[{"holds": it.holds, "said": it.said} for it in against],
    )
    told.said.append(
        f"The migration costs {currency.told(case.migration)}, once. Savings are a share of what is paid"
        " now; the return is what twelve months leave after the migration is paid, against what it costs."
    )
    told.said.extend(map(whence, dict.fromkeys((move.current.source, move.candidate.source))))
    told.said.extend(notes_of((move.current, move.candidate)))
    told.said.extend(["", "When not to switch:"])
    told.said.extend(f"- {'now: ' if it.holds else ''}{it.said}" for it in against)

    told.move = case
    told.titles.append(f"{_name(move.current)} to {_name(move.candidate)}")
    told.verdicts.append(_verdict(move, currency))
    told.about.extend(
        [
            ("current", _priced(move.current)),
            ("candidate", _priced(move.candidate)),
            ("tokens a month", volume(Decimal(case.tokens))),
        ]
    )


def _name(prices: Prices) -> str:
    return f"{prices.provider}/{prices.model}"


def _priced(prices: Prices) -> str:
    claim = ", a claim" if prices.source.claim else ""
    return f"{_name(prices)}, by {prices.source.name}{claim}"


def _verdict(move: Migration, currency: Currency) -> str:
    """Tell what comes of it in one sentence; where what is paid now is a claim, what the list says in a second one."""
    case, listed = move.case, move.listed_current
    said = f"The move {outcome(case.saving, currency.told)}"
    if case.saving > 0:
        share = "" if case.share is None else f", {percent(case.share)} of what is paid now"
        assert case.payback is not None, "what saves is paid back"
        said += f"{share}, and is paid back after {near(case.payback, 1)} months"
    if listed is None:
        return f"{said}."
    then = outcome(listed - case.candidate, currency.told)
    return f"{said}, by a claim. Against today's list price of {move.current.maker} it {then}."


def _parse(option: str, text: str) -> Offer:
    try:
        return Offer.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{option} {error}") from None


def _head(prices: Prices) -> dict[str, str]:
    source = prices.source.name
    return {"provider": prices.provider, "model": prices.model, "source": source}


def _rows(move: Migration) -> Iterator[list[Cell]]:
    yield _cells("as given", move.case)
    if move.listed_current is not None:
        yield _cells("current at its list price", replace(move.case, current=move.listed_current))
    for name, case in sensitivity(move.case):
        yield _cells(name, case)


def _cells(name: str, case: Case) -> list[Cell]:
    return [
        name,
        case.current,
        case.candidate,
        case.saving,
        case.saving_a_year,
        case.share,
        case.payback,
        case.returned,
        case.break_even,
    ]
