"""The content of a cost report, from commands. Light to import."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from stormbreak.cost.money import USD, Currency
from stormbreak.cost.roi import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """An amount of dollars and its name; a `claim` is marked as one."""

    name: str
    usd: Decimal
    claim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Costs to compare as bars. `exact` ones, which are prices, are not rounded to cents."""

    title: str
    costs: Sequence[Cost]
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFacts:
    """Everything above the tables: the subject, the result in one sentence, and the charts.

    With a `move`, a chart compares its savings over a year with its cost. If the current price is a claim, `listed` is
    the same move against the list price.
    """

    kind: str
    title: str
    verdict: str
    facts: Sequence[tuple[str, str]] = ()
    bars: Sequence[Costs] = field(default_factory=list)
    move: Case | None = None
    listed: Case | None = None
    currency: Currency = USD
