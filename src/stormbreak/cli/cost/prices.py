"""`stormbreak cost prices`: what is asked for a model, by whom, and whose word that is."""

from collections.abc import Iterator, Sequence

import click

from stormbreak.cli.cost.options import currency_of, sellers_in, shared
from stormbreak.cli.cost.output import Output, price_notes
from stormbreak.cost.compare import offers_for
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError, load_lookup
from stormbreak.cost.prices import Prices, Rate, Service
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet
from stormbreak.report.cost_facts import Cost, CostFacts, Costs

_COLUMNS = (
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
    Column("currency", ""),
)


@click.command("prices")
@click.argument("models", metavar="MODEL...", nargs=-1)
@click.option(
    "--providers",
    metavar="X,Y,...",
    default="",
    help="Those of some providers only, as PROVIDER or PROVIDER@SOURCE.",
)
@shared
def command(
    *,
    models: tuple[str, ...],
    providers: str,
    files: tuple[str, ...],
    currency: str,
    rate: str | None,
    as_json: bool,
    as_csv: bool,
    report: str | None,
) -> None:
    """Show what is asked for a million tokens: of these models, of these providers, or of a price file."""
    output = Output.of(as_json=as_json, as_csv=as_csv, report=report, reads=files)
    shown_in = currency_of(currency, rate)
    lookup = load_lookup(files)
    sellers = sellers_in(providers)
    found = list(dict.fromkeys(_found(models, sellers, lookup)))
    rows = [[*cells, shown_in.code] for prices in found for cells in _rows(prices)]
    sheet = Sheet(columns=_COLUMNS, rows=rows, currency=shown_in)
    said = [f"{shown_in.code} per million tokens.", *price_notes(found, lookup)]
    head = {"currency": shown_in.code, "notes": said}
    output.answer(head, said, facts=_facts(found, shown_in), prices=sheet)


def _facts(found: Sequence[Prices], currency: Currency) -> CostFacts:
    models = list(dict.fromkeys(prices.model for prices in found))
    sellers = {prices.provider for prices in found}
    bars = [
        Costs(
            title=f"{kind.capitalize()}, {currency.code} per million tokens",
            exact=True,
            costs=[
                Cost(
                    name=f"{prices.model}, {prices.provider}, by {prices.source.name}",
                    usd=rate.at(1),
                    claim=prices.source.claim,
                )
                for prices in found
                if (rates := prices.rates(Service.STANDARD)) and (rate := getattr(rates, kind))
            ],
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
    """The prices asked for. Raises UnknownPriceError for a model that nobody has a price of."""
    if not models and not sellers and not lookup.files:
        raise click.UsageError("which? a MODEL, --providers, or --prices FILE")
    if not models and sellers:
        for seller in sellers:
            lookup.check(seller)
            yield from _known([Offer(seller, model) for model in lookup.models(seller)], lookup)
        return
    for model in models or dict.fromkeys(prices.model for prices in lookup.file_prices()):
        offers = offers_for(model, sellers, lookup)
        known = list(_known(offers, lookup))
        if not known:
            lookup.find(offers[0])  # says why
        yield from known


def _known(offers: Sequence[Offer], lookup: PriceLookup) -> Iterator[Prices]:
    for offer in offers:
        try:
            yield lookup.find(offer)
        except UnknownPriceError:
            continue


def _rows(prices: Prices) -> Iterator[list[Cell]]:
    """A row for each service, and one more for each length of prompt from which other prices hold."""
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
                *(_price(rate, above) for rate in kinds),
                prices.latency,
            ]


def _price(rate: Rate | None, above: int) -> Cell:
    return None if rate is None else rate.at(above + 1)
