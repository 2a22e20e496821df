"""What a storm costs, by the story of the article: 23 minutes of downtime lost revenue of 180,000 USD.

That figure is scaled, and no forecast for anybody else. Answers that did not come in time are worth as much downtime
as it would have taken to lose them all at once: with half of the possible answers lost, each second counts for half.
Whoever knows what a minute of downtime costs in their own house gives a rate of their own.
"""

from dataclasses import dataclass

from stormbreak.cost.outage import Downtime
from stormbreak.provider.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A downtime that somebody has lived through: how long it was, and what it cost."""

    seconds: float
    usd: float

    @property
    def usd_per_second(self) -> float:
        """What a second without any answer costs."""
        return self.usd / self.seconds


ARTICLE = Story(seconds=60.0 * float(Downtime().minutes), usd=float(Downtime().cost))
"""The article's own estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What was lost: a share of the possible answers, worth `seconds` of full downtime, worth `usd`."""

    share: float
    seconds: float
    usd: float


def watched(scenario: Scenario) -> float | None:
    """Seconds that measures are taken over, from the trigger on; None where there is no trigger to speak of."""
    load = scenario.load
    if load is None or load.trigger_until is None:
        return None
    return scenario.duration - (load.trigger_at or 0.0)


def loss(goodput: float, seconds: float, story: Story = ARTICLE) -> Loss:
    """What it costs to give `goodput` of the possible answers for so many seconds."""
    share = min(1.0, max(0.0, 1.0 - goodput))
    down = share * seconds
    return Loss(share=share, seconds=down, usd=down * story.usd_per_second)
