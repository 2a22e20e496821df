"""`stormbreak cost compare`: what the same traffic costs at several providers."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

import click

from stormbreak.cli.cost_options import Volume, currency_of, lookup_in, names_in, shared, traffic
from stormbreak.cli.cost_output import Output
from stormbreak.cli.cost_words import assumed, said_of
from stormbreak.cost.compare import Demand, Row, compare, offers_for
from stormbreak.cost.lookup import Lookup, Offer, Seller
from stormbreak.cost.money import Currency
from stormbreak.cost.prices import Service, Tokens
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet

_COLUMNS = (
    Column("tokens", "tokens", Kind.VOLUME),
    Column("model", "model"),
    Column("provider", "provider"),
    Column("source", "price by"),
    Column("monthly", "a month", Kind.MONEY),
    Column("yearly", "", Kind.MONEY),
    Column("saved_a_year", "saves a year", Kind.MONEY),
    Column("savings_share", "savings", Kind.SHARE),
    Column("claimed_latency", "latency claimed"),
    Column("note", ""),
)


@click.command("compare")
@click.option("--tokens", "volumes", type=Volume(several=True), help="A month: 50M, or 1M,50M,2B.")
@click.option("--models", metavar="A,B,...", default="", help="Which models.")
@click.option("--providers", metavar="X,Y,...", default="", help="At which providers.")
@traffic
@shared
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    volumes: tuple[int, ...] | None,
    models: str,
    providers: str,
    input_share: Decimal,
    cache_rate: Decimal,
    prompt: tuple[int, ...],
    service: str | None,
    files: tuple[str, ...],
    currency: str,
    rate: str | None,
    as_json: bool,
    as_csv: bool,
    report: str | None,
) -> None:
    """Compare what the same traffic costs, against the first provider of each model."""
    output = Output.of(as_json=as_json, as_csv=as_csv, report=report)
    shown_in = currency_of(currency, rate)
    lookup = lookup_in(files)
    if volumes is None:
        raise click.UsageError("--tokens is missing: how many in a month?")
    wanted = names_in(models) or list(dict.fromkeys(it.model for it in lookup.filed()))
    if not wanted:
        raise click.UsageError("--models is missing, and no price file says which")
    demands = [
        Demand(
            tokens=Tokens.split(volume, input_share=input_share, cache_rate=cache_rate),
            service=Service(service or Service.STANDARD),
            prompt=prompt[0],
        )
        for volume in volumes
    ]
    sellers = [Seller.parse(name) for name in names_in(providers)]
    rows = [row for demand in demands for row in _rows(demand, wanted, sellers, lookup)]
    said = [assumed(volumes, input_share, cache_rate, service), *said_of(rows, lookup)]
    head = {"currency": shown_in.code, "input_share": input_share, "cache_rate": cache_rate}
    output.answer({**head, "notes": said}, said, rows=_sheet(rows, shown_in))


def _rows(
    demand: Demand, models: Sequence[str], sellers: Sequence[Seller], lookup: Lookup
) -> Iterator[Row]:
    """Each model's offers against the first of them; with one provider alone, all models against the first."""
    offers = [offers_for(model, sellers, lookup) for model in models]
    if len(sellers) == 1:
        offers = [[offer for of_model in offers for offer in of_model]]
    for group in offers:
        yield from compare(demand, group, lookup)


def _sheet(rows: Sequence[Row], currency: Currency) -> Sheet:
    return Sheet(columns=_COLUMNS, rows=[_cells(row) for row in rows], currency=currency)


def _cells(row: Row) -> list[Cell]:
    prices = row.prices
    return [
        row.demand.tokens.total,
        row.offer.model,
        row.offer.seller.provider,
        _source(row.offer, row),
        row.monthly,
        row.yearly,
        row.saved_a_year,
        row.share,
        prices.latency if prices else "",
        row.why,
    ]


def _source(offer: Offer, row: Row) -> str:
    return row.prices.source.name if row.prices else offer.seller.source or ""
