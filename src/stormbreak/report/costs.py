"""What each policy would cost in a storm, by the article's story."""

from decimal import Decimal
from statistics import fmean, stdev

from stormbreak.cost.outage import MINUTE, Downtime, Loss, lost
from stormbreak.provider.scenario import Scenario
from stormbreak.report.comparison import Comparison
from stormbreak.report.page import Card, Section
from stormbreak.report.theme import STROKES

ARTICLE = Downtime()
"""The article's own estimate."""


def watched(scenario: Scenario) -> float | None:
    """Seconds that measures are taken over, from the trigger on; None where there is no trigger to speak of."""
    load = scenario.load
    if load is None or load.trigger_until is None:
        return None
    return scenario.duration - (load.trigger_at or 0.0)


def cost_section(comparison: Comparison) -> Section | None:
    """The section of the page; None where there is no trigger, and so no downtime to compare with."""
    if watched(comparison.scenario) is None:
        return None
    return Section(
        title="What it would cost",
        lead=f"{story(comparison)} {_difference(comparison)}".rstrip(),
        cards=cost_cards(comparison),
    )


def cost_cards(comparison: Comparison) -> list[Card]:
    """What each policy loses; where that cannot be told in money, what it answers."""
    cards = []
    for place, policy in enumerate(comparison.runs):
        losses = _losses(comparison, policy)
        figure, about = _lost(losses) if losses else _answered(comparison, policy)
        stroke = STROKES[place] if place < len(STROKES) else None
        name = comparison.names[policy]
        cards.append(Card(name=name, figure=figure, about=about, stroke=stroke))
    return cards


def story(comparison: Comparison) -> str:
    """Where the figures come from; nothing where there are none."""
    seconds = watched(comparison.scenario)
    if seconds is None:
        return ""
    return (
        f"By the article's story: {ARTICLE.minutes} minutes of downtime lost {ARTICLE.cost:,} USD,"
        f" {ARTICLE.per_minute / MINUTE:,.0f} USD a second. That figure is scaled here by the share of the possible answers that"
        f" is lost in the {span(seconds)} from the trigger on; it is no forecast for your own house."
    )


def span(seconds: float) -> str:
    """Tell how long something lasts."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _losses(comparison: Comparison, policy: str) -> list[Loss]:
    seconds = watched(comparison.scenario)
    if seconds is None:
        return []
    return [
        lost(policy, _whole(one.goodput), Decimal(str(seconds)), ARTICLE)
        for one in comparison.measures(policy)
    ]


def _whole(goodput: float | None) -> Decimal:
    """Of nothing, nothing is lost."""
    return Decimal(1) if goodput is None else Decimal(str(goodput))


def _difference(comparison: Comparison) -> str:
    """What the policy asked for changes, against the worst of the others."""
    usd = {
        policy: fmean(one.cost for one in _losses(comparison, policy)) for policy in comparison.runs
    }
    first, *others = usd
    if not others:
        return ""
    worst = max(others, key=lambda policy: usd[policy])
    more, names = usd[worst] - usd[first], comparison.names
    if round(more) == 0:
        return f"{names[worst]} loses as much as {names[first]}."
    which = "more" if more > 0 else "less"
    return f"{names[worst]} loses {_dollars(abs(more))} {which} than {names[first]}."


def _answered(comparison: Comparison, policy: str) -> tuple[str, str]:
    goodput = comparison.mean(policy).goodput
    if goodput is None:
        return "-", "no answer in time was possible"
    return f"{100 * goodput:.1f} %", "of the possible answers came in time"


def _lost(losses: list[Loss]) -> tuple[str, str]:
    share, down = (
        fmean(one.share for one in losses),
        span(fmean(MINUTE * one.minutes for one in losses)),
    )
    about = f"lost, with {100 * share:.1f} % of the possible answers: as good as {down} down"
    if len(losses) > 1:
        about += f"; ±{_dollars(stdev(float(one.cost) for one in losses))} over seeds"
    return _dollars(fmean(one.cost for one in losses)), about


def _dollars(usd: float) -> str:
    return f"{round(usd, -2) if usd >= 1000 else usd:,.0f} USD"
