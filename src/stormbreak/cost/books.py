"""The bills of a meter: one of all, and one for each thing that attempts were for, as long as there is room."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple, TypeVar

from stormbreak.cost.bill import NOTHING, Bill, Bills, Sum
from stormbreak.cost.price_table import EXACT, PriceOf, PriceTable, known_cost, known_max_cost
from stormbreak.types import Labels, Priority, Target, Usage

OTHER = "other"
_MAX_PRICES = 10_000  # that are remembered

_KINDS = ("models", "priorities", "tenants", "labels", "waste")


Name = TypeVar("Name")


class Purpose(NamedTuple):
    """Where an attempt went, and for whom; what it was `wasted` for."""

    target: Target
    priority: Priority | None = None
    tenant: str = ""
    labels: Labels = ()
    wasted: str = ""


class LedgerByPurpose:
    """Puts bills together. What is not known is counted, and never taken for nothing."""

    def __init__(self, price_of: PriceOf, most: int) -> None:
        """At most so many values of one kind have a bill of their own."""
        self._price_of = price_of
        self._most = most
        self._prices: dict[Target, PriceTable | None] = {}
        self._total = Bill()
        self._targets: dict[Target, Bill] = {}
        self._by: dict[str, dict[str, Bill]] = {kind: {} for kind in _KINDS}

    def cost(self, target: Target, usage: Usage) -> Decimal | None:
        """What an attempt with this usage costs there, where that is known."""
        return known_cost(self._prices_at(target), usage)

    def most(self, target: Target, bound: Usage) -> Decimal | None:
        """The most that an attempt with this bound can cost there, where that is known."""
        return known_max_cost(self._prices_at(target), bound)

    def _prices_at(self, target: Target) -> PriceTable | None:
        if target not in self._prices:
            if len(self._prices) >= _MAX_PRICES:
                self._prices.clear()
            self._prices[target] = self._price_of(target.provider, target.model)
        return self._prices[target]

    def billed(self, purpose: Purpose, usage: Usage | None, bound: Usage | None) -> Decimal | None:
        """Put down an attempt by its usage; without it, the `bound` is the most that it may be billed for.

        Returns what it cost, where that is known.
        """
        known = usage or bound
        usd, saved = None, NOTHING
        if usage is not None:
            usd = self.cost(purpose.target, usage)
        elif bound is not None:
            usd = self.most(purpose.target, bound)
        if usage is not None and usage.cached_input_tokens and usd is not None:
            uncached = replace(usage, cached_input_tokens=0)
            saved = EXACT.subtract(self.cost(purpose.target, uncached) or usd, usd)
        for bill in self._bills(purpose):
            _sum_in(bill, purpose, exact=usage is not None).put(known, usd)
            bill.unbounded += known is None
            bill.unpriced += known is not None and usd is None
            if saved:
                bill.save(cache=saved)
        return None if usage is None else usd

    def free(self, purpose: Purpose) -> None:
        """Put down an attempt that cost nothing."""
        for bill in self._bills(purpose):
            bill.free += 1

    def saved(
        self, purpose: Purpose, *, cache: Decimal = NOTHING, fallback: Decimal = NOTHING
    ) -> None:
        """Put down what was not spent at the target that was asked first."""
        for bill in self._bills(purpose):
            bill.save(cache=cache, fallback=fallback)

    def shown(self, open_: Iterable[tuple[Target, Usage | None]]) -> Bills:
        """All bills as they stand, and the bounds of attempts that are `open_`."""
        under_way: dict[Target, Sum] = {}
        for target, bound in open_:
            usd = None if bound is None else self.most(target, bound)
            under_way.setdefault(target, Sum()).put(bound, usd)
        by = {kind: _copied(bills) for kind, bills in self._by.items()}
        return Bills(
            total=self._total.copy(), targets=_copied(self._targets), under_way=under_way, **by
        )

    def _bills(self, purpose: Purpose) -> Iterator[Bill]:
        yield self._total
        yield self._bill(self._targets, purpose.target, Target(OTHER, OTHER))
        yield self._named("models", purpose.target.model)
        if purpose.priority is not None:
            yield self._named("priorities", purpose.priority.name.lower())
        if purpose.tenant:
            yield self._named("tenants", purpose.tenant)
        if purpose.wasted:
            yield self._named("waste", purpose.wasted)
        for name, value in purpose.labels:
            yield self._named("labels", f"{name}={value}")

    def _named(self, kind: str, name: str) -> Bill:
        return self._bill(self._by[kind], name, OTHER)

    def _bill(self, bills: dict[Name, Bill], name: Name, other: Name) -> Bill:
        bill = bills.get(name)
        if bill is None:
            bill = bills.setdefault(name if len(bills) < self._most else other, Bill())
        return bill


def _sum_in(bill: Bill, purpose: Purpose, *, exact: bool) -> Sum:
    if purpose.wasted:
        return bill.wasted if exact else bill.wasted_open
    return bill.useful if exact else bill.used_uncounted


def _copied(bills: dict[Name, Bill]) -> dict[Name, Bill]:
    return {name: bill.copy() for name, bill in bills.items()}
