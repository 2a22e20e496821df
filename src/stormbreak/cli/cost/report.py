"""`stormbreak cost report`: the cost of a batch and its wasted part, or the spending of gateways."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from stormbreak.batch.store.cost import BatchCost, ModelCost, lookup_of, read_cost
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.cost import usage_report
from stormbreak.cli.cost.options import cost_options, reject_unused_options
from stormbreak.cli.cost.output import Output, costs_of, price_notes
from stormbreak.cli.options import FILE
from stormbreak.cost.accounts import Span
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet
from stormbreak.cost.token_prices import Service
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain
from stormbreak.report.cost_facts import CostFacts

_COLUMNS: Sequence[Column[ModelCost]] = (
    Column("model", "model", of=lambda it: it.model + " (batch)" * (it.service is Service.BATCH)),
    Column("provider", "provider", of=lambda it: it.provider),
    Column("source", "", of=lambda it: it.prices.source.name if it.prices else ""),
    Column("answers", "answers", Kind.COUNT, of=lambda it: it.answers),
    Column("estimated", "", Kind.COUNT, of=lambda it: it.estimated),
    *usage_report.token_columns(lambda it: it.tokens),
    Column("useful", "{} useful", Kind.MONEY, of=lambda it: it.useful),
    Column("attempts_besides", "other attempts", Kind.COUNT, of=lambda it: it.besides),
    Column("attempts_free", "of them free", Kind.COUNT, of=lambda it: it.free),
    Column("wasted_min", "wasted, at least", Kind.MONEY, of=lambda it: it.wasted and it.wasted[0]),
    Column("wasted_max", "at most", Kind.MONEY, of=lambda it: it.wasted and it.wasted[1]),
    Column(
        "total_min", "{} in all, at least", Kind.MONEY, of=lambda it: it.in_all and it.in_all[0]
    ),
    Column("total_max", "at most", Kind.MONEY, of=lambda it: it.in_all and it.in_all[1]),
)
_WASTE: Sequence[Column[Any]] = (
    Column("reason", "wasted for"),
    Column("attempts", "attempts", Kind.COUNT),
    Column("input_tokens", "in, at most", Kind.COUNT),
    Column("output_tokens", "out, at most", Kind.COUNT),
)


@subcommand(
    "stormbreak cost report answers.jsonl",
    "stormbreak cost report spent.db --by tenant,model --since 2026-11-01",
)
@click.argument("paths", metavar="OUTPUT|LEDGER...", type=FILE, nargs=-1, required=True)
@options(
    "Ledgers of gateways",
    option(
        "--by",
        usage_report.FIELDS,
        "Rows of the report: tenant, label, label.NAME, model, key, target, provider, day, month.",
        default=",".join(usage_report.DEFAULT_BY),
    ),
    option("--since", usage_report.Hour(), "Since this day or hour (UTC)."),
    option("--until", usage_report.Hour(), "Before this day or hour (UTC)."),
)
@cost_options
def command(
    paths: tuple[Path, ...],
    *,
    prices: tuple[str, ...],
    output: Output,
    by: tuple[str, ...],
    since: float | None,
    until: float | None,
) -> None:
    """Print the cost of the batch that writes OUTPUT: its answers, and the wasted attempts.

    Or print the total spending of the gateways with these LEDGERs.
    """
    output.protect(*paths)
    if all(map(usage_report.is_ledger, paths)):
        lookup = load_lookup(prices)
        usage_report.report(paths, by=by, since=since, until=until, lookup=lookup, output=output)
        return
    if len(paths) > 1:
        other = next(path for path in paths if not usage_report.is_ledger(path))
        raise ConfigurationError(
            f"{path_of(other)}: is not a gateway's ledger; give several ledgers, or one OUTPUT of a batch"
        )
    why = f"for a batch, and {path_of(paths[0])} is not a gateway's ledger"
    reject_unused_options(("by", "since", "until"), why)
    _of_batch(paths[0], prices, output)


def _of_batch(path: Path, prices: tuple[str, ...], output: Output) -> None:
    output.protect(BatchPaths.of(path).failed)
    lookup = lookup_of(path, prices)
    currency = output.currency
    cost = read_cost(path, lookup)
    notes = [
        *cost.notes,
        *price_notes([each.prices for each in cost.models if each.prices], lookup),
    ]
    head = {"output": cost.output, "currency": currency.code, "notes": notes}
    sheets = {"models": _sheet(cost.models, currency), "waste": _waste(cost)}
    output.write(head, notes, facts=_facts(cost, currency), **sheets)


def _facts(cost: BatchCost, currency: Currency) -> CostFacts:
    known = [each.in_all for each in cost.models if each.in_all is not None]
    wasted = [each.wasted for each in cost.models if each.in_all and each.wasted]
    without = "" if len(known) == len(cost.models) else ", without parts that have no price"
    amounts = [
        (f"{each.model}, {each.provider}", each.in_all and each.in_all.max_usd, each.prices)
        for each in cost.models
    ]
    return CostFacts(
        kind="the cost of a batch",
        title=Path(cost.output).name,
        verdict=(
            f"The batch has cost {_total_span(known, currency)}{without}."
            f" {_total_span(wasted, currency)} of it was wasted on attempts without an answer."
        )
        if known
        else "The cost of the batch is unknown: nothing in it has a price.",
        facts=[("answers", f"{sum(each.answers for each in cost.models):,}")],
        bars=[costs_of(f"{currency.code} in all, at most", amounts)],
        currency=currency,
    )


def _total_span(spans: Sequence[Span], currency: Currency) -> str:
    return currency.spanned(*(sum(ends, Decimal(0)) for ends in zip(*spans, strict=True)))


def _sheet(models: Sequence[ModelCost], currency: Currency) -> Sheet:
    sheet = Sheet.of(_COLUMNS, models, currency)
    if len(models) > 1 and all(each.prices for each in models):
        sheet = replace(sheet, rows=[*sheet.rows, _total(sheet.rows)])
    return sheet.with_currency()


def _total(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """The last row: the sums of numbers; other cells are empty."""
    sums: list[Cell] = [
        None if any(isinstance(cell, str | None) for cell in column) else sum(map(_number, column))
        for column in zip(*rows, strict=True)
    ]
    return ["all", *sums[1:]]


def _number(cell: Cell) -> Decimal:
    assert isinstance(cell, int | Decimal), "only numbers have sums"
    return Decimal(cell)


def _waste(cost: BatchCost) -> Sheet:
    rows: list[list[Cell]] = [
        [plain(why), used.attempts, used.input_tokens, used.output_tokens]
        for why, used in cost.waste.items()
    ]
    wasted = sum(each.besides - each.free for each in cost.models)
    rest = wasted - sum(used.attempts for used in cost.waste.values())
    if rest > 0:
        rows.append(["in flight, or lost in a kill", rest, None, None])
    return Sheet(columns=_WASTE, rows=rows)
