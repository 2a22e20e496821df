"""What attempts cost, added up: what is known, and between which bounds the rest lies.

Whether an attempt that failed, was cut, overtaken or given up is billed, and for how much, only the provider knows. Such
an attempt costs anything from nothing to its bound. Nothing is guessed: sums of the known and of the bounds stand apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import NamedTuple

from stormbreak.types import Usage

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
class Bill:
    """Some attempts, in US dollars and tokens.

    `useful` and `wasted` are known, by the usage that arrived; `useful_open` is the bound of what answers without usage
    may cost besides, `wasted_open` that of attempts that may have been billed for nothing. `saved_by_cache` is what
    answers of a cache would have cost, and the discount for prompts that a provider had in its cache;
    `saved_by_fallback` what answers from elsewhere cost less than at the first target, below 0 where it was more.

    Of the `attempts`, so many as `unpriced` went to targets without a known price, and are in no sum of money; of so
    many as `unbounded` nothing arrived and no bound is known. Tokens are those that providers reported.
    """

    attempts: int = 0
    answers: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    useful: Decimal = NOTHING
    useful_open: Decimal = NOTHING
    wasted: Decimal = NOTHING
    wasted_open: Decimal = NOTHING
    saved_by_cache: Decimal = NOTHING
    saved_by_fallback: Decimal = NOTHING
    unreported: int = 0  # answers without usage
    unpriced: int = 0
    unbounded: int = 0

    def add(self, other: "Bill") -> None:
        """Add those of another."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def count(self, usage: Usage) -> None:
        """Add the tokens that a provider reported."""
        self.input_tokens += usage.input_tokens
        self.cached_input_tokens += usage.cached_input_tokens
        self.output_tokens += usage.output_tokens

    @property
    def usage(self) -> Usage:
        """The tokens that providers reported."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
        )

    @property
    def of_use(self) -> Span:
        """What the answers cost that callers got."""
        return Span(self.useful, self.useful + self.useful_open)

    @property
    def for_nothing(self) -> Span:
        """What the rest cost."""
        return Span(self.wasted, self.wasted + self.wasted_open)

    @property
    def in_all(self) -> Span:
        """Both."""
        least = self.useful + self.wasted
        return Span(least, least + self.useful_open + self.wasted_open)

    @property
    def is_whole(self) -> bool:
        """Whether the spans hold everything: every attempt has a price, and a usage or a bound."""
        return not (self.unpriced or self.unbounded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """A bill of all, and the same by what it was for. Values that came too late for a place of their own are `other`.

    `waste` says for which reason attempts were wasted: a verdict, or "overtaken", "cancelled", "cut".
    """

    total: Bill
    targets: Mapping[str, Bill] = field(default_factory=dict)
    models: Mapping[str, Bill] = field(default_factory=dict)
    priorities: Mapping[str, Bill] = field(default_factory=dict)
    tenants: Mapping[str, Bill] = field(default_factory=dict)
    labels: Mapping[str, Bill] = field(default_factory=dict)
    waste: Mapping[str, Span] = field(default_factory=dict)
    under_way: int = 0  # attempts that are in no bill yet
