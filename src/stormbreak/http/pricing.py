"""Where the prices come from that a limit of spending needs: today's list prices, unless others are given."""

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.spend import Priced
from stormbreak.http.environment import in_force


def list_price(provider: str, model: str) -> Priced | None:
    """Today's list price of a model; None where it is not known. The prices are loaded when first asked for."""
    from stormbreak.cost.lookup import price_of  # noqa: PLC0415 - nobody else needs it

    return price_of(provider, model)


def check_prices(policy: Policy) -> None:
    """Load the list prices, where `policy` has a limit of spending: later it would take the time of a call.

    Raises:
        ConfigurationError: they are not installed.
    """
    if policy.spend.acts:
        list_price("openai", "")


def engine_under(policy: Policy | str) -> Engine:
    """Make an engine for a policy, or a preset, as it is in force here. Raises as `check_prices` does."""
    chosen = in_force(policy)
    check_prices(chosen)
    return Engine(chosen, list_price)
