"""What may be spent: what is configured, and what prices are to the core."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol, TypeAlias

from stormbreak.core.checks import require
from stormbreak.errors import ConfigurationError
from stormbreak.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPolicy:
    """At most `usd` US dollars are spent in every `per` seconds (None: ever), per process. None: without a limit.

    It holds for all targets that have the same limit, together. Before an attempt leaves, the most that it can cost is set
    aside. So its answer needs a bound: a request that names none is bounded to `longest_answer`; None: it is refused.
    """

    usd: float | None = None
    per: float | None = None
    longest_answer: int | None = None

    def __post_init__(self) -> None:
        usd, per, answer = self.usd, self.per, self.longest_answer
        require(usd is None or usd > 0, "usd must be positive", usd)
        require(per is None or per > 0, "per must be positive", per)
        require(answer is None or answer >= 1, "longest_answer must be at least 1", answer)

    @property
    def acts(self) -> bool:
        """Whether there is a limit."""
        return self.usd is not None


class Priced(Protocol):
    """What a seller asks for a model."""

    def cost_of(self, usage: Usage) -> Decimal:
        """What one attempt with this usage costs, in US dollars; raises ConfigurationError where that is not known."""
        ...


PriceOf: TypeAlias = Callable[[str, str], Priced | None]
"""By provider and model; None where the price is not known."""


def known_cost(prices: Priced | None, usage: Usage) -> Decimal | None:
    """What one attempt with this usage costs at these prices; None where they do not say."""
    try:
        return None if prices is None else prices.cost_of(usage)
    except ConfigurationError:  # one of its prices is missing
        return None
