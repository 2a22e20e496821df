"""Accounts of tokens and US dollars: the usage of attempts, its cost, and the bounds of unknown costs.

Only the provider knows whether it bills an attempt that failed, or was cut off, overtaken or cancelled. Such an attempt
costs anything from nothing to its bound, so known costs and bounds are added separately.

`TokenSum` counts attempts and tokens. A `Bill` has four of them with dollars, for one purpose; `Ledger` keeps the bills
of one engine. An `Account` keeps the tokens of all runs of a batch without dollars: prices change, and a price file may
be added later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, NamedTuple, Self, TypeAlias, TypeVar

from msgspec import Meta

from stormbreak.cost.price_source import (
    EXACT,
    NOTHING,
    PriceOf,
    PriceTable,
    RememberedPrices,
    known_cost,
    known_max_cost,
)
from stormbreak.cost.token_prices import Service, at_service
from stormbreak.errors import ConfigurationError
from stormbreak.types import Labels, Priority, Target, Usage

Count: TypeAlias = Annotated[int, Meta(ge=0, le=10**18)]
"""A count in a run file, limited so that sums can be shown."""

MAX_USD = Decimal(10**18)  # the same for dollars

# ---------------------------------------------------------------- sums


class Span(NamedTuple):
    """A range of US dollars: known, and possible."""

    min_usd: Decimal
    max_usd: Decimal


@dataclass(slots=True, kw_only=True)
class TokenSum:
    """Some attempts and their tokens. Cached and written tokens are part of the input."""

    attempts: Count = 0
    input_tokens: Count = 0
    cached_input_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    output_tokens: Count = 0

    @property
    def usage(self) -> Usage:
        """The tokens of all attempts, as the usage of a single one."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens,
        )

    def add(self, usage: Usage | None, attempts: int = 1) -> None:
        self.attempts += attempts
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.cached_input_tokens += usage.cached_input_tokens
            self.cache_write_tokens += usage.cache_write_tokens
            self.cache_write_1h_tokens += usage.cache_write_1h_tokens
            self.output_tokens += usage.output_tokens

    def __add__(self, other: "TokenSum") -> "TokenSum":
        total = TokenSum()
        total.add(self.usage, self.attempts)
        total.add(other.usage, other.attempts)
        return total

    def cost(self, prices: PriceTable) -> Decimal:
        """US dollars, with the tokens spread evenly over the attempts: exact, except for prices by prompt length."""
        return self._priced(prices.cost_of)

    def max_cost(self, prices: PriceTable) -> Decimal:
        """Maximum US dollars, if the tokens are bounds; spread as in `cost`."""
        return self._priced(prices.max_cost_within)

    def _priced(self, cost: Callable[[Usage], Decimal]) -> Decimal:
        counts = (self.output_tokens, *self._nested)
        cuts = {0, self.attempts, *(count % self.attempts for count in counts if self.attempts)}
        return sum(
            ((end - begin) * cost(self._share_of(begin)) for begin, end in pairwise(sorted(cuts))),
            Decimal(0),
        )

    @property
    def _nested(self) -> tuple[int, int, int, int]:
        """Amounts of input, each a part of the next. The same holds for their shares, so rounding loses no token."""
        written = self.cache_write_tokens
        touched = written + self.cached_input_tokens
        return self.cache_write_1h_tokens, written, touched, self.input_tokens

    def _share_of(self, number: int) -> Usage:
        """The tokens of one attempt, in whole numbers: the first few have one more."""
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


def _share(count: int, attempts: int, number: int) -> int:
    each, more = divmod(count, attempts)
    return each + (number < more)


@dataclass(slots=True, kw_only=True)
class PricedSum(TokenSum):
    """Some attempts, their tokens, and their cost in US dollars, as far as prices are known."""

    usd: Decimal = NOTHING

    def put(self, usage: Usage | None, usd: Decimal | None) -> None:
        self.add(usage)
        if usd is not None:
            self.usd = EXACT.add(self.usd, usd)


# ---------------------------------------------------------------- bills of one engine

KINDS = ("useful", "used_uncounted", "wasted", "wasted_open")
"""The sums of a bill, and of the usage of a model."""


