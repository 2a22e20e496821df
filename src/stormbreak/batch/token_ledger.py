"""What the attempts of a batch used, by target, as its run file keeps it: tokens and counts, no prices and no keys.

Prices change, and a price file may come later: what the tokens cost is worked out when somebody asks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, NamedTuple, TypeAlias

from msgspec import Meta

from stormbreak.cost.bill import NOTHING, Bill, Bills, Span, Sum
from stormbreak.cost.price_table import PriceOf, PriceTable
from stormbreak.errors import ConfigurationError
from stormbreak.types import Target, Usage

Count: TypeAlias = Annotated[int, Meta(ge=0, le=10**18)]
"""What a run file may say; no sum of more could be shown."""
MAX_USD = Decimal(10**18)
"""The same for dollars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Some attempts, and their tokens."""

    attempts: Count = 0
    input_tokens: Count = 0
    cached_input_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    output_tokens: Count = 0

    @classmethod
    def of(cls, some: Sum) -> "Tokens":
        """Those of a sum, without its dollars."""
        return cls(
            attempts=some.attempts,
            input_tokens=some.input_tokens,
            cached_input_tokens=some.cached_input_tokens,
            cache_write_tokens=some.cache_write_tokens,
            cache_write_1h_tokens=some.cache_write_1h_tokens,
            output_tokens=some.output_tokens,
        )

    @property
    def usage(self) -> Usage:
        """All of them as if one attempt had used them."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens,
        )

    def usd(self, prices: PriceTable) -> Decimal:
        """What they cost, if the tokens are spread over them evenly: exact, but for prices that go by the prompt."""
        return self._summed(prices.cost_of)

    def most_usd(self, prices: PriceTable) -> Decimal:
        """The most that they can cost, if these are bounds; else as `usd`."""
        return self._summed(prices.max_output_within)

    def _summed(self, cost: Callable[[Usage], Decimal]) -> Decimal:
        counts = (self.output_tokens, *self._nested)
        cuts = {0, self.attempts, *(count % self.attempts for count in counts if self.attempts)}
        return sum(
            ((end - begin) * cost(self._share_of(begin)) for begin, end in pairwise(sorted(cuts))),
            Decimal(0),
        )

    @property
    def _nested(self) -> tuple[int, int, int, int]:
        """Amounts of input, each of them a part of the next: so are their shares, and nothing gets lost between these."""
        written = self.cache_write_tokens
        touched = written + self.cached_input_tokens
        return self.cache_write_1h_tokens, written, touched, self.input_tokens

    def _share_of(self, number: int) -> Usage:
        """The tokens of one attempt, which are whole: the first few have one more."""
        hour, written, touched, entry = (
            _share(count, self.attempts, number) for count in self._nested
        )
        return Usage(
            input_tokens=entry,
            output_tokens=_share(self.output_tokens, self.attempts, number),
            cached_input_tokens=touched - written,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
        )

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            attempts=self.attempts + other.attempts,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


def _share(count: int, attempts: int, number: int) -> int:
    each, more = divmod(count, attempts)
    return each + (number < more)


_NONE = Tokens()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The attempts at one model of a provider; the kinds are those of a `Bill`."""

    provider: str
    model: str
    useful: Tokens = _NONE
    used_uncounted: Tokens = _NONE
    wasted: Tokens = _NONE
    wasted_open: Tokens = _NONE
    free: Count = 0
    unbounded: Count = 0

    @classmethod
    def of(cls, target: Target, bill: Bill) -> "Spent":
        """What a bill says, without its dollars."""
        return cls(
            provider=target.provider,
            model=target.model,
            useful=Tokens.of(bill.useful),
            used_uncounted=Tokens.of(bill.used_uncounted),
            wasted=Tokens.of(bill.wasted),
            wasted_open=Tokens.of(bill.wasted_open),
            free=bill.free,
            unbounded=bill.unbounded,
        )

    @property
    def attempts(self) -> int:
        """Those that have cost something, or may have."""
        some = (self.useful, self.used_uncounted, self.wasted, self.wasted_open)
        return sum(each.attempts for each in some)

    def most(self, price_of: PriceOf) -> Decimal:
        """The most that it can have cost. Raises as that of an `Account`."""
        if not self.attempts:
            return NOTHING
        prices = price_of(self.provider, self.model)
        if prices is None:
            where = f"{self.model} at {self.provider}"
            raise ConfigurationError(f"no price is known of {where}, where this batch went before")
        known = prices.max_cost_of(self.useful.usage) + prices.max_cost_of(self.wasted.usage)
        open_ = (self.used_uncounted.usage, self.wasted_open.usage)
        return known + sum(prices.max_output_within(each) for each in open_)

    def span(self, price_of: PriceOf) -> Span | None:
        """What it has cost; None where the price, or a part of it, is not known."""
        try:
            prices = price_of(self.provider, self.model)
            return None if prices is None else self.bounds(prices)
        except ConfigurationError:  # such as that there is no price list
            return None

    def bounds(self, prices: PriceTable) -> Span:
        """About what it has cost, each attempt taken for the mean: what is known, and the most that it can be."""
        least = self.useful.usd(prices) + self.wasted.usd(prices)
        open_ = self.used_uncounted.most_usd(prices) + self.wasted_open.most_usd(prices)
        return Span(least, least + open_)

    def __add__(self, other: "Spent") -> "Spent":
        return changed(
            self,
            useful=self.useful + other.useful,
            used_uncounted=self.used_uncounted + other.used_uncounted,
            wasted=self.wasted + other.wasted,
            wasted_open=self.wasted_open + other.wasted_open,
            free=self.free + other.free,
            unbounded=self.unbounded + other.unbounded,
        )


class Limit(NamedTuple):
    """US dollars that may be spent, and those that were."""

    usd: Decimal
    spent: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """US dollars that attempts have cost, between what is known and the most that it can be.

    So many attempts as are `priced` are in there. Those that are `unpriced` went to models without a known price, and of the
    `unbounded` nothing says what they can cost at the most.
    """

    least: Decimal = Decimal(0)
    most: Decimal = Decimal(0)
    priced: int = 0
    unpriced: int = 0
    unbounded: int = 0

    @property
    def is_known(self) -> bool:
        """Whether anything of it is."""
        return self.priced > 0


WasteReason: TypeAlias = Mapping[str, Tokens]
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
    waste: WasteReason = field(default_factory=dict)
    at_work: bool = False
    killed: Count = 0
    ahead: Decimal = NOTHING
    lost: Decimal = NOTHING

    def __post_init__(self) -> None:
        """Raise ValueError for dollars that a run file cannot have from us: they would count against a limit."""
        for usd in (self.ahead, self.lost):
            if not (usd.is_finite() and NOTHING <= usd <= MAX_USD):
                raise ValueError("dollars that cannot be")

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

    def cost(self, price_of: PriceOf) -> Cost:
        """What all of it has cost, as far as prices are known."""
        known = [(each, each.span(price_of)) for each in self.spent if each.attempts]
        spans = [span for _, span in known if span is not None]
        priced = [each for each, span in known if span is not None]
        return Cost(
            least=sum((span.least for span in spans), Decimal(0)),
            most=sum((span.most for span in spans), self.lost),
            priced=sum(each.attempts for each in priced),
            unpriced=sum(each.attempts for each, span in known if span is None),
            unbounded=sum(each.unbounded for each in priced),
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
