"""Estimate the cost and the time of a batch from its input, before anything is sent.

Prompts are estimated from their bytes. An answer is estimated as `answer` tokens, or as its bound if that is lower.
`max_usd` is the maximum cost of one attempt per row. Neither includes retries.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import TypeAlias

from stormbreak.batch.input.row import Row
from stormbreak.cost.price_source import NOTHING, known_max_cost
from stormbreak.cost.token_prices import Prices, Service, Tokens
from stormbreak.http.request import RequestTemplate
from stormbreak.llm.tokens import ANSWER
from stormbreak.types import Usage

PriceOfModel: TypeAlias = Callable[[str, str], Prices | None]  # by provider and model


@dataclass(slots=True, kw_only=True)
class ModelEstimate:
    """The rows for one model. Sums are None without `prices`; `max_usd` also if a row has no bound."""

    model: str
    provider: str
    prices: Prices | None
    rows: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    expected: Decimal | None = NOTHING
    max_usd: Decimal | None = NOTHING
    batched: Decimal | None = NOTHING  # expected, at the provider's batch prices
    unbounded: int = 0  # rows without a bound

    def add(self, expected: Usage, bound: Usage | None) -> None:
        self.rows += 1
        self.unbounded += bound is None
        self.input_tokens += expected.input_tokens
        self.output_tokens += expected.output_tokens
        self.expected = _plus(self.expected, self._cost(expected))
        self.max_usd = _plus(
            self.max_usd, None if bound is None else known_max_cost(self.prices, bound)
        )
        self.batched = _plus(self.batched, self._cost(expected, Service.BATCH))

    def _cost(self, usage: Usage, service: Service = Service.STANDARD) -> Decimal | None:
        rates = None if self.prices is None else self.prices.rates(service)
        if rates is None or (usage.output_tokens and rates.output is None):
            return None
        return rates.cost(Tokens.of(usage), prompt=usage.input_tokens)


def _plus(total: Decimal | None, more: Decimal | None) -> Decimal | None:
    return None if total is None or more is None else total + more


def estimate(
    rows: Iterable[Row],
    provider: str,
    price_of: PriceOfModel,
    *,
    answer: int | None = None,
    longest: int | None = None,
) -> tuple[ModelEstimate, ...]:
    """Estimate by model, with `answer` tokens per answer; `longest` is the bound of rows that have none."""
    models: dict[str, ModelEstimate] = {}
    for row in rows:
        template = RequestTemplate(row.endpoint, row.body, fields=row.fields)
        template.limit_output(longest, provider)
        name = template.model
        model = models.get(name)
        if model is None:
            prices = price_of(provider, name)
            model = models[name] = ModelEstimate(model=name, provider=provider, prices=prices)
        model.add(
            template.expected_usage(ANSWER if answer is None else answer), template.token_bound()
        )
    return tuple(models.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The limits of a batch: requests and tokens per minute, and attempts in flight of `latency` seconds each."""

    rpm: float | None = None
    tpm: float | None = None
    concurrency: int
    latency: float

    def spans(self, rows: int, tokens: int) -> Iterator[tuple[str, float]]:
        """The minimum seconds that each limit allows."""
        if self.rpm is not None:
            yield "rpm", 60 * rows / self.rpm
        if self.tpm is not None:
            yield "tpm", 60 * tokens / self.tpm
        yield "concurrency", ceil(rows / self.concurrency) * self.latency
