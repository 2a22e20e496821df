"""`stormbreak cost compare`: the cost of the same traffic at several providers."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Self

import click

from stormbreak.cli.cost.options import (
    Amount,
    Volume,
    currency_of,
    names_in,
    reject_unused_options,
    sellers_in,
    shared,
    traffic,
)
from stormbreak.cli.cost.output import Output, assumed, source_notes
from stormbreak.cost.compare import Demand, Mix, Row, compare, offers_for, unpriced
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError, load_lookup
from stormbreak.cost.prices import Service, Tokens
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet, percent, volume
from stormbreak.cost.usage_file import read_traffic
from stormbreak.cost.usage_records import Traffic, Use
from stormbreak.report.cost_facts import Cost, CostFacts, Costs

# ---------------------------------------------------------------- rows of the table


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
    models = wanted.models or list(dict.fromkeys(prices.model for prices in lookup.file_prices()))
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
    yield from traffic.notes
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
        total = currency.with_code(sum(known, Decimal(0)))
        yield f"Together: {total} a month, each model at its first provider{of}."


# ---------------------------------------------------------------- command

_COLUMNS = (
    Column("tokens", "tokens", Kind.VOLUME),
    Column("used", "used"),
    Column("model", "model"),
    Column("provider", "provider"),
    Column("source", "price by"),
    Column("monthly", "{} a month", Kind.MONEY),
    Column("yearly", "", Kind.MONEY),
    Column("saved_a_year", "saves a year", Kind.MONEY),
    Column("savings_share", "savings", Kind.SHARE),
    Column("claimed_latency", "latency claimed"),
    Column("service", "service", usual=Service.STANDARD),
    Column("estimated_requests", "estimated", Kind.COUNT),
    Column("note", ""),
    Column("currency", ""),
)
_TIMES = Amount("a number between 0.0001 and 10,000", 10_000, least="0.0001", zero=False)


@click.command("compare")
@click.option(
    "--tokens",
    "volumes",
    type=Volume(several=True),
    help="Tokens a month: 50M; several as 1M,50M,2B.",
)
@click.option(
    "--from",
    "path",
    type=click.Path(path_type=Path),
    help="Real traffic in place of --tokens: OUTPUT of a batch, or OpenAI's export of usage.",
)
@click.option(
    "--times",
    type=_TIMES,
    default="1",
    show_default=True,
    help="How many times what is in --from makes a month.",
)
@click.option(
    "--models",
    metavar="A,B,...",
    default="",
    help="Which models; without it those of the price files, or of --from.",
)
@click.option(
    "--providers",
    metavar="X,Y,...",
    default="",
    help="Where, as PROVIDER or PROVIDER@SOURCE; without it at all that are known.",
)
@traffic
@shared
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    volumes: tuple[int, ...] | None,
    path: Path | None,
    times: Decimal,
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
    output = Output.of(as_json=as_json, as_csv=as_csv, report=report, reads=(path, *files))
    shown_in = currency_of(currency, rate)
    lookup = load_lookup(files)
    wanted = ComparisonRows.parse(models, providers)
    if (volumes is None) == (path is None):
        raise click.UsageError("--tokens or --from: one of them is needed")
    if path is not None:
        reject_unused_options(
            ("input_share", "cache_rate", "prompt"), "beside --from, which says it itself"
        )
        of = None if service is None else Service(service)
        rows, said = real(
            read_traffic(path), wanted, lookup, times=times, service=of, currency=shown_in
        )
    else:
        assert volumes is not None
        reject_unused_options(("times",), "without --from")
        mix = Mix(input_share, cache_rate, prompt[0], Service(service or Service.STANDARD))
        said = [assumed(volumes, mix)]
        rows = planned([mix.demand(volume) for volume in volumes], wanted, lookup)
    said += source_notes(rows, lookup)
    head = {"currency": shown_in.code, "notes": said}
    output.answer(head, said, facts=_facts(rows, shown_in), rows=_sheet(rows, shown_in))


def _sheet(rows: Sequence[Row], currency: Currency) -> Sheet:
    cells = [[*_cells(row), currency.code] for row in rows]
    return Sheet(columns=_COLUMNS, rows=cells, currency=currency)


def _facts(rows: Sequence[Row], currency: Currency) -> CostFacts:
    demands = dict.fromkeys(row.demand for row in rows)
    bars = [
        Costs(
            title=f"{currency.code} a month for {_traffic(demand)}",
            costs=[
                Cost(
                    name=f"{row.offer.model}, {row.offer.seller.provider}, by {_source(row)}",
                    usd=row.monthly,
                    claim=row.prices is not None and row.prices.source.claim,
                )
                for row in rows
                if row.demand is demand and row.monthly is not None
            ],
        )
        for demand in demands
    ]
    return CostFacts(
        kind="a comparison of costs",
        title=", ".join(dict.fromkeys(row.offer.model for row in rows)),
        verdict=_verdict(rows, currency),
        facts=[("a month", _traffic(demand)) for demand in demands],
        bars=bars,
        currency=currency,
    )


def _source(row: Row) -> str:
    return row.prices.source.name if row.prices else row.offer.seller.source or ""


def _traffic(demand: Demand) -> str:
    tokens = f"{volume(Decimal(demand.tokens.total))} tokens"
    return f"{tokens} of {demand.used}" if demand.used else tokens


def _verdict(rows: Sequence[Row], currency: Currency) -> str:
    """Tell of the offer that saves the greatest share."""
    best = max(rows, key=lambda row: row.share or 0)
    if not best.share or best.monthly is None or best.against is None:
        return "No offer costs less than the first that it is held against."
    first = next(row for row in rows if row.demand is best.demand and row.monthly == best.against)
    return (
        f"{best.offer.model} at {best.offer.seller.provider} saves the largest share: by {_source(best)}{_claim(best)},"
        f" {_traffic(best.demand)} cost {currency.with_code(best.monthly)} a month, {percent(best.share)} less than"
        f" the first offer's {currency.shown(best.against)}{_claim(first)}."
    )


def _claim(row: Row) -> str:
    return ", a claim" if row.prices and row.prices.source.claim else ""


def _cells(row: Row) -> list[Cell]:
    seller = row.offer.seller
    return [
        row.demand.tokens.total,
        row.demand.used,
        row.offer.model,
        seller.provider,
        _source(row),
        row.monthly,
        row.yearly,
        row.saved_a_year,
        row.share,
        row.prices.latency if row.prices else "",
        row.demand.service.value,
        row.demand.estimated,
        row.why,
    ]
