"""What a seller asks for a model: for input, what a cache has or gets of it, and output, now, in a batch, and for long prompts.

US dollars per million tokens, as exact decimals. A price says where it comes from and of when it is. What is not known is
None, and never zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, Self

from stormbreak.errors import ConfigurationError
from stormbreak.types import Usage

MILLION = Decimal(1_000_000)

Number = Decimal | int


class Service(StrEnum):
    """How an answer is delivered, where a provider asks for different prices."""

    STANDARD = "standard"
    BATCH = "batch"
    FLEX = "flex"
    PRIORITY = "priority"


class Tokens(NamedTuple):
    """Amounts of tokens; the last three are some of the input, as those of a `Usage` are."""

    input: Number
    output: Number
    cached_input: Number = 0
    cache_write: Number = 0
    cache_write_1h: Number = 0

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Those of one call."""
        return cls(
            usage.input_tokens,
            usage.output_tokens,
            min(usage.cached_input_tokens, usage.input_tokens),
            usage.cache_write_tokens,
            usage.cache_write_1h_tokens,
        )

    @classmethod
    def split(cls, total: int, *, input_share: Decimal, cache_rate: Decimal) -> Self:
        """A total, by the share of it that is input, and the share of that which is read from a cache."""
        entry = total * input_share
        return cls(entry, total - entry, entry * cache_rate)

    @property
    def total(self) -> Number:
        """Input and output together."""
        return self.input + self.output

    def plus(self, other: Self) -> Self:
        """Both together."""
        return type(self)(*(mine + its for mine, its in zip(self, other, strict=True)))


class Step(NamedTuple):
    """Another price for a request whose prompt is longer than `above` tokens; it holds for all tokens of it."""

    above: int
    price: Decimal


@dataclass(frozen=True, slots=True)
class Rate:
    """A price per million tokens of one kind, with its steps, the shortest prompt first."""

    base: Decimal
    steps: tuple[Step, ...] = ()

    def at(self, prompt: Number) -> Decimal:
        """The price that holds for a request with so many input tokens."""
        price = self.base
        for step in self.steps:
            if prompt > step.above:
                price = step.price
        return price

    def dearest(self, longest: Number) -> Decimal:
        """The highest price for any request of at most so many input tokens."""
        return max([self.base, *(step.price for step in self.steps if longest > step.above)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The prices of one service.

    What is read from a cache, or written to one, costs what other input costs where it has no price of its own; and what is
    written for an hour, what is written at all.
    """

    input: Rate
    output: Rate | None = None
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None

    def cost(self, tokens: Tokens, *, prompt: Number = 0) -> Decimal:
        """What the tokens of any number of requests cost, each with a prompt of so many tokens.

        Raises:
            ConfigurationError: there is output, and no price for it.
        """
        return self._sum(tokens, lambda rate: rate.at(prompt))

    def most(self, tokens: Tokens) -> Decimal:
        """The most that the tokens of any number of requests cost, however they are shared out. Raises as `cost` does."""
        return self._sum(tokens, lambda rate: rate.dearest(tokens.input))

    def max_output_within(self, bound: Tokens) -> Decimal:
        """The most that they cost if so much is read from a cache, or written to one, as makes it dearest. Raises as `cost` does.

        For an hour no more is written than `bound` says.
        """

        def price_in(rate: Rate) -> Decimal:
            return rate.dearest(bound.input)

        hour = min(bound.cache_write_1h, bound.input)
        kinds = (self.input, self.cached_input, self.cache_write)
        dearest = max(price_in(rate) for rate in kinds if rate)
        total = (bound.input - hour) * dearest
        if hour:
            total += hour * max(dearest, price_in(self.cache_write_1h or self.input))
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
    """Where prices come from, and of when they are. A `claim` is what somebody says of others' prices, or of their own."""

    name: str
    about: str = ""
    as_of: date | None = None
    claim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What `provider` asks for `model`, which it may list under another name.

    `latency` is what the source says of it, in its own words: a claim, and nothing that was measured. `maker` names who
    sells the model at the list price, as provider/model.
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

    def rates(self, service: Service = Service.STANDARD) -> Rates | None:
        """Those of a service; None where no such prices are known."""
        rates: Rates | None = getattr(self, service.value)
        return rates

    def cost_of(self, usage: Usage) -> Decimal:
        """What one call costs, by the standard prices. Raises as `Rates.cost` does."""
        return self.standard.cost(Tokens.of(usage), prompt=usage.input_tokens)

    def max_cost_of(self, usage: Usage) -> Decimal:
        """The most that calls which used so much together cost, whatever the length of each. Raises as `Rates.cost` does."""
        return self.standard.most(Tokens.of(usage))

    def max_output_within(self, bound: Usage) -> Decimal:
        """The most that calls cost which used no more than that together. Raises as `Rates.cost` does."""
        return self.standard.max_output_within(Tokens.of(bound))


def normalise_model(model: str) -> str:
    """A name as it is looked up: whatever its case, and whether a version is written with a point or a dash."""
    return model.strip().lower().replace(".", "-")
