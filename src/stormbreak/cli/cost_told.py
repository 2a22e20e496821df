"""What `stormbreak cost roi` will say, of a move and of an outage: gathered before anything is printed."""

from dataclasses import dataclass, field

from stormbreak.cost.money import Currency
from stormbreak.cost.roi import Case
from stormbreak.cost.sheet import Sheet
from stormbreak.report.cost_facts import CostFacts, Costs


@dataclass(slots=True, kw_only=True)
class Told:
    """For programs, for people, the sheets for both, and what a report has above them."""

    currency: Currency
    head: dict[str, object] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    sheets: dict[str, Sheet] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)
    bars: list[Costs] = field(default_factory=list)
    move: Case | None = None

    def __post_init__(self) -> None:
        self.head["currency"] = self.currency.code

    def facts(self) -> CostFacts:
        """What a report says before its tables."""
        return CostFacts(
            kind="what a move brings" if self.move else "what an outage costs",
            title="; ".join(self.titles),
            verdict=self.verdicts[0],
            facts=self.about,
            bars=self.bars,
            move=self.move,
            currency=self.currency,
        )
