"""The cost of answers, and the default prices: today's list prices."""

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from stormbreak.cost.price_source import NOTHING, PriceOf, PriceTable, known_cost, known_prices
from stormbreak.types import CACHE, DEGRADED, Target, Usage


def cost_of(price_of: PriceOf | None, target: Target, usage: Usage, source: str) -> Decimal | None:
    """Return the cost of an answer in US dollars; None if unknown. Loading the list prices is slow."""
    if source in (CACHE, DEGRADED):
        return NOTHING
    if price_of is None or not usage.total:
        return None
    return known_cost(known_prices(price_of, target.provider, target.model), usage)


def prices_in(files: Iterable[str], folder: Path) -> PriceOf:
    """Return the prices in price files, then list prices, if they are installed. A relative path starts at `folder`.

    Raises:
        ConfigurationError: a file is invalid.
    """
    from stormbreak.cost.price_file import builtin_names  # noqa: PLC0415 - they are slow to load
    from stormbreak.cost.price_lookup import load_lookup, price_of  # noqa: PLC0415

    known = builtin_names()
    lookup = load_lookup(name if name in known else str(folder / name) for name in files)

    def price(provider: str, model: str) -> PriceTable | None:
        found = (lookup.price_of(provider, model, file) for file in lookup.files)
        own = next(filter(None, found), None)
        return own or (price_of(provider, model) if lookup.market.installed else None)

    return price


def list_price(provider: str, model: str) -> PriceTable | None:
    """Return today's list price of a model; None if unknown. The prices are loaded at the first call."""
    from stormbreak.cost.price_lookup import price_of  # noqa: PLC0415 - it is slow to load

    return price_of(provider, model)


def check_installed() -> None:
    """Raise ConfigurationError if the list prices are not installed; nothing is loaded."""
    from stormbreak.cost.list_prices import ListPrices  # noqa: PLC0415 - it is slow to load

    ListPrices().check()
