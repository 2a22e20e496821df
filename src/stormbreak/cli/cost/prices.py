"""`stormbreak cost prices`: the prices of models, with the source of each price."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from stormbreak.cli.command import subcommand
from stormbreak.cli.cost.options import PROVIDERS, cost_options, sellers_in
from stormbreak.cli.cost.output import Output, costs_of, price_notes
from stormbreak.cost.compare import offers_for
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError, load_lookup
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet
from stormbreak.cost.token_prices import Prices, Service
from stormbreak.report.cost_facts import CostFacts

_COLUMNS: Sequence[Column[Any]] = (
    Column("model", "model"),
    Column("provider", "provider"),
    Column("listed_as", ""),
    Column("source", "price by"),
    Column("as_of", ""),
    Column("claim", ""),
    Column("service", "service"),
    Column("prompts_above", "prompts above", Kind.VOLUME),
    Column("input", "{} input", Kind.PRICE),
    Column("cached_input", "cached", Kind.PRICE),
    Column("cache_write", "written", Kind.PRICE),
    Column("cache_write_1h", "for an hour", Kind.PRICE),
    Column("output", "output", Kind.PRICE),
    Column("claimed_latency", "latency claimed"),
)


@subcommand(
    "stormbreak cost prices gpt-4.1", "stormbreak cost prices --providers deepseek,anthropic --csv"
)
@click.argument("models", metavar="MODEL...", nargs=-1)
@PROVIDERS
@cost_options
def command(
    *, models: tuple[str, ...], providers: tuple[str, ...], prices: tuple[str, ...], output: Output
) -> None:
    """Print prices per million tokens: of these models, of these providers, or of a price file."""
    currency = output.currency
    lookup = load_lookup(prices)
    found = list(dict.fromkeys(_found(models, sellers_in(providers), lookup)))
    rows = [cells for each in found for cells in _rows(each)]
    sheet = Sheet(columns=_COLUMNS, rows=rows, currency=currency).with_currency()
    notes = [f"{currency.code} per million tokens.", *price_notes(found, lookup)]
    head = {"currency": currency.code, "notes": notes}
    output.write(head, notes, facts=_facts(found, currency), prices=sheet)


def _facts(found: Sequence[Prices], currency: Currency) -> CostFacts:
    models = list(dict.fromkeys(prices.model for prices in found))
    sellers = {prices.provider for prices in found}
    bars = [
        costs_of(
            f"{kind.capitalize()}, {currency.code} per million tokens",
            (
                (f"{each.model}, {each.provider}, by {each.source.name}", rate.at(1), each)
                for each in found
                if (rate := getattr(each.standard, kind))
            ),
            exact=True,
        )
        for kind in ("input", "output")
    ]
    return CostFacts(
        kind="prices",
        title=", ".join(models),
        verdict=f"Price lists: {len(found):,}; models: {len(models):,}; providers: {len(sellers):,}.",
        bars=bars,
        currency=currency,
    )


def _found(
    models: Sequence[str], sellers: Sequence[Seller], lookup: PriceLookup
) -> Iterator[Prices]:
    """Find the prices. Raises UnknownPriceError for a model without one."""
    if not models and not sellers and not lookup.files:
        raise click.UsageError("give a MODEL, --providers or --prices FILE")
    if not models and sellers:
        for seller in sellers:
            lookup.check(seller)
            yield from _known([Offer(seller, model) for model in lookup.models(seller)], lookup)
        return
    for model in models or dict.fromkeys(prices.model for prices in lookup.file_prices()):
        offers = offers_for(model, sellers, lookup)
        known = list(_known(offers, lookup))
        if not known:
            lookup.find(offers[0])  # this explains why
        yield from known


def _known(offers: Sequence[Offer], lookup: PriceLookup) -> Iterator[Prices]:
    for offer in offers:
        try:
            yield lookup.find(offer)
        except UnknownPriceError:
            continue


def _rows(prices: Prices) -> Iterator[list[Cell]]:
    """A row for each service, and one more for each prompt length at which the prices change."""
    for service in Service:
        rates = prices.rates(service)
        if rates is None:
            continue
        written = rates.cache_write, rates.cache_write_1h
        kinds = (rates.input, rates.cached_input, *written, rates.output)
        lengths = {step.above for rate in kinds if rate for step in rate.steps}
        for above in (0, *sorted(lengths)):
            yield [
                prices.model,
                prices.provider,
                prices.listed_as,
                prices.source.name,
                str(prices.source.as_of or ""),
                "yes" if prices.source.claim else "no",
                service.value,
                above or None,
                *(None if rate is None else rate.at(above + 1) for rate in kinds),
                prices.latency,
            ]