@dataclass(slots=True, kw_only=True)
class Bill:
    """Attempts by purpose.

    `useful` and `wasted` have a usage: of answers that reached callers, and of all other attempts. The other two only
    have bounds: `used_uncounted` for answers without usage, `wasted_open` for other attempts that may have been billed.
    `free` attempts were refused or never sent.

    `saved_by_cache` is the cost that answers from a cache avoided, and the provider's discount for cached prompts;
    `saved_by_fallback` is the saving of answers from elsewhere against the first target, negative if they cost more.

    `unpriced` attempts went to targets without a known price and are not in sums of dollars. `unbounded` ones have
    neither usage nor bound.
    """

    useful: PricedSum = field(default_factory=PricedSum)
    used_uncounted: PricedSum = field(default_factory=PricedSum)
    wasted: PricedSum = field(default_factory=PricedSum)
    wasted_open: PricedSum = field(default_factory=PricedSum)
    free: int = 0
    saved_by_cache: Decimal = NOTHING
    saved_by_fallback: Decimal = NOTHING
    unpriced: int = 0
    unbounded: int = 0

    def save(self, *, cache: Decimal = NOTHING, fallback: Decimal = NOTHING) -> None:
        self.saved_by_cache = EXACT.add(self.saved_by_cache, cache)
        self.saved_by_fallback = EXACT.add(self.saved_by_fallback, fallback)

    @property
    def attempts(self) -> int:
        return self.free + _attempts(self)

    @property
    def of_use(self) -> Span:
        """The cost of delivered answers."""
        return Span(self.useful.usd, EXACT.add(self.useful.usd, self.used_uncounted.usd))

    @property
    def for_nothing(self) -> Span:
        """The cost of all other attempts."""
        return Span(self.wasted.usd, EXACT.add(self.wasted.usd, self.wasted_open.usd))

    @property
    def in_all(self) -> Span:
        """Both."""
        useful, wasted = self.of_use, self.for_nothing
        return Span(
            EXACT.add(useful.min_usd, wasted.min_usd), EXACT.add(useful.max_usd, wasted.max_usd)
        )

    @property
    def is_whole(self) -> bool:
        """Whether the spans are complete: every attempt has a price, and a usage or a bound."""
        return not (self.unpriced or self.unbounded)

    def copy(self) -> "Bill":
        return replace(self, **{kind: replace(getattr(self, kind)) for kind in KINDS})


