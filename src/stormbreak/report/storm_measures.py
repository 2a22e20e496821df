"""The measures of a storm as a table, and its cost under each policy."""

from collections.abc import Mapping
from decimal import Decimal
from statistics import fmean, stdev

from stormbreak.cost.downtime import MINUTE, Downtime, Loss, lost
from stormbreak.provider.scenario import Scenario
from stormbreak.report.page import Card, Section, Table
from stormbreak.report.storm_series import Comparison
from stormbreak.report.theme import STROKES
from stormbreak.storm.measures import mean_text, spread

_LABELS: Mapping[str, str] = {
    "goodput": "answers in time, of those possible",
    "trigger_goodput": "the same while the trigger lasts",
    "success": "calls that were answered in time",
    "recovery": "recovered, after the trigger's end",
    "p50": "time to an answer, median",
    "p99": "time to an answer, 99th percentile",
    "added_wait_p50": "wait in the client's queue, median",
    "added_wait_p99": "wait in the client's queue, 99th percentile",
    "makespan": "first call to last answer",
    "makespan_99": "first call until 99 % are answered",
    "amplification": "attempts per call",
    "attempts_per_sent_call": "attempts per call that was sent",
    "peak_attempts": "most attempts in one second",
    "shed": "calls that were never sent",
    "wasted": "the provider's work that was wasted",
    "openings": "openings of circuits",
    "calls": "calls",
}


_NEEDS_TRIGGER = frozenset({"trigger_goodput", "recovery"})
_NOT_LIVE = frozenset({"openings"})  # not visible from outside a program
_LIVE_LABELS: Mapping[str, str] = {
    "added_wait_p50": "wait until a call was first asked for, median",
    "added_wait_p99": "wait until a call was first asked for, 99th percentile",
}


def measures_table(comparison: Comparison, *, live: bool = False) -> Table:
    """Make a table with measures as rows and policies as columns; several seeds add the standard deviation."""
    load = comparison.scenario.load
    calm = load is None or load.trigger_until is None
    unknown = (_NEEDS_TRIGGER if calm else frozenset()) | (_NOT_LIVE if live else frozenset())
    columns = [spread(comparison.measures(policy)) for policy in comparison.runs]
    rows = [
        [
            _LIVE_LABELS.get(name, label) if live else label,
            *(mean_text(name, column[name]) for column in columns),
        ]
        for name, label in _LABELS.items()
        if name not in unknown
    ]
    return Table(heads=["", *comparison.names.values()], rows=rows)


ARTICLE = Downtime()  # the article's own estimate


def measured_seconds(scenario: Scenario) -> float | None:
    """Return the seconds from the trigger to the end; None without a trigger."""
    load = scenario.load
    if load is None or load.trigger_until is None:
        return None
    return scenario.duration - (load.trigger_at or 0.0)


def cost_section(comparison: Comparison) -> Section | None:
    """Make the section of the page; None without a trigger, since there is no downtime."""
    if measured_seconds(comparison.scenario) is None:
        return None
    return Section(
        title="What it would cost",
        lead=f"{cost_basis(comparison)} {_difference(comparison)}".rstrip(),
        cards=cost_cards(comparison),
    )


def cost_cards(comparison: Comparison) -> list[Card]:
    """Make a card with the loss of each policy; without a trigger, with its goodput."""
    cards = []
    for place, policy in enumerate(comparison.runs):
        losses = _losses(comparison, policy)
        figure, about = _lost(losses) if losses else _answered(comparison, policy)
        stroke = STROKES[place] if place < len(STROKES) else None
        name = comparison.names[policy]
        cards.append(Card(name=name, figure=figure, about=about, stroke=stroke))
    return cards


def cost_basis(comparison: Comparison) -> str:
    """Explain the source of the cost figures; empty without a trigger."""
    seconds = measured_seconds(comparison.scenario)
    if seconds is None:
        return ""
    return (
        f"In the article, {ARTICLE.minutes} minutes of downtime cost {ARTICLE.cost:,} USD,"
        f" {ARTICLE.per_minute / MINUTE:,.0f} USD a second. That figure is scaled here by the ratio of possible answers"
        f" lost in the {format_span(seconds)} after the trigger begins. It is not a forecast for your company."
    )


def format_span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _losses(comparison: Comparison, policy: str) -> list[Loss]:
    seconds = measured_seconds(comparison.scenario)
    if seconds is None:
        return []
    return [
        lost(policy, _whole(one.goodput), Decimal(str(seconds)), ARTICLE)
        for one in comparison.measures(policy)
    ]


def _whole(goodput: float | None) -> Decimal:
    """Return the goodput; 1 if no answer was possible, since nothing is lost."""
    return Decimal(1) if goodput is None else Decimal(str(goodput))


def _difference(comparison: Comparison) -> str:
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
        format_span(fmean(MINUTE * one.minutes for one in losses)),
    )
    about = f"lost, with {100 * share:.1f} % of the possible answers: like {down} of downtime"
    if len(losses) > 1:
        about += f"; ±{_dollars(stdev(float(one.cost) for one in losses))} over seeds"
    return _dollars(fmean(one.cost for one in losses)), about


def _dollars(usd: float) -> str:
    return f"{round(usd, -2) if usd >= 1000 else usd:,.0f} USD"
