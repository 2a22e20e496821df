"""The prices of a model: input, cached input, cache writes and output; by service, and for long prompts.

US dollars per million tokens, as exact decimals. Every price records its source and date. An unknown price is None,
never zero.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, Self

from stormbreak.cost.price_source import PriceTable
from stormbreak.errors import ConfigurationError
from stormbreak.types import Usage

MILLION = Decimal(1_000_000)

Number = Decimal | int


class Service(StrEnum):
    """A service level with its own prices."""

    STANDARD = "standard"
    BATCH = "batch"
    FLEX = "flex"
    PRIORITY = "priority"


class Tokens(NamedTuple):
    """Amounts of tokens, which may be fractions in a forecast; the last three are part of the input, as in a `Usage`."""

    input: Number
    output: Number
    cached_input: Number = 0
    cache_write: Number = 0
    cache_write_1h: Number = 0

    @classmethod
    def of(cls, usage: Usage) -> Self:
        return cls(
            usage.input_tokens,
            usage.output_tokens,
            min(usage.cached_input_tokens, usage.input_tokens),
            usage.cache_write_tokens,
            usage.cache_write_1h_tokens,
        )

    @classmethod
    def split(cls, total: int, *, input_share: Decimal, cache_rate: Decimal) -> Self:
        """Split a total by the share of input, and the share of the input that is read from a cache."""
        entry = total * input_share
        return cls(entry, total - entry, entry * cache_rate)

    @property
    def total(self) -> Number:
        return self.input + self.output

    def plus(self, other: Self) -> Self:
        return type(self)(*(mine + its for mine, its in zip(self, other, strict=True)))


class Step(NamedTuple):
    """The price of all tokens of a request whose prompt is longer than `above` tokens."""

    above: int
    price: Decimal


@dataclass(frozen=True, slots=True)
class Rate:
    """A price per million tokens of one kind, with its steps, the shortest prompt first."""

    base: Decimal
    steps: tuple[Step, ...] = ()

    def at(self, prompt: Number) -> Decimal:
        price = self.base
        for step in self.steps:
            if prompt > step.above:
                price = step.price
        return price

    def highest(self, longest: Number) -> Decimal:
        """The highest price for any request of at most `longest` input tokens."""
        return max([self.base, *(step.price for step in self.steps if longest > step.above)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The prices of one service.

    Cached input and cache writes without their own price cost as much as other input; writes for an hour cost as much
    as other writes.
    """

    input: Rate
    output: Rate | None = None
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None

    def cost(self, tokens: Tokens, *, prompt: Number = 0) -> Decimal:
        """The cost of the tokens of any number of requests, each with `prompt` input tokens.

        Raises ConfigurationError if there is output without a price.
        """
        return self._sum(tokens, lambda rate: rate.at(prompt))

    def max_cost(self, tokens: Tokens) -> Decimal:
        """Return the maximum cost of these tokens, over any number of requests. Raises as `cost`."""
        return self._sum(tokens, lambda rate: rate.highest(tokens.input))

    def max_cost_within(self, bound: Tokens) -> Decimal:
        """Return the maximum cost for any part read from a cache or written to one. Raises as `cost`.

        Writes for an hour are at most as many as in `bound`.
        """

        def price_in(rate: Rate) -> Decimal:
            return rate.highest(bound.input)

        hour = min(bound.cache_write_1h, bound.input)
        kinds = (self.input, self.cached_input, self.cache_write)
        highest = max(price_in(rate) for rate in kinds if rate)
        total = (bound.input - hour) * highest
        if hour:
            total += hour * max(highest, price_in(self.cache_write_1h or self.input))
        return (total + self._of_output(bound, price_in)) / MILLION

    def _sum(self, tokens: Tokens, price_in: Callable[[Rate], Decimal]) -> Decimal:
        cached = min(tokens.cached_input, tokens.input)
        written = min(tokens.cache_write, tokens.input - cached)
        read = self.cached_input or self.input
        total = (tokens.input - cached - written) * price_in(self.input) + cached * price_in(read)
        if written:
            hour = min(tokens.cache_write_1h, written)
            write = self.cache_write or self.input
            total += (written - hour) * price_in(write)
            total += hour * price_in(self.cache_write_1h or write)
        return (total + self._of_output(tokens, price_in)) / MILLION

    def _of_output(self, tokens: Tokens, price_in: Callable[[Rate], Decimal]) -> Number:
        if not tokens.output:
            return 0
        if self.output is None:
            raise ConfigurationError("no price for output is known")
        return tokens.output * price_in(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source and date of prices. A `claim` is not a price list: a seller's or a third party's statement."""

    name: str
    about: str = ""
    as_of: date | None = None
    claim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The prices of `model` at `provider`, which may list it under another name.

    `latency` quotes the source: a claim, not a measurement. `maker` names the seller at the list price, as
    provider/model.
    """

    provider: str
    model: str
    listed_as: str
    standard: Rates
    source: Source
    batch: Rates | None = None
    flex: Rates | None = None
    priority: Rates | None = None
    latency: str = ""
    maker: str = ""
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.provider}/{self.model}"

    def rates(self, service: Service = Service.STANDARD) -> Rates | None:
        rates: Rates | None = getattr(self, service.value)
        return rates

    def cost_of(self, usage: Usage) -> Decimal:
        """The cost of one call at the standard prices. Raises as `Rates.cost` does."""
        return self.standard.cost(Tokens.of(usage), prompt=usage.input_tokens)

    def max_cost_of(self, usage: Usage) -> Decimal:
        """Return the maximum cost of calls with this usage in total, of any length. Raises as `Rates.cost`."""
        return self.standard.max_cost(Tokens.of(usage))

    def max_cost_within(self, bound: Usage) -> Decimal:
        """Return the maximum cost of calls with at most this in total. Raises as `Rates.cost`."""
        return self.standard.max_cost_within(Tokens.of(bound))


def at_service(prices: PriceTable | None, service: Service) -> PriceTable | None:
    """Return the prices of a service; if unknown, the standard ones, which are higher than those for a batch."""
    if service is Service.STANDARD or not isinstance(prices, Prices):
        return prices
    rates = prices.rates(service)
    return prices if rates is None else replace(prices, standard=rates)


def normalise_model(model: str) -> str:
    """The key of a model: lower case, and a dash for each point."""
    return model.strip().lower().replace(".", "-")
