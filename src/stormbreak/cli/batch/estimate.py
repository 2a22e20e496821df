"""`stormbreak batch estimate`: the cost and the time of a run, before anything is sent."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from stormbreak.batch.estimate import ModelEstimate, Pace, estimate
from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.row import Row
from stormbreak.batch.input.spool import find_table, table_rows
from stormbreak.batch.run_options import BatchOptions, TableOptions
from stormbreak.cli.batch.options import (
    BASE_URL,
    MODEL,
    PROVIDER,
    max_output_tokens,
    table_options,
)
from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.cost.options import cost_options
from stormbreak.cli.cost.output import Output, costs_of, price_notes
from stormbreak.cli.options import FILE, Integer, Number
from stormbreak.core.row_schedule import WIDEST
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.cost.sheet import Column, Kind, Sheet
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.http.endpoint import find_endpoint
from stormbreak.llm.tokens import ANSWER
from stormbreak.report.cost_facts import CostFacts

LATENCY = 5.0  # seconds of a request, by default
_COLUMNS: Sequence[Column[ModelEstimate]] = (
    Column("model", "model", of=lambda each: each.model),
    Column("provider", "provider", of=lambda each: each.provider),
    Column("rows", "rows", Kind.COUNT, of=lambda each: each.rows),
    Column("input_tokens", "in", Kind.COUNT, of=lambda each: each.input_tokens),
    Column("output_tokens", "out", Kind.COUNT, of=lambda each: each.output_tokens),
    Column("expected", "{} expected", Kind.MONEY, "not known", of=lambda each: each.expected),
    Column("max", "at most", Kind.MONEY, "not known", of=lambda each: each.max_usd),
    Column("batch_api", "by batch API", Kind.MONEY, "not known", of=lambda each: each.batched),
    Column("unbounded_rows", "", Kind.COUNT, of=lambda each: each.unbounded),
)
_TIMES: Sequence[Column[tuple[str, float]]] = (
    Column("limit", "at this limit", of=lambda span: span[0]),
    Column("seconds", "seconds at least", Kind.NUMBER, of=lambda span: Decimal(str(span[1]))),
)

_MAX_ANSWER = 10_000_000  # tokens; longer than any model's
_PER_MINUTE = Number(0.001, 10**12)


@subcommand("stormbreak batch estimate prompts.jsonl --provider openai -m gpt-4.1 --rpm 500")
@click.argument("source", metavar="INPUT", type=FILE)
@options("Destination", BASE_URL, PROVIDER, MODEL)
@options(
    "Tokens",
    option(
        "--output-tokens",
        Integer(1, _MAX_ANSWER),
        "Expected output tokens of a row, if its limit allows as many.",
        show_default=f"{ANSWER}",
    ),
    max_output_tokens(_MAX_ANSWER),
)
@options(
    "Pace",
    option("--rpm", _PER_MINUTE, "Maximum requests per minute."),
    option("--tpm", _PER_MINUTE, "Maximum tokens per minute, input and output."),
    option(
        "-c --concurrency", Integer(1, 1_000_000), "Maximum concurrent requests.", default=WIDEST
    ),
    option(
        "--latency", Number(0.001, 86_400, name="SECONDS"), "Time of one request.", default=LATENCY
    ),
)
@table_options
@cost_options
def command(  # noqa: PLR0913 - keyword-only, one for each option
    source: Path,
    *,
    provider: str | None,
    base_url: str | None,
    model: str | None,
    output_tokens: int | None,
    max_output_tokens: int | None,
    prices: tuple[str, ...],
    output: Output,
    table: TableOptions,
    **pace: Any,
) -> None:
    """Estimate what a run over INPUT will cost and how long it will take. Nothing is sent."""
    speed, currency = Pace(**pace), output.currency
    lookup = load_lookup(prices)
    seller = find_endpoint(provider, base_url=base_url, api_key="-", allow_http=True).provider
    found = find_table(source, table, BatchOptions(max_output_tokens=max_output_tokens))
    with ExitStack() as stack:
        rows: Iterable[Row]
        if found is None:
            rows = stack.enter_context(Rows.read(source, model=model))
        else:
            rows = table_rows(found, model)
        models = estimate(
            rows, seller, lookup.price_of, answer=output_tokens, longest=max_output_tokens
        )
    if not models:
        raise ConfigurationError(f"{path_of(source)}: the input holds no rows")
    known = [each.prices for each in models if each.prices]
    notes = [*_notes(models, speed, output_tokens), *price_notes(known, lookup)]
    head = {"input": str(source), "currency": currency.code, "notes": notes}
    sheet = Sheet.of(_COLUMNS, models, currency).with_currency()
    sheets = {"models": sheet, "times": _times(models, speed)}
    output.write(head, notes, facts=_facts(source, models, currency), **sheets)


def _facts(source: Path, models: Sequence[ModelEstimate], currency: Currency) -> CostFacts:
    rows = sum(each.rows for each in models)
    expected = [each.expected for each in models if each.expected is not None]
    without = "" if len(expected) == len(models) else ", without parts that have no price"
    amounts = [(each.model, each.expected, each.prices) for each in models]
    cost = f"{currency.with_code(sum(expected, Decimal(0)))} are expected{without}"
    return CostFacts(
        kind="an estimate",
        title=source.name,
        verdict=f"{rows:,} rows: {cost if expected else 'no price is known'}.",
        bars=[costs_of(f"{currency.code} expected", amounts)],
        currency=currency,
    )


def _times(models: Sequence[ModelEstimate], pace: Pace) -> Sheet:
    rows = sum(each.rows for each in models)
    tokens = sum(each.input_tokens + each.output_tokens for each in models)
    spans = sorted(pace.spans(rows, tokens), key=lambda span: -span[1])
    return Sheet.of(_TIMES, spans)


def _notes(models: Sequence[ModelEstimate], pace: Pace, answer: int | None) -> Iterator[str]:
    length = ANSWER if answer is None else answer
    option = " (--output-tokens)" if answer is None else ""
    yield (
        f"Expected: one input token per four bytes of a prompt, and {length:,} output tokens{option},"
        " or the row's limit if that is lower."
    )
    yield "At most: one attempt per row, one input token per byte, and the row's output limit."
    if unbounded := sum(each.unbounded for each in models):
        yield (
            f"{unbounded:,} rows set no output limit such as max_tokens, so the upper bound is unknown:"
            " set --max-output-tokens."
        )
    for each in models:
        yield from _unknown(each)
    yield (
        f"Each time is for one limit only, with {pace.concurrency:,} concurrent requests of {pace.latency:g} s each;"
        " retries add to it."
    )


def _unknown(each: ModelEstimate) -> Iterator[str]:
    if each.prices is None:
        yield f"{each.model} has no known price at {each.provider}: give a price file with --prices."
        return
    if each.expected is None:
        yield f"{each.model} has no known output price at {each.provider}, so its cost is unknown."
    if each.prices.batch is None:
        yield f"{each.model} has no known batch price at {each.provider}."
    elif each.batched is None:
        yield f"{each.model} has no known output price in the batch API of {each.provider}."