def _attempts(of: "Bill | ModelUsage") -> int:
    sums: list[TokenSum] = [getattr(of, kind) for kind in KINDS]
    return sum(each.attempts for each in sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """The total bill, and one for each purpose; names beyond the maximum share "other".

    `waste` is by reason: a verdict, or "overtaken", "cancelled", "cut". Attempts `under_way` are not in a bill yet;
    their sums are bounds.
    """

    total: Bill
    targets: Mapping[Target, Bill] = field(default_factory=dict)
    models: Mapping[str, Bill] = field(default_factory=dict)
    priorities: Mapping[str, Bill] = field(default_factory=dict)
    tenants: Mapping[str, Bill] = field(default_factory=dict)
    labels: Mapping[str, Bill] = field(default_factory=dict)
    waste: Mapping[str, Bill] = field(default_factory=dict)
    under_way: Mapping[Target, PricedSum] = field(default_factory=dict)


OTHER = "other"
_OTHER_TARGET = Target(OTHER, OTHER)

_PURPOSES = ("models", "priorities", "tenants", "labels", "waste")

Name = TypeVar("Name")


class Purpose(NamedTuple):
    """Target and caller of an attempt, and the reason why it was `wasted`."""

    target: Target
    priority: Priority | None = None
    tenant: str = ""
    labels: Labels = ()
    wasted: str = ""


class Ledger:
    """Keeps the bills of one engine. An unknown cost counts as unknown, never as zero."""

    def __init__(self, price_of: PriceOf, max_names: int, *, detailed: bool = True) -> None:
        """At most `max_names` of one kind have their own bill; without `detailed`, only targets and waste have."""
        self._prices = RememberedPrices(price_of)
        self._detailed = detailed
        self._max_names = max_names
        self._total = Bill()
        self._targets: dict[Target, Bill] = {}
        self._by: dict[str, dict[str, Bill]] = {kind: {} for kind in _PURPOSES}

    def cost(self, target: Target, usage: Usage) -> Decimal | None:
        return known_cost(self._prices.at(target), usage)

    def max_cost(self, target: Target, bound: Usage) -> Decimal | None:
        return known_max_cost(self._prices.at(target), bound)

    def add(self, purpose: Purpose, usage: Usage | None, bound: Usage | None) -> Decimal | None:
        """Add an attempt by its usage, or without one by its `bound`; return its cost if known."""
        known = usage or bound
        usd, saved = None, NOTHING
        if usage is not None:
            usd = self.cost(purpose.target, usage)
        elif bound is not None:
            usd = self.max_cost(purpose.target, bound)
        if usage is not None and usage.cached_input_tokens and usd is not None:
            uncached = replace(usage, cached_input_tokens=0)
            saved = EXACT.subtract(self.cost(purpose.target, uncached) or usd, usd)
        if purpose.wasted:
            kind = "wasted_open" if usage is None else "wasted"
        else:
            kind = "used_uncounted" if usage is None else "useful"
        for bill in self._bills(purpose):
            total: PricedSum = getattr(bill, kind)
            total.put(known, usd)
            bill.unbounded += known is None
            bill.unpriced += known is not None and usd is None
            if saved:
                bill.save(cache=saved)
        return None if usage is None else usd

    def add_free(self, purpose: Purpose) -> None:
        for bill in self._bills(purpose):
            bill.free += 1

    def add_savings(
        self, purpose: Purpose, *, cache: Decimal = NOTHING, fallback: Decimal = NOTHING
    ) -> None:
        for bill in self._bills(purpose):
            bill.save(cache=cache, fallback=fallback)

    def snapshot(self, under_way: Iterable[tuple[Target, Usage | None]]) -> Bills:
        """Copy all bills; `under_way` are the bounds of attempts that have not ended."""
        bounds: dict[Target, PricedSum] = {}
        for target, bound in under_way:
            usd = None if bound is None else self.max_cost(target, bound)
            bounds.setdefault(target, PricedSum()).put(bound, usd)
        by = {kind: _copied(bills) for kind, bills in self._by.items()}
        return Bills(
            total=self._total.copy(), targets=_copied(self._targets), under_way=bounds, **by
        )

    def _bills(self, purpose: Purpose) -> Iterator[Bill]:
        yield self._total
        yield self._bill(self._targets, purpose.target, _OTHER_TARGET)
        if purpose.wasted:
            yield self._named("waste", purpose.wasted)
        if not self._detailed:
            return
        yield self._named("models", purpose.target.model)
        if purpose.priority is not None:
            yield self._named("priorities", purpose.priority.name.lower())
        if purpose.tenant:
            yield self._named("tenants", purpose.tenant)
        for name, value in purpose.labels:
            yield self._named("labels", f"{name}={value}")

    def _named(self, kind: str, name: str) -> Bill:
        return self._bill(self._by[kind], name, OTHER)

    def _bill(self, bills: dict[Name, Bill], name: Name, other: Name) -> Bill:
        bill = bills.get(name)
        if bill is None:
            bill = bills.setdefault(name if len(bills) < self._max_names else other, Bill())
        return bill


def _copied(bills: dict[Name, Bill]) -> dict[Name, Bill]:
    return {name: bill.copy() for name, bill in bills.items()}


# ---------------------------------------------------------------- the account of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """The attempts at one model of a provider, as the run file keeps them; the sums are those of a `Bill`."""

    provider: str
    model: str
    service: Service = Service.STANDARD
    useful: TokenSum = field(default_factory=TokenSum)
    used_uncounted: TokenSum = field(default_factory=TokenSum)
    wasted: TokenSum = field(default_factory=TokenSum)
    wasted_open: TokenSum = field(default_factory=TokenSum)
    free: Count = 0
    unbounded: Count = 0

    def plus(self, other: "ModelUsage | Bill") -> Self:
        """Both together, without dollars."""
        sums = {kind: getattr(self, kind) + getattr(other, kind) for kind in KINDS}
        free, unbounded = self.free + other.free, self.unbounded + other.unbounded
        return replace(self, free=free, unbounded=unbounded, **sums)

    @property
    def attempts(self) -> int:
        """The attempts that have cost something, or may have."""
        return _attempts(self)

    @property
    def place(self) -> tuple[str, str, Service]:
        return self.provider, self.model, self.service

    def _prices(self, price_of: PriceOf) -> PriceTable | None:
        return at_service(price_of(self.provider, self.model), self.service)

    def max_cost(self, price_of: PriceOf) -> Decimal:
        """The maximum cost in US dollars, for any lengths of the prompts.

        Raises ConfigurationError if the price is unknown.
        """
        if not self.attempts:
            return NOTHING
        prices = self._prices(price_of)
        if prices is None:
            where = f"{self.model} at {self.provider}"
            raise ConfigurationError(
                f"no price is known for {where}, where this batch was sent before"
            )
        known = prices.max_cost_of(self.useful.usage) + prices.max_cost_of(self.wasted.usage)
        bounds = (self.used_uncounted.usage, self.wasted_open.usage)
        return known + sum(prices.max_cost_within(each) for each in bounds)

    def cost(self, prices: PriceTable) -> Span:
        """The cost, with each attempt counted as the mean."""
        least = self.useful.cost(prices) + self.wasted.cost(prices)
        bounds = self.used_uncounted.max_cost(prices) + self.wasted_open.max_cost(prices)
        return Span(least, least + bounds)

    def known_cost(self, price_of: PriceOf) -> Span | None:
        """As `cost`, but None if a price or the price list is missing."""
        try:
            prices = self._prices(price_of)
            return None if prices is None else self.cost(prices)
        except ConfigurationError:
            return None


class SpendLimit(NamedTuple):
    """US dollars that may be spent, and that were spent."""

    usd: Decimal
    spent: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """US dollars that attempts have cost: the known and the maximum cost.

    It covers the `priced` attempts. The `unpriced` ones went to models without a known price; the cost of the
    `unbounded` ones has no bound.
    """

    min_usd: Decimal = Decimal(0)
    max_usd: Decimal = Decimal(0)
    priced: int = 0
    unpriced: int = 0
    unbounded: int = 0

    @property
    def is_known(self) -> bool:
        return self.priced > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """All runs of a batch together; `waste` is by the reasons of `Bills.waste`.

    `at_work`: a run is writing, or was killed while it did; `killed` counts killed runs. Attempts in flight at the time
    of a write count as wasted until the next write: attempts of a killed run may be billed. Attempts in its last
    seconds are missing. Under a spend limit they cost at most `ahead` US dollars; `lost` adds these up over killed
    runs.
    """

    spent: tuple[ModelUsage, ...] = ()
    waste: Mapping[str, TokenSum] = field(default_factory=dict)
    at_work: bool = False
    killed: Count = 0
    ahead: Decimal = NOTHING
    lost: Decimal = NOTHING

    def __post_init__(self) -> None:
        """Raise ValueError for invalid dollars: they would count against a limit."""
        for usd in (self.ahead, self.lost):
            if not (usd.is_finite() and NOTHING <= usd <= MAX_USD):
                raise ValueError("impossible dollars")

    def begin(self) -> "Account":
        killed, lost = self.killed, self.lost
        if self.at_work:
            killed, lost = killed + 1, lost + self.ahead
        return replace(self, at_work=True, killed=killed, ahead=NOTHING, lost=lost)

    def plus(self, bills: Bills, *, at_work: bool) -> "Account":
        """Add the usage of a run so far. Keys of one provider and model are not distinguished."""
        under_way = {target: Bill(wasted_open=some) for target, some in bills.under_way.items()}
        spent = tuple(
            ModelUsage(provider=target.provider, model=target.model).plus(bill)
            for target, bill in (*bills.targets.items(), *under_way.items())
        )
        waste = {reason: bill.wasted + bill.wasted_open for reason, bill in bills.waste.items()}
        both = self.merged(Account(spent=spent, waste=waste))
        return replace(both, at_work=at_work, ahead=self.ahead)

    def merged(self, other: "Account") -> "Account":
        spent = {each.place: each for each in self.spent}
        for each in other.spent:
            spent[each.place] = spent[each.place].plus(each) if each.place in spent else each
        waste = dict(self.waste)
        for reason, tokens in other.waste.items():
            waste[reason] = waste.get(reason, TokenSum()) + tokens
        return Account(
            spent=tuple(spent.values()),
            waste=dict(sorted(waste.items())),
            killed=self.killed + other.killed,
            lost=self.lost + other.lost,
        )

    def cost(self, price_of: PriceOf) -> Cost:
        """The total cost, as far as prices are known."""
        costs = [(each, each.known_cost(price_of)) for each in self.spent if each.attempts]
        known = [(each, span) for each, span in costs if span is not None]
        return Cost(
            min_usd=sum((span.min_usd for _, span in known), Decimal(0)),
            max_usd=sum((span.max_usd for _, span in known), self.lost),
            priced=sum(each.attempts for each, _ in known),
            unpriced=sum(each.attempts for each, span in costs if span is None),
            unbounded=sum(each.unbounded for each, _ in known),
        )

    def max_cost(self, price_of: PriceOf) -> Decimal:
        """The maximum total cost in US dollars. Raises ConfigurationError if a price is unknown."""
        return sum((each.max_cost(price_of) for each in self.spent), self.lost + self.ahead)
