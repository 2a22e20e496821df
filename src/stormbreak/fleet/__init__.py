"""The fleet: limits, money and cooldowns that several processes share through a store."""

from stormbreak.core.engine import Fleet
from stormbreak.core.policy import Policy


def fleet_for(*policies: Policy) -> Fleet | None:
    """Return the fleet of an engine with these policies; None if none shares anything. Raises ConfigurationError."""
    urls = [policy.fleet.url for policy in policies if policy.fleet.url is not None]
    if not urls:
        return None
    from stormbreak.fleet.store_thread import shared_limits  # noqa: PLC0415 - most engines share nothing

    return shared_limits(urls)
