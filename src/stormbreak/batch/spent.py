"""What the attempts of a batch used, by target, as its run file keeps it: tokens and counts, no prices and no keys.

Prices change, and a price file may come later: what the tokens cost is worked out when somebody asks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from decimal import Decimal
from typing import TypeAlias

from stormbreak.core.spend import Priced, PriceOf, most_within
from stormbreak.cost.bill import NOTHING, Bill, Bills, Span, Sum
from stormbreak.errors import ConfigurationError
from stormbreak.types import Target, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Some attempts, and their tokens."""

    attempts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, some: Sum) -> "Tokens":
        """Those of a sum, without its dollars."""
        return cls(
            attempts=some.attempts,
            input_tokens=some.input_tokens,
            cached_input_tokens=some.cached_input_tokens,
            output_tokens=some.output_tokens,
        )

    @property
    def usage(self) -> Usage:
        """All of them as if one attempt had used them."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
        )

    @property
    def mean(self) -> Usage:
        """What one of them used, rounded to what costs more."""
        attempts = self.attempts or 1
        return Usage(
            input_tokens=-(-self.input_tokens // attempts),
            output_tokens=-(-self.output_tokens // attempts),
            cached_input_tokens=self.cached_input_tokens // attempts,
        )

    def usd(self, prices: Priced) -> Decimal:
        """What they cost, each taken for the mean of them."""
        return self.attempts * prices.cost_of(self.mean)

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            attempts=self.attempts + other.attempts,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


_NONE = Tokens()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The attempts at one model of a provider; the kinds are those of a `Bill`."""

    provider: str
    model: str
    useful: Tokens = _NONE
    useful_open: Tokens = _NONE
    wasted: Tokens = _NONE
    wasted_open: Tokens = _NONE
    free: int = 0
    unbounded: int = 0

    @classmethod
    def of(cls, target: Target, bill: Bill) -> "Spent":
        """What a bill says, without its dollars."""
        return cls(
            provider=target.provider,
            model=target.model,
            useful=Tokens.of(bill.useful),
            useful_open=Tokens.of(bill.useful_open),
            wasted=Tokens.of(bill.wasted),
            wasted_open=Tokens.of(bill.wasted_open),
            free=bill.free,
            unbounded=bill.unbounded,
        )

    @property
    def attempts(self) -> int:
        """Those that have cost something, or may have."""
        some = (self.useful, self.useful_open, self.wasted, self.wasted_open)
        return sum(each.attempts for each in some)

    def most(self, price_of: PriceOf) -> Decimal:
        """The most that it can have cost. Raises as that of an `Account`."""
        if not self.attempts:
            return NOTHING
        prices = price_of(self.provider, self.model)
        if prices is None:
            where = f"{self.model} at {self.provider}"
            raise ConfigurationError(f"no price is known of {where}, where this batch went before")
        known = prices.most_of(self.useful.usage) + prices.most_of(self.wasted.usage)
        open_ = (self.useful_open.usage, self.wasted_open.usage)
        return known + sum(most_within(prices, each) for each in open_)

    def bounds(self, prices: Priced) -> Span:
        """About what it has cost, each attempt taken for the mean: what is known, and the most that it can be."""
        least = self.useful.usd(prices) + self.wasted.usd(prices)
        return Span(least, least + self.useful_open.usd(prices) + self.wasted_open.usd(prices))

    def __add__(self, other: "Spent") -> "Spent":
        return changed(
            self,
            useful=self.useful + other.useful,
            useful_open=self.useful_open + other.useful_open,
            wasted=self.wasted + other.wasted,
            wasted_open=self.wasted_open + other.wasted_open,
            free=self.free + other.free,
            unbounded=self.unbounded + other.unbounded,
        )


Waste: TypeAlias = Mapping[str, Tokens]
"""By reason: see `Bills.waste`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """All runs of a batch together.

    `at_work` says that a run is writing, or was killed while it did; of the runs before so many as `killed` were. What was
    under way when it was written down counts as wasted, until it is written again: what a killed run had sent may be
    billed. What it sent in its last seconds is not in here. Under a limit, that is no more than so many dollars as are
    `ahead`; `lost` is the sum of these, of runs that were killed.
    """

    spent: tuple[Spent, ...] = ()
    waste: Waste = field(default_factory=dict)
    at_work: bool = False
    killed: int = 0
    ahead: Decimal = NOTHING
    lost: Decimal = NOTHING

    def begin(self) -> "Account":
        """Another run begins."""
        killed, lost = self.killed, self.lost
        if self.at_work:
            killed, lost = killed + 1, lost + self.ahead
        return changed(self, at_work=True, killed=killed, ahead=NOTHING, lost=lost)

    def plus(self, bills: Bills, *, at_work: bool) -> "Account":
        """With what a run has spent so far."""
        new = [Spent.of(target, bill) for target, bill in bills.targets.items()]
        new += [
            Spent(provider=to.provider, model=to.model, wasted_open=Tokens.of(some))
            for to, some in bills.under_way.items()
        ]
        waste = {
            why: Tokens.of(bill.wasted) + Tokens.of(bill.wasted_open)
            for why, bill in bills.waste.items()
        }
        return changed(
            self,
            spent=tuple(_together([*self.spent, *new])),
            waste={
                why: self.waste.get(why, _NONE) + waste.get(why, _NONE)
                for why in sorted({*self.waste, *waste})
            },
            at_work=at_work,
        )

    def most(self, price_of: PriceOf) -> Decimal:
        """The most that all of it can have cost, in US dollars.

        Raises:
            ConfigurationError: a price is not known.
        """
        return sum((each.most(price_of) for each in self.spent), self.lost + self.ahead)


def _together(several: Iterable[Spent]) -> Iterable[Spent]:
    """One for each model of a provider: keys are not told apart."""
    found: dict[tuple[str, str], Spent] = {}
    for each in several:
        place = each.provider, each.model
        found[place] = found[place] + each if place in found else each
    return found.values()
