"""`stormbreak cost compare`: the cost of the same traffic at several providers."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import click

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.cost import usage_report
from stormbreak.cli.cost.options import (
    PROVIDERS,
    Amount,
    Volume,
    cost_options,
    mix_of,
    reject_unused_options,
    sellers_in,
    traffic_options,
)
from stormbreak.cli.cost.output import Output, assumed, costs_of, source_notes
from stormbreak.cli.options import FILE, NAMES
from stormbreak.cost.compare import Demand, Row, compare, offers_for
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import Offer, PriceLookup, Seller, UnknownPriceError, load_lookup
from stormbreak.cost.sheet import Column, Kind, Sheet, percent, volume
from stormbreak.cost.token_prices import Service, Tokens
from stormbreak.cost.usage_file import read_traffic
from stormbreak.cost.usage_records import Traffic, Use
from stormbreak.escape import path_of
from stormbreak.report.cost_facts import CostFacts


class ComparisonRows(NamedTuple):
    """The models and providers to compare."""

    models: Sequence[str]
    sellers: Sequence[Seller]


def planned(demands: Sequence[Demand], wanted: ComparisonRows, lookup: PriceLookup) -> list[Row]:
    """Compare the offers of each model with its first; with several named models, or one provider, with the very first.

    Raises UnknownPriceError if one of the models has no price.
    """
    models = wanted.models or list(dict.fromkeys(prices.model for prices in lookup.file_prices()))
    if not models:
        raise click.UsageError("give --models, or a price file with --prices")
    groups = [offers_for(model, wanted.sellers, lookup) for model in models]
    for group in groups:
        compare(demands[0], group, lookup)  # report a misspelt name even among others
    if len(wanted.sellers) == 1 or len(wanted.models) > 1:
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
    """Compare real traffic at the providers of the used and the wanted models; return rows and notes.

    Raises UnknownPriceError if no used or wanted model has a price.
    """
    rows: list[Row] = []
    for use in traffic.uses:
        rows += _rows(_demand(use, times, service), wanted, lookup)
    if all(row.monthly is None for row in rows):
        raise UnknownPriceError(rows[0].why)
    return rows, [*_notes(traffic, times), *_total(rows, currency)]


def _demand(use: Use, times: Decimal, service: Service | None) -> Demand:
    return Demand(
        tokens=Tokens(*(amount * times for amount in use.tokens)),
        service=service or use.kind.service,
        prompt=use.tokens.input // use.requests,
        used=use.kind.model,
        estimated=use.estimated,
    )


def _rows(demand: Demand, wanted: ComparisonRows, lookup: PriceLookup) -> list[Row]:
    """Return the offers of the used model first; if it has no price, a row that explains this."""
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
    lost = [Row(demand=demand, offer=own, why=why)] if why else []
    try:
        rows = compare(demand, offers, lookup) if offers else []
    except UnknownPriceError as error:
        return [Row(demand=demand, offer=own, why=str(error))]
    return lost + [row for row in rows if row.prices]


def _notes(traffic: Traffic, times: Decimal) -> Iterator[str]:
    yield from (_use_text(use) for use in traffic.uses)
    if traffic.since and traffic.until:
        yield f"Counted from {traffic.since} to {traffic.until}."
    yield from traffic.notes
    often = "" if times == 1 else f" {times:,f} times"
    yield f"A month is assumed to be{often} the traffic of the file (--scale)."


def _use_text(use: Use) -> str:
    entry, output, cached, written, _ = map(Decimal, use.tokens)
    to_cache = f", {volume(written)} written to a cache" if written else ""
    amounts = f"{volume(entry)} tokens in ({volume(cached)} cached{to_cache})"
    service = f" ({use.kind.service})" if use.kind.service is not Service.STANDARD else ""
    text = f"{use.kind.model}{service}: {use.requests:,} requests, {amounts}, {volume(output)} out"
    if use.estimated:
        text += f"; {use.estimated:,} did not report their usage: estimated"
    return f"{text}."


def _total(rows: Sequence[Row], currency: Currency) -> Iterator[str]:
    """Add up the costs, each model at its first provider."""
    firsts: dict[Demand, Row] = {}
    for row in rows:
        firsts.setdefault(row.demand, row)
    known = [row.monthly for row in firsts.values() if row.monthly is not None]
    if len(firsts) > 1:
        of = "" if len(known) == len(firsts) else ", without parts that have no price"
        total = currency.with_code(sum(known, Decimal(0)))
        yield f"Together: {total} a month, each model at its first provider{of}."


def _source(row: Row) -> str:
    return row.prices.source.name if row.prices else row.offer.seller.source or ""


_COLUMNS: Sequence[Column[Row]] = (
    Column("tokens", "tokens", Kind.VOLUME, of=lambda row: row.demand.tokens.total),
    Column("used", "used", of=lambda row: row.demand.used),
    Column("model", "model", of=lambda row: row.offer.model),
    Column("provider", "provider", of=lambda row: row.offer.seller.provider),
    Column("source", "price by", of=_source),
    Column("monthly", "{} a month", Kind.MONEY, of=lambda row: row.monthly),
    Column("yearly", "", Kind.MONEY, of=lambda row: row.yearly),
    Column("saved_a_year", "saves a year", Kind.MONEY, of=lambda row: row.saved_a_year),
    Column("savings_share", "savings", Kind.SHARE, of=lambda row: row.share),
    Column(
        "claimed_latency",
        "latency claimed",
        of=lambda row: row.prices.latency if row.prices else "",
    ),
    Column("service", "service", usual=Service.STANDARD, of=lambda row: row.demand.service.value),
    Column("estimated_requests", "estimated", Kind.COUNT, of=lambda row: row.demand.estimated),
    Column("note", "", of=lambda row: row.why),
)
_SCALE = Amount("a number between 0.0001 and 10,000", 10_000, low="0.0001", zero=False)


@subcommand(
    "stormbreak cost compare --models gpt-4.1,deepseek-v3.2 --tokens 50M",
    "stormbreak cost compare --from answers.jsonl --scale 30 --models deepseek-v3.2",
    "stormbreak cost compare --from spent.db --since 2026-11-01 --models gpt-4.1-mini",
)
@options(
    "Offers",
    option(
        "--models",
        NAMES,
        "By default the models of the price files, or those in --from.",
        default=(),
    ),
    PROVIDERS,
)
@options(
    "Volume",
    option("--tokens volumes", Volume(several=True), "Tokens a month: 50M; several as 1M,50M,2B."),
    option(
        "--from path",
        FILE,
        "Real traffic instead: OUTPUT of a batch, LEDGER of a gateway, or an export of OpenAI's usage.",
    ),
    option("--scale", _SCALE, "Multiply the traffic in --from by N.", default="1"),
    option("--since", usage_report.Hour(), "Of a LEDGER: since this day or hour (UTC)."),
    option("--until", usage_report.Hour(), "Of a LEDGER: before this day or hour (UTC)."),
)
@traffic_options
@cost_options
def command(
    *,
    volumes: tuple[int, ...] | None,
    path: Path | None,
    scale: Decimal,
    models: tuple[str, ...],
    providers: tuple[str, ...],
    prices: tuple[str, ...],
    output: Output,
    **traffic: Any,
) -> None:
    """Compare the cost of a month of traffic with the first of --models, or else the first provider of each model."""
    currency = output.currency
    lookup = load_lookup(prices)
    wanted = ComparisonRows(models, sellers_in(providers))
    if (volumes is None) == (path is None):
        raise click.UsageError("give --tokens or --from")
    since, until = traffic.pop("since"), traffic.pop("until")
    mix = mix_of(**traffic)
    if path is not None:
        reject_unused_options(
            ("input_share", "cache_rate", "prompt_tokens"), "with --from: the file has it"
        )
        service = mix.service if traffic["service_tier"] else None
        found = _read(path, since, until)
        rows, notes = real(found, wanted, lookup, times=scale, service=service, currency=currency)
    else:
        assert volumes is not None
        reject_unused_options(("scale", "since", "until"), "without --from")
        notes = [assumed(volumes, mix)]
        rows = planned([mix.demand(volume) for volume in volumes], wanted, lookup)
    notes += source_notes(rows, lookup)
    head = {"currency": currency.code, "notes": notes}
    sheet = Sheet.of(_COLUMNS, rows, currency).with_currency()
    output.write(head, notes, facts=_facts(rows, currency), rows=sheet)


def _read(path: Path, since: float | None, until: float | None) -> Traffic:
    if usage_report.is_ledger(path):
        return usage_report.read_traffic(path, since, until)
    why = f"with {path_of(path)}: it is not a gateway's ledger"
    reject_unused_options(("since", "until"), why)
    return read_traffic(path)


def _facts(rows: Sequence[Row], currency: Currency) -> CostFacts:
    demands = dict.fromkeys(row.demand for row in rows)
    bars = [
        costs_of(
            f"{currency.code} a month for {_traffic(demand)}",
            ((_offer(row), row.monthly, row.prices) for row in rows if row.demand is demand),
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


def _offer(row: Row) -> str:
    return f"{row.offer.model}, {row.offer.seller.provider}, by {_source(row)}"


def _traffic(demand: Demand) -> str:
    tokens = f"{volume(Decimal(demand.tokens.total))} tokens"
    return f"{tokens} of {demand.used}" if demand.used else tokens


def _verdict(rows: Sequence[Row], currency: Currency) -> str:
    """Describe the offer that saves the largest share."""
    best = max(rows, key=lambda row: row.share or 0)
    if not best.share or best.monthly is None or best.against is None:
        return "No offer costs less than the first one."
    first = next(row for row in rows if row.demand is best.demand and row.monthly == best.against)
    return (
        f"{best.offer.model} at {best.offer.seller.provider} saves the largest share: {_traffic(best.demand)} cost"
        f" {currency.with_code(best.monthly)} a month (prices by {_source(best)}{_claim(best)}), {percent(best.share)}"
        f" less than the first offer's {currency.shown(best.against)}{_claim(first)}."
    )


def _claim(row: Row) -> str:
    return ", a claim" if row.prices and row.prices.source.claim else ""
