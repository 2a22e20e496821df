"""The interface of prices, and exact decimal arithmetic."""

from collections.abc import Callable
from contextlib import suppress
from decimal import (
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    getcontext,
    setcontext,
)
from typing import Protocol, TypeAlias

from stormbreak.types import Target, Usage

NOTHING = Decimal(0)
EXACT = Context(prec=50, traps=[DivisionByZero, InvalidOperation, Overflow])
"""The decimal context of all sums in dollars: threads may have contexts of low precision, or trap rounding by default."""


_MAX_REMEMBERED = 10_000  # models


class PriceTable(Protocol):
    """The prices of one model at one provider."""

    def cost_of(self, usage: Usage) -> Decimal:
        """Return the cost of one attempt with this usage, in US dollars; raise ConfigurationError if unknown."""

    def max_cost_of(self, usage: Usage) -> Decimal:
        """Return the maximum cost of attempts with this usage in total. Raises as `cost_of`."""

    def max_cost_within(self, bound: Usage) -> Decimal:
        """Return the maximum cost of attempts with at most `bound` in total. Raises as `cost_of`.

        Any input may have been read from a cache or written to one; for an hour, at most as much as in the bound.
        """


PriceOf: TypeAlias = Callable[[str, str], PriceTable | None]
"""By provider and model; None if the price is unknown."""


def no_price(_provider: str, _model: str) -> None:
    """Know no price."""


def known_prices(price_of: PriceOf, provider: str, model: str) -> PriceTable | None:
    """Return the prices of a model; None if unknown, or if a user's function fails: that must not fail a call."""
    try:
        return price_of(provider, model)
    except Exception:  # noqa: BLE001 - of a user's function
        return None


class RememberedPrices:
    """Looks up the prices of a model once; again if a user's function failed."""

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of
        self._found: dict[tuple[str, str], PriceTable | None] = {}

    def at(self, target: Target) -> PriceTable | None:
        found, place = self._found, (target.provider, target.model)
        if place not in found:
            if len(found) >= _MAX_REMEMBERED:
                found.clear()
            with suppress(Exception):
                found[place] = self._price_of(*place)
        return found.get(place)


def known_cost(prices: PriceTable | None, usage: Usage) -> Decimal | None:
    """Return the cost of an attempt with this usage; None if unknown. Zero tokens are free."""
    return _known(prices, "cost_of", usage)


def known_max_cost(prices: PriceTable | None, bound: Usage) -> Decimal | None:
    """As `known_cost`, but return the maximum cost of an attempt with this bound."""
    return _known(prices, "max_cost_within", bound)


def _known(prices: PriceTable | None, method: str, usage: Usage) -> Decimal | None:
    if not usage.total:
        return Decimal(0)
    if prices is None:
        return None
    before = getcontext()
    setcontext(
        EXACT.copy()
    )  # a user's table may change the context; `localcontext` takes twice as long
    try:
        usd: object = getattr(prices, method)(usage)
    except Exception:  # noqa: BLE001 - a price is missing, or a user's table fails: the answer may be there already
        return None
    finally:
        setcontext(before)
    return usd if isinstance(usd, Decimal) and usd.is_finite() and usd >= 0 else None
