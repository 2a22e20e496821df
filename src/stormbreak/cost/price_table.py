"""What the cost of a call is worked out with: a table of prices, and exact decimal arithmetic."""

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Protocol, TypeAlias

from stormbreak.types import Usage

EXACT = Context(prec=50)
"""For all sums in dollars: threads of an application may have contexts that round to few digits."""


class PriceTable(Protocol):
    """The prices of one model at one provider."""

    def cost_of(self, usage: Usage) -> Decimal:
        """What one attempt with this usage costs, in US dollars; raises ConfigurationError where that is not known."""
        ...

    def max_cost_of(self, usage: Usage) -> Decimal:
        """The most that attempts cost which used this much together, whatever each of them did. Raises as `cost_of` does."""
        ...

    def max_cost_within(self, bound: Usage) -> Decimal:
        """The most that attempts cost which used no more than `bound` together. Raises as `cost_of` does.

        All of the input may have been read from a cache, or written to one; for an hour no more than the bound says.
        """
        ...


PriceOf: TypeAlias = Callable[[str, str], PriceTable | None]
"""By provider and model; None where the price is not known."""


def known_cost(prices: PriceTable | None, usage: Usage) -> Decimal | None:
    """What an attempt with this usage costs; None where a price is not known. No tokens, as of a list of models, are free."""
    return _known(prices, usage, lambda known: known.cost_of(usage))


def known_max_cost(prices: PriceTable | None, bound: Usage) -> Decimal | None:
    """The most that an attempt with this bound can cost; else as `known_cost`."""
    return _known(prices, bound, lambda known: known.max_cost_within(bound))


def _known(
    prices: PriceTable | None, usage: Usage, cost: Callable[[PriceTable], Decimal]
) -> Decimal | None:
    if not usage.total:
        return Decimal(0)
    if prices is None:
        return None
    try:
        with localcontext(EXACT):
            usd: object = cost(prices)
    except Exception:  # noqa: BLE001 - a price is missing, or a user's table fails: the answer may be there already
        return None
    return usd if isinstance(usd, Decimal) and usd.is_finite() and usd >= 0 else None
