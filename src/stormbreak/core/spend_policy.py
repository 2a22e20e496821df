"""What may be spent: what is configured, and what prices are to the core."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Protocol, TypeAlias

from stormbreak.core.checks import check_types, require
from stormbreak.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPolicy:
    """At most `max_usd` US dollars are spent in every `period` seconds (None: ever), per process. None: without a limit.

    It holds for all targets that have the same limit, together. Before an attempt leaves, the most that it can cost is set
    aside. So its answer needs a bound: a request that names none is bounded to `max_output_tokens`; None: it is refused.
    """

    max_usd: float | None = None
    period: float | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        usd, per, answer = self.max_usd, self.period, self.max_output_tokens
        require(usd is None or usd > 0, "max_usd must be positive", usd)
        require(per is None or per > 0, "period must be positive", per)
        require(answer is None or answer >= 1, "max_output_tokens must be at least 1", answer)

    @property
    def acts(self) -> bool:
        """Whether there is a limit."""
        return self.max_usd is not None


EXACT = Context(prec=50)
"""In which dollars are worked out and added: threads of an application may have contexts that round to few digits."""


class PriceTable(Protocol):
    """What a seller asks for a model."""

    def cost_of(self, usage: Usage) -> Decimal:
        """What one attempt with this usage costs, in US dollars; raises ConfigurationError where that is not known."""
        ...

    def max_cost_of(self, usage: Usage) -> Decimal:
        """The most that attempts cost which used so much together, whatever each of them did. Raises as `cost_of` does."""
        ...

    def max_output_within(self, bound: Usage) -> Decimal:
        """The most that attempts cost which used no more than that together. Raises as `cost_of` does.

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
    return _known(prices, bound, lambda known: known.max_output_within(bound))


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
    except Exception:  # noqa: BLE001 - one is missing, or prices of somebody's own fail: the answer may be there already
        return None
    if isinstance(usd, Decimal) and usd.is_finite() and usd >= 0:
        return usd
    return None
