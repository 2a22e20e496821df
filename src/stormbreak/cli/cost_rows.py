"""The rows of `stormbreak cost compare`: of traffic that is planned, and of traffic that was."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple, Self

import click

from stormbreak.cli.cost_options import names_in
from stormbreak.cost.compare import Demand, Row, compare, offers_for, unpriced
from stormbreak.cost.lookup import Lookup, Offer, Seller, UnknownPriceError
from stormbreak.cost.prices import Service, Tokens
from stormbreak.cost.sheet import volume
from stormbreak.cost.traffic import Traffic, Use


class Wanted(NamedTuple):
    """What `--models` and `--providers` say."""

    models: Sequence[str]
    sellers: Sequence[Seller]

    @classmethod
    def parse(cls, models: str, providers: str) -> Self:
        """Read them. Raises ConfigurationError."""
        return cls(names_in(models), [Seller.parse(name) for name in names_in(providers)])


def planned(demands: Sequence[Demand], wanted: Wanted, lookup: Lookup) -> list[Row]:
    """Each model's offers against the first of them; with one provider alone, all models against the first.

    Raises:
        UnknownPriceError: nobody has a price for one of the models.
    """
    models = wanted.models or list(dict.fromkeys(prices.model for prices in lookup.filed()))
    if not models:
        raise click.UsageError("--models is missing, and no price file says which")
    groups = [offers_for(model, wanted.sellers, lookup) for model in models]
    for group in groups:
        compare(demands[0], group, lookup)  # a misspelt name is not lost among others
    if len(wanted.sellers) == 1:
        groups = [[offer for group in groups for offer in group]]
    return [row for demand in demands for group in groups for row in compare(demand, group, lookup)]


def real(
    traffic: Traffic, wanted: Wanted, lookup: Lookup, *, times: Decimal, service: Service | None
) -> tuple[list[Row], list[str]]:
    """What was used, at the providers of its own models, and of those wanted; and what to say of it.

    Raises:
        UnknownPriceError: none of the models that were used, or wanted, has a price.
    """
    rows: list[Row] = []
    for use in traffic.uses:
        demand = _demand(use, times, service)
        rows += _priced(demand, list(_offers(use, wanted, lookup)), lookup)
    if all(row.monthly is None for row in rows):
        raise UnknownPriceError(rows[0].why)
    return rows, list(_said(traffic, rows, times))


def _demand(use: Use, times: Decimal, service: Service | None) -> Demand:
    return Demand(
        tokens=Tokens(*(amount * times for amount in use.tokens)),
        service=service or use.kind.service,
        prompt=use.tokens.input // use.requests,
        used=use.kind.model,
        estimated=use.estimated,
    )


def _offers(use: Use, wanted: Wanted, lookup: Lookup) -> Iterator[Offer]:
    """Those of the model used come first."""
    for model in dict.fromkeys([use.kind.model, *wanted.models]):
        yield from offers_for(model, wanted.sellers, lookup)


def _priced(demand: Demand, offers: Sequence[Offer], lookup: Lookup) -> list[Row]:
    """Rows with a price; where nobody has one, a row that says so."""
    try:
        rows = compare(demand, offers, lookup)
    except UnknownPriceError as error:
        return [unpriced(demand, offers[0], str(error))]
    return [row for row in rows if row.prices or same_model(row)]


def same_model(row: Row) -> bool:
    """Whether the row is of the model that was used."""
    return row.offer.model == row.demand.used


def _said(traffic: Traffic, rows: Sequence[Row], times: Decimal) -> Iterator[str]:
    yield from (_told(use) for use in traffic.uses)
    if traffic.since and traffic.until:
        days = (traffic.until - traffic.since).days
        yield f"Counted from {traffic.since} to {traffic.until}, {days} days."
    yield from traffic.said
    often = "as it is" if times == 1 else f"{times:f} times"
    yield f"A month is what the file holds, {often}: --times says otherwise."
    lost = dict.fromkeys(row.demand.used for row in rows if row.why)
    if lost:
        yield f"Left out of all amounts, since no price is known: {', '.join(lost)}."


def _told(use: Use) -> str:
    tokens = use.tokens
    amounts = f"{volume(Decimal(tokens.input))} in ({volume(Decimal(tokens.cached_input))} cached)"
    said = f"{use.kind.model}: {use.requests:,} requests, {amounts}, {volume(Decimal(tokens.output))} out"
    if use.estimated:
        said += f"; {use.estimated:,} of them did not say what they used, and are estimated"
    return f"{said}."
