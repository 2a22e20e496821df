"""The report of a storm: the verdict, what each policy gave and cost, and what happened second by second."""

from collections.abc import Sequence
from statistics import fmean

from stormbreak.provider.scenario import Load, Scenario
from stormbreak.report.comparison import Comparison, Quantity, View, spread
from stormbreak.report.figures import measures_table
from stormbreak.report.page import Card, Chart, Key, Page, Section, keys_of
from stormbreak.report.picture import Picture, Tile
from stormbreak.report.svg import drawing_of
from stormbreak.report.text import shown
from stormbreak.report.theme import STROKES
from stormbreak.storm import Result
from stormbreak.storm.measures import Measures
from stormbreak.storm.money import ARTICLE, Loss, loss, watched

_LONG = 400  # characters of what a scenario says about itself


def _each(name):
    return lambda series: getattr(series, name, ())


ANSWERS = Quantity(
    title="Answers in time",
    unit="answers per second",
    pick=lambda series: series.answers,
    backdrop=("the ideal: what was possible", lambda series: series.ideal),
)
ATTEMPTS = Quantity(
    title="Attempts",
    unit="attempts per second",
    pick=lambda series: series.attempts,
    backdrop=("calls that arrive", lambda series: series.calls),
)
LOST = Quantity(
    title="Calls lost",
    unit="calls per second that end unanswered",
    pick=lambda series: [a + b for a, b in zip(series.failed, series.shed, strict=True)],
)
WASTED = Quantity(
    title="Wasted work",
    unit="slots of the provider that work for nobody",
    pick=_each("wasted"),
)
QUEUED = Quantity(title="Waiting in the clients' queues", unit="calls", pick=_each("queued"))
OPEN = Quantity(
    title="Circuits that are not closed",
    unit="processes",
    pick=_each("open_circuits"),
)
IN_FLIGHT = Quantity(
    title="In flight, against the limit",
    unit="attempts in flight",
    pick=_each("in_flight"),
    backdrop=("the limit", _each("limit")),
)


def storm_page(scenario: Scenario, results: Sequence[Result], verdict: str) -> Page:
    """Make the page of one scenario and its runs; `verdict` is the one sentence that stands first."""
    comparison = Comparison(scenario, results)
    sections = [
        _answers(comparison),
        _money(comparison),
        Section(
            title="Measures",
            lead=_measured(scenario, comparison),
            table=measures_table(comparison),
        ),
        _over_time(comparison),
        _limits(comparison),
        _words(),
    ]
    return Page(
        kind="a storm, simulated",
        title=shown(scenario.name),
        about=shown(scenario.about, _LONG),
        verdict=shown(verdict, _LONG),
        facts=_facts(scenario, comparison),
        sections=[section for section in sections if section is not None],
    )


def storm_picture(scenario: Scenario, results: Sequence[Result], verdict: str) -> Picture:
    """Make the picture: answers and attempts, and what each policy came to."""
    comparison = Comparison(scenario, results)
    tiles = [
        Tile(
            title=_title(comparison, quantity, view),
            panel=comparison.panel(view, quantity, comparison.drawn),
        )
        for quantity in (ANSWERS, ATTEMPTS)
        for view in comparison.views
    ]
    return Picture(
        title=f"{shown(scenario.name)}: {shown(scenario.about, 110)}",
        verdict=shown(verdict, _LONG),
        tiles=tiles,
        keys=_keys(comparison, ANSWERS),
        cards=_cards(comparison),
        note=_story(comparison) if watched(scenario) is not None else "",
    )


def _facts(scenario: Scenario, comparison: Comparison) -> list[tuple[str, str]]:
    load, seeds = scenario.load, comparison.seeds
    assert load is not None
    told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
    return [
        ("simulated", _minutes(scenario.duration)),
        ("trigger", _trigger(load)),
        ("processes", f"{load.processes:,}"),
        ("deadline", f"{load.deadline:g} s"),
        ("timeout of an attempt", f"{load.timeout:g} s"),
        ("seeds" if len(seeds) > 1 else "seed", told),
    ]


def _trigger(load: Load) -> str:
    if load.trigger_until is None:
        return "none"
    return f"from {load.trigger_at or 0:g} s to {load.trigger_until:g} s"


def _answers(comparison: Comparison) -> Section:
    lead = "Each second's answers that came before their deadline. Grey is the ideal: the most that any client could get."
    return Section(
        title="Answers in time",
        lead=lead + _left_out(comparison) + _band(comparison),
        keys=_keys(comparison, ANSWERS),
        charts=_charts(comparison, [ANSWERS]),
    )


def _left_out(comparison: Comparison) -> str:
    rest = len(comparison.runs) - len(comparison.drawn)
    if not rest:
        return ""
    return f" Only the first {len(comparison.drawn)} policies are drawn; the other {rest} stand in the tables."


def _band(comparison: Comparison) -> str:
    if len(comparison.seeds) == 1:
        return ""
    return f" Lines are means of {len(comparison.seeds)} seeds; the band around a line goes from the lowest to the highest."


