"""What attempts cost, added up: what is known, and between which bounds the rest lies.

Whether an attempt that failed, was cut, overtaken or given up is billed, and for how much, only the provider knows. Such
an attempt costs anything from nothing to its bound. Nothing is guessed: sums of the known and of the bounds stand apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from stormbreak.cost.price_table import EXACT
from stormbreak.types import Target, Usage

NOTHING = Decimal(0)


class Span(NamedTuple):
    """US dollars, from the least that it can be to the most."""

    least: Decimal
    most: Decimal

    @property
    def is_exact(self) -> bool:
        """Whether it is known to the last digit."""
        return self.least == self.most


@dataclass(slots=True, kw_only=True)
class Sum:
    """Some attempts, their tokens, and what those cost in US dollars, as far as prices are known."""

    attempts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal = NOTHING

    def put(self, usage: Usage | None, usd: Decimal | None) -> None:
        """Add an attempt."""
        self.attempts += 1
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.cached_input_tokens += usage.cached_input_tokens
            self.cache_write_tokens += usage.cache_write_tokens
            self.cache_write_1h_tokens += usage.cache_write_1h_tokens
            self.output_tokens += usage.output_tokens
        if usd is not None:
            self.usd = EXACT.add(self.usd, usd)

    def copy(self) -> "Sum":
        """The same, as it is now."""
        return Sum(
            attempts=self.attempts,
            input_tokens=self.input_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens,
            output_tokens=self.output_tokens,
            usd=self.usd,
        )


@dataclass(slots=True, kw_only=True)
class Bill:
    """Attempts by what they were good for.

    `useful` and `wasted` are known by the usage that arrived, to callers that got an answer, and else. Of the others only
    bounds are known: `used_uncounted` of answers without usage, `wasted_open` of what may have been billed for nothing. What
    was `free` was refused, or never sent.

    `saved_by_cache` is what answers of a cache would have cost, and the discount for prompts that a provider had in its
    cache; `saved_by_fallback` what answers from elsewhere cost less than at the first target, below 0 where it was more.

    So many attempts as are `unpriced` went to targets without a known price, and are in no sum of dollars; of so many as
    are `unbounded` neither usage nor bound is known.
    """

    useful: Sum = field(default_factory=Sum)
    used_uncounted: Sum = field(default_factory=Sum)
    wasted: Sum = field(default_factory=Sum)
    wasted_open: Sum = field(default_factory=Sum)
    free: int = 0
    saved_by_cache: Decimal = NOTHING
    saved_by_fallback: Decimal = NOTHING
    unpriced: int = 0
    unbounded: int = 0

    def save(self, *, cache: Decimal = NOTHING, fallback: Decimal = NOTHING) -> None:
        """Add what was not spent."""
        self.saved_by_cache = EXACT.add(self.saved_by_cache, cache)
        self.saved_by_fallback = EXACT.add(self.saved_by_fallback, fallback)

    @property
    def sums(self) -> tuple[Sum, Sum, Sum, Sum]:
        """All four."""
        return self.useful, self.used_uncounted, self.wasted, self.wasted_open

    @property
    def attempts(self) -> int:
        """All attempts that have ended."""
        return self.free + sum(each.attempts for each in self.sums)

    @property
    def of_use(self) -> Span:
        """What the answers cost that callers got."""
        return Span(self.useful.usd, EXACT.add(self.useful.usd, self.used_uncounted.usd))

    @property
    def for_nothing(self) -> Span:
        """What the rest cost."""
        return Span(self.wasted.usd, EXACT.add(self.wasted.usd, self.wasted_open.usd))

    @property
    def in_all(self) -> Span:
        """Both."""
        useful, wasted = self.of_use, self.for_nothing
        return Span(EXACT.add(useful.least, wasted.least), EXACT.add(useful.most, wasted.most))

    @property
    def is_whole(self) -> bool:
        """Whether the spans hold everything: every attempt has a price, and a usage or a bound."""
        return not (self.unpriced or self.unbounded)

    def copy(self) -> "Bill":
        """The same, as it is now."""
        useful, used_uncounted, wasted, wasted_open = (each.copy() for each in self.sums)
        return Bill(
            useful=useful,
            used_uncounted=used_uncounted,
            wasted=wasted,
            wasted_open=wasted_open,
            free=self.free,
            saved_by_cache=self.saved_by_cache,
            saved_by_fallback=self.saved_by_fallback,
            unpriced=self.unpriced,
            unbounded=self.unbounded,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """A bill of all, and the same by what it was for. Values that came too late for a place of their own are "other".

    `waste` says for which reason attempts were wasted: a verdict, or "overtaken", "cancelled", "cut". Attempts `under_way`
    are in no bill yet; of those, these are the bounds.
    """

    total: Bill
    targets: Mapping[Target, Bill] = field(default_factory=dict)
    models: Mapping[str, Bill] = field(default_factory=dict)
    priorities: Mapping[str, Bill] = field(default_factory=dict)
    tenants: Mapping[str, Bill] = field(default_factory=dict)
    labels: Mapping[str, Bill] = field(default_factory=dict)
    waste: Mapping[str, Bill] = field(default_factory=dict)
    under_way: Mapping[Target, Sum] = field(default_factory=dict)
