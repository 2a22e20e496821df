"""What answers cost, and where the prices come from: today's list prices, unless others are given."""

from decimal import Decimal
from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.cost.price_table import PriceOf, PriceTable, known_cost
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.errors import ConfigurationError
from stormbreak.http.environment import in_force
from stormbreak.types import CACHE, DEGRADED, FixedCost, Target, Usage

_NOTHING = Decimal(0)


class LazyCost:
    """What an answer costs, worked out when somebody asks: most never ask, and to load the list prices takes long."""

    __slots__ = ("price_of", "source", "target", "usage")

    def __init__(self, price_of: PriceOf | None, target: Target, usage: Usage, source: str) -> None:
        self.price_of = price_of
        self.target = target
        self.usage = usage
        self.source = source

    @property
    def usd(self) -> Decimal | None:
        """In US dollars; None where that is not known."""
        if self.source in (CACHE, DEGRADED):
            return _NOTHING
        target = self.target
        if self.price_of is None or not self.usage.total:
            return None
        try:
            return known_cost(self.price_of(target.provider, target.model), self.usage)
        except ConfigurationError:  # the list prices are not installed
            return None

    def __deepcopy__(self, _: object) -> Self:
        """Itself, which never changes: whose prices they are need not be one that can be copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Prices do not travel, and need not be ones that can be pickled; what it came to does."""
        return FixedCost, (self.usd,)


def list_price(provider: str, model: str) -> PriceTable | None:
    """Today's list price of a model; None where it is not known. The prices are loaded when first asked for."""
    from stormbreak.cost.price_lookup import price_of  # noqa: PLC0415 - nobody else needs it

    return price_of(provider, model)


def check_prices(policy: Policy) -> None:
    """Load the list prices, where `policy` has a limit of spending: later it would take the time of a call.

    Raises:
        ConfigurationError: they are not installed.
    """
    if policy.spend.acts:
        list_price("openai", "")


def engine_for(policy: Policy | str) -> Engine:
    """Make an engine for a policy, or a preset, as it is in force here. Raises as `check_prices` does."""
    chosen = in_force(policy)
    check_prices(chosen)
    return Engine(chosen, SpendAccounts(list_price))
