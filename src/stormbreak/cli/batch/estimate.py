"""`stormbreak batch estimate`: what a run will cost, and how long it will take, before anything is sent."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from stormbreak.batch.estimate import ModelEstimate, Pace, estimate
from stormbreak.batch.input.index import Rows
from stormbreak.cli.cost.options import currency_of, shared
from stormbreak.cli.cost.output import Output, price_notes
from stormbreak.cli.numbers import Number
from stormbreak.core.row_schedule import WIDEST
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import PriceLookup, load_lookup
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet
from stormbreak.http.environment import find_endpoint
from stormbreak.llm.tokens import ANSWER
from stormbreak.report.cost_facts import Cost, CostFacts, Costs

LATENCY = 5.0
"""Seconds of an answer, where nobody says."""

_COLUMNS = (
    Column("model", "model"),
    Column("provider", "provider"),
    Column("rows", "rows", Kind.COUNT),
    Column("input_tokens", "in", Kind.COUNT),
    Column("output_tokens", "out", Kind.COUNT),
    Column("expected", "{} expected", Kind.MONEY, "not known"),
    Column("most", "at most", Kind.MONEY, "not known"),
    Column("batch_api", "by batch API", Kind.MONEY, "not known"),
    Column("unbounded_rows", "", Kind.COUNT),
    Column("currency", ""),
)
_TIMES = (Column("limit", "at this limit"), Column("seconds", "seconds at least", Kind.NUMBER))

_ATTEMPTS = click.IntRange(1, 1_000_000)
_ANSWER = click.IntRange(1, 10_000_000)  # tokens; longer than any model's
_PER_MINUTE = Number(0.001, 10**12)
_LATENCY = Number(0.001, 86_400)


@click.command("estimate")
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--provider", help="Whose prices: openai, anthropic, deepseek, ...")
@click.option("--base-url", help="Where it will be sent, up to and including /v1.")
@click.option("--model", help="The model of rows that name none.")
@click.option(
    "--answer",
    type=_ANSWER,
    metavar="N",
    help=f"Tokens of an answer, where its row allows as many.  [default: {ANSWER}]",
)
@click.option(
    "--longest-answer",
    type=_ANSWER,
    metavar="N",
    help="Tokens of an answer at the most, where its row does not bound it.",
)
@click.option("--rpm", type=_PER_MINUTE, metavar="N", help="Requests per minute.")
@click.option(
    "--tpm",
    type=_PER_MINUTE,
    metavar="N",
    help="Tokens per minute, prompts and answers together.",
)
@click.option(
    "--concurrency",
    type=_ATTEMPTS,
    metavar="N",
    default=WIDEST,
    show_default=True,
    help="Attempts at once.",
)
@click.option(
    "--latency",
    type=_LATENCY,
    metavar="S",
    default=LATENCY,
    show_default=True,
    help="Seconds that an answer takes.",
)
@shared
def command(  # noqa: PLR0913 - one parameter for each option
    source: Path,
    *,
    provider: str | None,
    base_url: str | None,
    model: str | None,
    answer: int | None,
    longest_answer: int | None,
    files: tuple[str, ...],
    currency: str,
    rate: str | None,
    **rest: Any,
) -> None:
    """Estimate what a run over INPUT will cost, and how long it will take. Nothing is sent."""
    pace = Pace(
        rpm=rest.pop("rpm"),
        tpm=rest.pop("tpm"),
        concurrency=rest.pop("concurrency"),
        latency=rest.pop("latency"),
    )
    output = Output.of(**rest, reads=(source, *files))
    shown_in = currency_of(currency, rate)
    lookup = load_lookup(files)
    seller = find_endpoint(provider, base_url=base_url, api_key="-", allow_http=True).provider
    with Rows.read(source, model=model) as rows:
        models = estimate(rows, seller, lookup.price_of, answer=answer, longest=longest_answer)
    said = [*_said(models, seller, pace, answer), *_prices(models, lookup)]
    head = {"input": str(source), "currency": shown_in.code, "notes": said}
    sheets = {"models": _sheet(models, seller, shown_in), "times": _times(models, pace)}
    output.answer(head, said, facts=_facts(source, models, shown_in), **sheets)


def _facts(source: Path, models: Sequence[ModelEstimate], currency: Currency) -> CostFacts:
    rows = sum(each.rows for each in models)
    expected = [each.expected for each in models if each.expected is not None]
    without = "" if len(expected) == len(models) else ", without what has no price"
    cost = f"{currency.with_code(sum(expected, Decimal(0)))} are expected{without}"
    return CostFacts(
        kind="an estimate",
        title=source.name,
        verdict=f"{rows:,} rows: {cost if expected else 'no price is known'}.",
        bars=[
            Costs(
                title=f"{currency.code} expected",
                costs=[
                    Cost(
                        name=each.model,
                        usd=each.expected,
                        claim=each.prices is not None and each.prices.source.claim,
                    )
                    for each in models
                    if each.expected is not None
                ],
            )
        ],
        currency=currency,
    )


def _sheet(models: Sequence[ModelEstimate], provider: str, currency: Currency) -> Sheet:
    rows: list[list[Cell]] = [
        [
            each.model,
            provider,
            each.rows,
            each.input_tokens,
            each.output_tokens,
            each.expected,
            each.most,
            each.batched,
            each.unbounded,
            currency.code,
        ]
        for each in models
    ]
    return Sheet(columns=_COLUMNS, rows=rows, currency=currency)


def _times(models: Sequence[ModelEstimate], pace: Pace) -> Sheet:
    rows = sum(each.rows for each in models)
    tokens = sum(each.input_tokens + each.output_tokens for each in models)
    spans = sorted(pace.spans(rows, tokens), key=lambda span: -span[1])
    return Sheet(columns=_TIMES, rows=[[name, Decimal(str(span))] for name, span in spans])


def _said(
    models: Sequence[ModelEstimate], provider: str, pace: Pace, answer: int | None
) -> Iterator[str]:
    length = ANSWER if answer is None else answer
    yield (
        "Prompts are estimated as a token for each four bytes, answers as"
        f" {length:,} tokens{' (--answer)' if answer is None else ''}, or fewer where their rows allow no more."
    )
    yield "The most is of one attempt for each row, with a token for each byte of its prompt and its longest answer."
    if unbounded := sum(each.unbounded for each in models):
        yield (
            f"Nothing, such as max_tokens, bounds the answers of {unbounded:,} rows, so the most is not known:"
            " --longest-answer bounds them."
        )
    for each in models:
        yield from _unknown(each, provider)
    yield (
        f"Times are of the slowest limit alone: {pace.concurrency:,} attempts at once take {pace.latency:g} s each;"
        " refusals and retries come on top."
    )


def _unknown(each: ModelEstimate, provider: str) -> Iterator[str]:
    """Say why sums of a model are not known."""
    if each.prices is None:
        yield f"No price is known of {each.model} at {provider}: give a price file with --prices."
        return
    if each.expected is None:
        yield f"No price of answers is known of {each.model} at {provider}, so no cost is."
    if each.prices.batch is None:
        yield f"{provider} has no batch prices of {each.model} that are known."
    elif each.batched is None:
        yield f"No price of answers by the batch API is known of {each.model} at {provider}."


def _prices(models: Sequence[ModelEstimate], lookup: PriceLookup) -> Iterator[str]:
    return price_notes([each.prices for each in models if each.prices], lookup)
