"""The cost of answers, and the default prices: today's list prices."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

from stormbreak.core.engine import Engine
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import TenantLimits, check_tenants
from stormbreak.cost.price_source import PriceOf, PriceTable, known_cost, known_prices
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.fleet import fleet_for
from stormbreak.http.environment import in_force, tenants_in_force
from stormbreak.types import CACHE, DEGRADED, Target, Usage

_NOTHING = Decimal(0)


def cost_of(price_of: PriceOf | None, target: Target, usage: Usage, source: str) -> Decimal | None:
    """Return the cost of an answer in US dollars; None if unknown. Loading the list prices takes long."""
    if source in (CACHE, DEGRADED):
        return _NOTHING
    if price_of is None or not usage.total:
        return None
    return known_cost(known_prices(price_of, target.provider, target.model), usage)


def prices_in(files: Iterable[str], folder: Path) -> PriceOf:
    """Return the prices in price files, then list prices, if they are installed. A relative path starts at `folder`.

    Raises:
        ConfigurationError: a file is wrong.
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


def check_prices(
    policy: Policy, tenants: Mapping[str, TenantLimits] = MappingProxyType({})
) -> None:
    """Load the list prices if `policy` or a tenant has a spend limit, so that no call waits for that.

    Raises:
        ConfigurationError: they are not installed, or the limits of a tenant are invalid.
    """
    check_tenants(tenants)
    if policy.spend.acts or any(each.spend.acts for each in tenants.values()):
        list_price("openai", "")


def engine_for(
    policy: Policy | str,
    fleet: FleetPolicy | str | None = None,
    tenants: Mapping[str, TenantLimits] | None = None,
    prices: PriceOf | None = None,
) -> Engine:
    """Make an engine for a policy, or a preset, as it is in force here; raise as `check_prices` and `fleet_for` do.

    `prices` are by default today's list prices.
    """
    chosen, limits = in_force(policy, fleet), tenants_in_force(tenants)
    if prices is None:
        check_prices(chosen, limits)
    return Engine(chosen, SpendAccounts(prices or list_price), fleet_for(chosen), limits)
