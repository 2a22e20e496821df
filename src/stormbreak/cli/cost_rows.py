"""The rows of `stormbreak cost compare`: of traffic that is planned, and of traffic that was."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple, Self

import click

from stormbreak.cli.cost_options import names_in, sellers_in
from stormbreak.cost.compare import Demand, Row, compare, offers_for, unpriced
from stormbreak.cost.lookup import Offer, PriceLookup, Seller, UnknownPriceError
from stormbreak.cost.money import Currency
from stormbreak.cost.prices import Service, Tokens
from stormbreak.cost.sheet import volume
from stormbreak.cost.traffic import Traffic, Use


class ComparisonRows(NamedTuple):
    """What `--models` and `--providers` say."""

    models: Sequence[str]
    sellers: Sequence[Seller]

    @classmethod
    def parse(cls, models: str, providers: str) -> Self:
        """Read them. Raises ConfigurationError."""
        return cls(names_in(models), sellers_in(providers))


def planned(demands: Sequence[Demand], wanted: ComparisonRows, lookup: PriceLookup) -> list[Row]:
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
    traffic: Traffic,
    wanted: ComparisonRows,
    lookup: PriceLookup,
    *,
    times: Decimal,
    service: Service | None,
    currency: Currency,
) -> tuple[list[Row], list[str]]:
    """What was used, at the providers of its own models, and of those wanted; and what to say of it.

    Raises:
        UnknownPriceError: none of the models that were used, or wanted, has a price.
    """
    rows: list[Row] = []
    for use in traffic.uses:
        rows += _rows(_demand(use, times, service), wanted, lookup)
    if all(row.monthly is None for row in rows):
        raise UnknownPriceError(rows[0].why)
    return rows, [*_said(traffic, times), *_total(rows, currency)]


def _demand(use: Use, times: Decimal, service: Service | None) -> Demand:
    return Demand(
        tokens=Tokens(*(amount * times for amount in use.tokens)),
        service=service or use.kind.service,
        prompt=use.tokens.input // use.requests,
        used=use.kind.model,
        estimated=use.estimated,
    )


def _rows(demand: Demand, wanted: ComparisonRows, lookup: PriceLookup) -> list[Row]:
    """The offers of the model that was used come first; where it has no price at all, a row says so."""
    offers: list[Offer] = []
    own = Offer(Seller(""), demand.used)
    why = ""
    for model in dict.fromkeys([demand.used, *wanted.models]):
        try:
            offers += offers_for(model, wanted.sellers, lookup)
        except UnknownPriceError as error:
            if model != demand.used:
                raise
            why = str(error)
    lost = [unpriced(demand, own, why)] if why else []
    try:
        rows = compare(demand, offers, lookup) if offers else []
    except UnknownPriceError as error:
        return [unpriced(demand, own, str(error))]
    return lost + [row for row in rows if row.prices]


def _said(traffic: Traffic, times: Decimal) -> Iterator[str]:
    yield from (_told(use) for use in traffic.uses)
    if traffic.since and traffic.until:
        yield f"Counted from {traffic.since} to {traffic.until}."
    yield from traffic.said
    often = "once" if times == 1 else f"{times:,f} times"
    yield f"A month is what the file holds, {often} (--times)."


def _told(use: Use) -> str:
    entry, output, cached, written, _ = map(Decimal, use.tokens)
    to_cache = f", {volume(written)} written to a cache" if written else ""
    amounts = f"{volume(entry)} tokens in ({volume(cached)} cached{to_cache})"
    service = f" ({use.kind.service})" if use.kind.service is not Service.STANDARD else ""
    said = f"{use.kind.model}{service}: {use.requests:,} requests, {amounts}, {volume(output)} out"
    if use.estimated:
        said += f"; {use.estimated:,} did not say what they used: estimated"
    return f"{said}."


def _total(rows: Sequence[Row], currency: Currency) -> Iterator[str]:
    """What all that was used costs, each model at its first seller."""
    firsts: dict[Demand, Row] = {}
    for row in rows:
        firsts.setdefault(row.demand, row)
    known = [row.monthly for row in firsts.values() if row.monthly is not None]
    if len(firsts) > 1:
        of = "" if len(known) == len(firsts) else ", without what has no price"
        total = currency.told(sum(known, Decimal(0)))
        yield f"Together: {total} a month, each model at its first provider{of}."
