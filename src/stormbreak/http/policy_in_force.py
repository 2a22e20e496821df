"""The policy in force in this process and its environment, and the engine for it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

from stormbreak.core import presets
from stormbreak.core.checks import require
from stormbreak.core.engine import Engine
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, is_off
from stormbreak.core.tenant import TenantLimits, check_tenants
from stormbreak.cost.price_source import PriceOf
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.fleet import fleet_for
from stormbreak.hidden_keys import quoted
from stormbreak.http.pricing import list_price


def is_disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether STORMBREAK_DISABLED turns every policy off."""
    return environ.get("STORMBREAK_DISABLED", "") not in ("", "0")


SHARE = "STORMBREAK_SHARE"  # the variable with this process's share of the limits


def share(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return this process's share of the limits from STORMBREAK_SHARE, such as `1/4` or `0.25`; None if unset.

    Raises:
        ConfigurationError: the value is not a share; shows it.
    """
    value = environ.get(SHARE)
    if not value:
        return None
    try:
        part = float(Fraction(value))
    except (ValueError, ZeroDivisionError, OverflowError):
        part = 0.0
    require(0 < part <= 1, f"{SHARE} must be a part, such as 1/4 or 0.25", quoted(value))
    return part


def in_force(policy: Policy | str, fleet: FleetPolicy | str | None = None) -> Policy:
    """Return the policy in force: the given one, or that of a preset or a file; `OFF` if all policies are turned off.

    The environment's share applies to policies without one. `fleet` replaces the fleet of the policy; a text is its
    URL.
    """
    chosen = _named(policy) if isinstance(policy, str) else policy
    if fleet is not None:
        shared = fleet if isinstance(fleet, FleetPolicy) else replace(chosen.fleet, url=fleet)
        chosen = replace(chosen, fleet=shared)
    if is_disabled():
        return chosen if is_off(chosen) else OFF
    part = share() if chosen.process_share == 1.0 else None
    return chosen if part is None else replace(chosen, process_share=part)


def tenants_in_force(tenants: Mapping[str, TenantLimits] | None) -> Mapping[str, TenantLimits]:
    """Return the limits of tenants in force: none if all policies are turned off."""
    return {} if tenants is None or is_disabled() else tenants


def _named(policy: str) -> Policy:
    if policy in presets.PRESETS:
        return presets.PRESETS[policy]
    # Imported here: most clients read no file.
    from stormbreak.config.load import resolve_policy  # noqa: PLC0415

    return resolve_policy(policy)


def check_prices(
    policy: Policy, tenants: Mapping[str, TenantLimits] = MappingProxyType({})
) -> None:
    """Load the list prices if `policy` or a tenant has a spend limit, so that no call waits for them.

    Raises:
        ConfigurationError: the prices are not installed, or the limits of a tenant are invalid.
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
    """Make an engine for a policy or a preset, as in force here; raise as `check_prices` and `fleet_for` do.

    `prices` are by default today's list prices.
    """
    chosen, limits = in_force(policy, fleet), tenants_in_force(tenants)
    if prices is None:
        check_prices(chosen, limits)
    return Engine(chosen, SpendAccounts(prices or list_price), fleet_for(chosen), limits)
