"""What a report of costs is made of, as the command that worked it out hands it over. Light to import."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from stormbreak.cost.money import USD, Currency
from stormbreak.cost.roi import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Dollars, and what or whom they are of; a `claim` is marked as one."""

    name: str
    usd: Decimal
    claim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Costs that are held against each other, as bars. `exact` ones, which are prices, are not rounded to a coin."""

    title: str
    costs: Sequence[Cost]
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFacts:
    """What stands above the tables: what it is about, what came of it in one sentence, and what is drawn.

    With a `move`, its savings over a year are drawn against what it costs.
    """

    kind: str
    title: str
    verdict: str
    facts: Sequence[tuple[str, str]] = ()
    bars: Sequence[Costs] = field(default_factory=list)
    move: Case | None = None
    currency: Currency = USD
