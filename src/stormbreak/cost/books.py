"""The bills of a meter: one of all, and one for each thing that attempts were for, as long as there is room."""

from collections.abc import Callable, Iterator
from copy import copy
from decimal import Decimal
from typing import NamedTuple, Protocol, TypeAlias

from stormbreak.cost.bill import NOTHING, Bill, Bills, Span
from stormbreak.errors import ConfigurationError
from stormbreak.types import Labels, Priority, Target, Usage

OTHER = "other"
_MOST_PRICES = 10_000  # that are remembered

_KINDS = ("targets", "models", "priorities", "tenants", "labels")


class Priced(Protocol):
    """What a seller asks for a model."""

    def cost_of(self, usage: Usage) -> Decimal:
        """What one attempt with this usage costs, in US dollars; raises ConfigurationError where that is not known."""
        ...


PriceOf: TypeAlias = Callable[[str, str], Priced | None]
"""By provider and model; None where the price is not known."""


class Purpose(NamedTuple):
    """Where an attempt went, and for whom."""

    target: Target
    priority: Priority | None = None
    tenant: str = ""
    labels: Labels = ()


class Books:
    """Puts bills together. What is not known is counted, and never taken for nothing."""

    def __init__(self, price_of: PriceOf, most: int) -> None:
        """At most so many values of one kind have a bill of their own."""
        self._price_of = price_of
        self._most = most
        self._prices: dict[Target, Priced | None] = {}
        self._total = Bill()
        self._by: dict[str, dict[str, Bill]] = {kind: {} for kind in _KINDS}
        self._waste: dict[str, Span] = {}

    def cost(self, target: Target, usage: Usage) -> Decimal | None:
        """What an attempt with this usage costs there, where that is known."""
        if target not in self._prices:
            if len(self._prices) >= _MOST_PRICES:
                self._prices.clear()
            self._prices[target] = self._price_of(target.provider, target.model)
        prices = self._prices[target]
        try:
            return None if prices is None else prices.cost_of(usage)
        except ConfigurationError:  # one of its prices is missing
            return None

    def useful(self, purpose: Purpose, usage: Usage | None, bound: Usage | None) -> None:
        """Put down an attempt that was answered."""
        bill = Bill(attempts=1, answers=1, unreported=usage is None)
        bill.useful, bill.useful_open = self._priced(purpose.target, usage, bound, bill)
        if usage is not None and usage.cached_input_tokens and not bill.unpriced:
            bill.saved_by_cache = self._discount(purpose.target, usage, bill.useful)
        self._put(purpose, bill)

    def wasted(self, purpose: Purpose, why: str, usage: Usage | None, bound: Usage | None) -> None:
        """Put down an attempt that may have been billed for nothing."""
        bill = Bill(attempts=1)
        bill.wasted, bill.wasted_open = self._priced(purpose.target, usage, bound, bill)
        least, most = self._waste.get(why, Span(NOTHING, NOTHING))
        self._waste[why] = Span(least + bill.wasted, most + bill.for_nothing.most)
        self._put(purpose, bill)

    def free(self, purpose: Purpose) -> None:
        """Put down an attempt that cost nothing."""
        self._put(purpose, Bill(attempts=1))

    def saved(
        self, purpose: Purpose, *, cache: Decimal = NOTHING, fallback: Decimal = NOTHING
    ) -> None:
        """Put down what was not spent at the target that was asked first."""
        self._put(purpose, Bill(saved_by_cache=cache, saved_by_fallback=fallback))

    def shown(self, *, under_way: int) -> Bills:
        """All bills as they stand."""
        by = {
            kind: {name: copy(bill) for name, bill in bills.items()}
            for kind, bills in self._by.items()
        }
        return Bills(total=copy(self._total), waste=dict(self._waste), under_way=under_way, **by)

    def _priced(
        self, target: Target, usage: Usage | None, bound: Usage | None, bill: Bill
    ) -> tuple[Decimal, Decimal]:
        """What is known of the cost, and what it may be besides; the bill takes note of what is missing."""
        if usage is not None:
            bill.count(usage)
        known = usage or bound
        if known is None:
            bill.unbounded = 1
            return NOTHING, NOTHING
        cost = self.cost(target, known)
        if cost is None:
            bill.unpriced = 1
            return NOTHING, NOTHING
        return (NOTHING, cost) if usage is None else (cost, NOTHING)

    def _discount(self, target: Target, usage: Usage, cost: Decimal) -> Decimal:
        """What it would have cost more if the provider had had nothing of the prompt in its cache."""
        uncached = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        return (self.cost(target, uncached) or cost) - cost

    def _put(self, purpose: Purpose, bill: Bill) -> None:
        for each in self._places(purpose):
            each.add(bill)

    def _places(self, purpose: Purpose) -> Iterator[Bill]:
        yield self._total
        yield self._bill("targets", str(purpose.target))
        yield self._bill("models", purpose.target.model)
        if purpose.priority is not None:
            yield self._bill("priorities", purpose.priority.name.lower())
        if purpose.tenant:
            yield self._bill("tenants", purpose.tenant)
        for name, value in purpose.labels:
            yield self._bill("labels", f"{name}={value}")

    def _bill(self, kind: str, name: str) -> Bill:
        bills = self._by[kind]
        if name not in bills and len(bills) >= self._most:
            name = OTHER
        return bills.setdefault(name, Bill())
