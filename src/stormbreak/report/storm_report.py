"""The report of a storm: the verdict, what each policy gave and cost, and what happened second by second."""

import re
from collections.abc import Sequence
from dataclasses import replace

from stormbreak.escape import shown
from stormbreak.provider.scenario import Load, Scenario
from stormbreak.report.drawing import drawing_of
from stormbreak.report.page import Chart, Key, Page, Section, keys_of
from stormbreak.report.picture import Picture, Tile
from stormbreak.report.storm_measures import cost_cards, cost_section, measures_table, span, story
from stormbreak.report.storm_series import (
    ANSWERS,
    ATTEMPTS,
    IN_FLIGHT,
    LOST,
    OPEN,
    QUEUED,
    WASTED,
    Comparison,
    Quantity,
    View,
)
from stormbreak.storm import Result
from stormbreak.storm.verdict import verdict

_BEFORE_A_UNIT = re.compile(r"(?<=\d) (?=%|s\b)")
_OVER_TIME = (ATTEMPTS, LOST, WASTED, QUEUED, OPEN)
_BOTH = replace(ANSWERS, backdrop=("what was possible, and the calls that arrived", ANSWERS.pick))
_LONG = 600  # characters of a sentence
_A_PAGE = "a report as .html"


def storm_page(scenario: Scenario, results: Sequence[Result], *, live: bool = False) -> Page:
    """Make the page of one scenario and its runs; the verdict is on the policy, or the program, of the first."""
    comparison = Comparison(scenario, results)
    sections = [
        _answers(comparison),
        cost_section(comparison),
        Section(
            title="Measures",
            lead=_measured(scenario, comparison, live=live),
            table=measures_table(comparison, live=live),
        ),
        _over_time(comparison),
        _limits(comparison),
        Section(title="The words", notes=_WORDS),
    ]
    return Page(
        kind="a storm, played live" if live else "a storm, simulated",
        title=shown(scenario.name),
        about=shown(scenario.description, _LONG),
        verdict=_verdict(comparison),
        facts=_facts(scenario, comparison, live=live),
        sections=[section for section in sections if section is not None],
    )


def storm_picture(scenario: Scenario, results: Sequence[Result]) -> Picture:
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
        title=f"{shown(scenario.name)}: {shown(scenario.description, 110)}",
        verdict=_verdict(comparison),
        tiles=tiles,
        keys=_keys(comparison, _BOTH),
        cards=cost_cards(comparison),
        note=f"{story(comparison)}{_left_out(comparison, _A_PAGE)}".strip(),
    )


def _verdict(comparison: Comparison) -> str:
    policy = next(iter(comparison.runs))
    said = shown(verdict(comparison.scenario, comparison.runs[policy]), _LONG)
    return _BEFORE_A_UNIT.sub("\N{NO-BREAK SPACE}", said)


def _facts(scenario: Scenario, comparison: Comparison, *, live: bool) -> list[tuple[str, str]]:
    load, seeds = scenario.load, comparison.seeds
    assert load is not None
    told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
    return [
        ("played" if live else "simulated", span(scenario.duration)),
        ("trigger", _trigger(load)),
        ("copies" if live else "processes", f"{load.processes:,}"),
        ("deadline", f"{load.deadline:g} s"),
        ("timeout of an attempt", f"{load.timeout:g} s"),
        ("seeds" if len(seeds) > 1 else "seed", told),
    ]


def _trigger(load: Load) -> str:
    if load.trigger_until is None:
        return "none"
    return f"from {load.trigger_at or 0:g} s to {load.trigger_until:g} s"


def _answers(comparison: Comparison) -> Section:
    beside = _beside(comparison)
    lead = "Each second's answers that came before their deadline. Grey is the ideal: the most that any client could get."
    return Section(
        title="Answers in time",
        lead=lead + _left_out(comparison, "the tables") + _band(comparison),
        keys=_keys(comparison, _BOTH if beside else ANSWERS),
        charts=_charts(comparison, [ANSWERS, *beside]),
    )


def _beside(comparison: Comparison) -> list[Quantity]:
    """What stands beside the answers: where there is one view only, its place would be empty."""
    return [] if len(comparison.views) > 1 else [ATTEMPTS]


def _left_out(comparison: Comparison, where: str) -> str:
    rest = len(comparison.runs) - len(comparison.drawn)
    if not rest:
        return ""
    return f" Only the first {len(comparison.drawn)} policies are drawn; the other {rest} stand in {where}."


def _band(comparison: Comparison) -> str:
    if len(comparison.seeds) == 1:
        return ""
    return f" Lines are means of {len(comparison.seeds)} seeds; the band around a line goes from the lowest to the highest."


def _measured(scenario: Scenario, comparison: Comparison, *, live: bool) -> str:
    assert scenario.load is not None
    since = "over all of the run" if scenario.load.trigger_until is None else "from the trigger on"
    if live:
        return f"Taken {since}, from what the provider saw. One storm: another seed gives another, and how much is chance."
    several = len(comparison.seeds) > 1
    return f"Taken {since}." + (
        f" Means of {len(comparison.seeds)} seeds, with the standard deviation after ±."
        if several
        else " One seed: use --seeds to see how much is chance."
    )


def _over_time(comparison: Comparison) -> Section:
    beside = _beside(comparison)
    known = [each for each in _OVER_TIME if comparison.knows(each.pick) and each not in beside]
    seen = [each for each in known if comparison.any(each.pick)]
    never = ", ".join(each.title.lower() for each in known if each not in seen)
    return Section(
        title="Second by second",
        lead=f"Left out, for it never happened: {never}." if never else "",
        keys=_keys(comparison, seen[0]) if seen else (),
        charts=_charts(comparison, seen),
    )


def _limits(comparison: Comparison) -> Section | None:
    if not comparison.knows(IN_FLIGHT.pick):
        return None
    view = comparison.views[-1]
    charts = []
    for place, policy in enumerate(comparison.drawn):
        panel = comparison.panel(view, IN_FLIGHT, [policy])
        drawing = drawing_of(panel, salt=f"limit {place}")
        charts.append(Chart(title=comparison.names[policy], drawing=drawing))
    return Section(
        title="In flight, against the limit",
        lead=f"{view.name}, over all processes. Grey is the limit that each policy sets itself, where one is in force;"
        " one far above what is in flight is out of sight.",
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


_IDEAL = (
    "A fluid optimum that knows the capacity at every moment, keeps all calls in one queue, oldest first, and drops"
    " only what cannot meet its deadline any more. No client can answer more, and some storms keep every client below it."
)
_WORDS = (
    ("The ideal", _IDEAL),
    (
        "Trigger",
        "What the storm begins with: more traffic, or less capacity. Recovery counts from its end.",
    ),
    (
        "Recovered",
        "The first second after the trigger from which, for 30 s, 95 % of the calls that come are answered in time.",
    ),
    (
        "Wasted work",
        "The provider goes on working for clients who have given up. That is what keeps a collapsed system down.",
    ),
)