def _measured(scenario: Scenario, comparison: Comparison) -> str:
    assert scenario.load is not None
    since = "over all of the run" if scenario.load.trigger_until is None else "from the trigger on"
    several = len(comparison.seeds) > 1
    return f"Taken {since}." + (
        f" Means of {len(comparison.seeds)} seeds, with the standard deviation after ±."
        if several
        else " One seed: use --seeds to see how much is chance."
    )


def _money(comparison: Comparison) -> Section | None:
    if watched(comparison.scenario) is None:
        return None
    return Section(title="What it would cost", lead=_story(comparison), cards=_cards(comparison))


def _story(comparison: Comparison) -> str:
    seconds = watched(comparison.scenario)
    assert seconds is not None
    return (
        f"By the article's story: {ARTICLE.seconds / 60:.0f} minutes of downtime lost {ARTICLE.usd:,.0f} USD,"
        f" {ARTICLE.usd_per_second:,.0f} USD a second. That figure is scaled here by the share of the possible answers that"
        f" is lost in the {_minutes(seconds)} from the trigger on; it is no forecast for your own house."
    )


def _cards(comparison: Comparison) -> list[Card]:
    cards = []
    for place, policy in enumerate(comparison.runs):
        seconds, mean = watched(comparison.scenario), comparison.mean(policy)
        card = _answered(mean)
        if seconds is not None:
            card = _lost([loss(one.goodput, seconds) for one in comparison.measures(policy)])
        stroke = STROKES[place] if place < len(STROKES) else None
        cards.append(
            Card(name=comparison.names[policy], figure=card[0], about=card[1], stroke=stroke)
        )
    return cards


def _answered(mean: Measures) -> tuple[str, str]:
    return f"{100 * mean.goodput:.1f} %", "of the possible answers came in time"


def _lost(losses: Sequence[Loss]) -> tuple[str, str]:
    usd, share = (fmean(getattr(one, name) for one in losses) for name in ("usd", "share"))
    deviation = spread([one.usd for one in losses])
    either = f" ±{_thousands(deviation)}" if deviation is not None else ""
    down = _minutes(fmean(one.seconds for one in losses))
    return (
        f"{_thousands(usd)} USD",
        f"{either} {100 * share:.1f} % of the possible answers lost: as good as {down} down".strip(),
    )


def _thousands(usd: float) -> str:
    return f"{round(usd, -2):,.0f}" if usd >= 1000 else f"{usd:,.0f}"


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _over_time(comparison: Comparison) -> Section:
    quantities = [ATTEMPTS, LOST, WASTED, QUEUED, OPEN]
    seen = [each for each in quantities if each is ATTEMPTS or comparison.any(each.pick)]
    backdrop = "Grey in the charts of attempts: the calls that arrive."
    never = [each.title.lower() for each in quantities if each not in seen]
    return Section(
        title="Second by second",
        lead=backdrop
        + (f" Never more than nothing, and left out: {', '.join(never)}." if never else ""),
        keys=_keys(comparison, ATTEMPTS),
        charts=_charts(comparison, seen),
    )


def _limits(comparison: Comparison) -> Section:
    view = comparison.views[-1]
    charts = []
    for place, policy in enumerate(comparison.drawn):
        panel = comparison.panel(view, IN_FLIGHT, [policy])
        drawing = drawing_of(panel, salt=f"limit {place}")
        charts.append(Chart(title=comparison.names[policy], drawing=drawing))
    return Section(
        title="In flight, against the limit",
        lead=f"{view.name}, over all processes. Grey is the limit that each policy sets itself, where it sets one.",
        charts=charts,
    )


def _charts(comparison: Comparison, quantities: Sequence[Quantity]) -> list[Chart]:
    return [
        Chart(
            title=_title(comparison, quantity, view),
            drawing=drawing_of(
                comparison.panel(view, quantity, comparison.drawn),
                salt=f"{quantity.title} {view.name}",
            ),
        )
        for quantity in quantities
        for view in comparison.views
    ]


def _title(comparison: Comparison, quantity: Quantity, view: View) -> str:
    if len(comparison.views) == 1:
        return quantity.title
    return f"{quantity.title}: {view.name[0].lower()}{view.name[1:]}"


def _keys(comparison: Comparison, quantity: Quantity) -> list[Key]:
    return keys_of(comparison.panel(comparison.views[0], quantity, comparison.drawn).lines)


def _words() -> Section:
    return Section(
        title="The words",
        notes=[
            (
                "The ideal",
                "A fluid optimum that knows the capacity at every moment, keeps all calls in one queue, oldest first, and"
                " drops only what cannot meet its deadline any more. No client can do better over time; some storms keep"
                " every client below it.",
            ),
            (
                "Trigger",
                "What the storm begins with: more traffic, or less capacity. Recovery counts from its end.",
            ),
            (
                "Wasted work",
                "The provider goes on working for clients who have given up. That is what keeps a collapsed system down.",
            ),
            (
                "Recovered",
                "The first second after the trigger from which, for 30 s, 95 % of the calls that come are answered in time.",
            ),
        ],
    )
