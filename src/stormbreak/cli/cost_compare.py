"""`stormbreak cost compare`: what the same traffic costs at several providers."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import click

from stormbreak.cli.cost_options import (
    Amount,
    Volume,
    currency_of,
    reject_unused_options,
    shared,
    traffic,
)
from stormbreak.cli.cost_output import Output
from stormbreak.cli.cost_rows import ComparisonRows, planned, real
from stormbreak.cli.cost_words import assumed, source_notes
from stormbreak.cost.compare import Demand, Mix, Row
from stormbreak.cost.lookup import load_lookup
from stormbreak.cost.money import Currency
from stormbreak.cost.prices import Service
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet, percent, volume
from stormbreak.cost.traffic_file import read_traffic
from stormbreak.report.cost_facts import Cost, CostFacts, Costs

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
        f" {_traffic(best.demand)} cost {currency.told(best.monthly)} a month, {percent(best.share)} less than"
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
