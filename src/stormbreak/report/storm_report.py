"""The report of a storm: the verdict, measures and cost of each policy, and charts over time."""

import re
from collections.abc import Sequence
from dataclasses import replace

from stormbreak.escape import shown
from stormbreak.provider.scenario import Load, Scenario
from stormbreak.report.page import Chart, Key, Page, Section, keys_of
from stormbreak.report.picture import HEADLINE_LETTERS, Picture
from stormbreak.report.storm_measures import (
    cost_basis,
    cost_cards,
    cost_section,
    format_span,
    measures_table,
)
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
from stormbreak.storm.policies import DISPLAY_NAMES
from stormbreak.storm.verdict import verdict

_BEFORE_A_UNIT = re.compile(r"(?<=\d) (?=%|s\b)")
_OVER_TIME = (ATTEMPTS, LOST, WASTED, QUEUED, OPEN)
_ANSWERS_AND_ATTEMPTS = replace(
    ANSWERS, backdrop=("what was possible, and the calls that arrived", ANSWERS.pick)
)
_LONG = 600  # characters of a sentence


def storm_page(scenario: Scenario, results: Sequence[Result], *, live: bool = False) -> Page:
    """Make the page of a scenario and its runs; the verdict is on the policy or program of the first."""
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
        Section(title="Terms", notes=_TERMS),
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
    comparison = Comparison(scenario, results, DISPLAY_NAMES)
    return Picture(
        title=f"{shown(scenario.name)}: {shown(scenario.description, 110)}",
        verdict=_headline(comparison),
        cards=[replace(card, about=_unbroken(card.about)) for card in cost_cards(comparison)],
        keys=_keys(comparison, _ANSWERS_AND_ATTEMPTS),
        charts=_charts(comparison, (ANSWERS, ATTEMPTS)),
        note=f"{cost_basis(comparison)}{_left_out(comparison, 'a report as .html')}".strip(),
    )


def _verdict(comparison: Comparison) -> str:
    policy = next(iter(comparison.runs))
    return _unbroken(shown(verdict(comparison.scenario, comparison.runs[policy]), _LONG))


def _unbroken(text: str) -> str:
    """Keep each number and its unit on one line."""
    return _BEFORE_A_UNIT.sub("\N{NO-BREAK SPACE}", text)


def _headline(comparison: Comparison) -> str:
    """Describe in one line the share of the possible answers that each of the first policies gets."""
    shares = {
        comparison.names[policy]: comparison.mean(policy).goodput for policy in comparison.runs
    }
    known = [(name, share) for name, share in shares.items() if share is not None]
    if not known:
        return "No answer in time was possible, for any client."
    (first, share), *others = known
    text = f"{first} answers {100 * share:.0f} % of what was possible"
    for name, other in others:
        longer = f"{text}, {name} {100 * other:.0f} %"
        if len(longer) > HEADLINE_LETTERS:
            break
        text = longer
    return _unbroken(text)


def _facts(scenario: Scenario, comparison: Comparison, *, live: bool) -> list[tuple[str, str]]:
    load, seeds = scenario.load, comparison.seeds
    assert load is not None
    return [
        ("played" if live else "simulated", format_span(scenario.duration)),
        ("trigger", _trigger(load)),
        ("copies" if live else "processes", f"{load.processes:,}"),
        ("deadline", f"{load.deadline:g} s"),
        ("timeout of an attempt", f"{load.timeout:g} s"),
        ("seeds", f"{seeds[0]}-{seeds[-1]}") if len(seeds) > 1 else ("seed", f"{seeds[0]}"),
    ]


def _trigger(load: Load) -> str:
    if load.trigger_until is None:
        return "none"
    return f"from {load.trigger_at or 0:g} s to {load.trigger_until:g} s"


def _answers(comparison: Comparison) -> Section:
    beside = _beside(comparison)
    lead = "The answers of each second that came before their deadline. Grey is the ideal: the maximum for any client."
    return Section(
        title="Answers in time",
        lead=lead + _left_out(comparison, "the tables") + _band(comparison),
        keys=_keys(comparison, _ANSWERS_AND_ATTEMPTS if beside else ANSWERS),
        charts=_charts(comparison, [ANSWERS, *beside]),
    )


def _beside(comparison: Comparison) -> list[Quantity]:
    """Return the chart next to the answers; with two views there is no room for it."""
    return [] if len(comparison.views) > 1 else [ATTEMPTS]


def _left_out(comparison: Comparison, where: str) -> str:
    rest = len(comparison.runs) - len(comparison.drawn)
    if not rest:
        return ""
    return f" Only the first {len(comparison.drawn)} policies are drawn; the other {rest} are in {where}."


def _band(comparison: Comparison) -> str:
    if len(comparison.seeds) == 1:
        return ""
    return f" Lines are means of {len(comparison.seeds)} seeds; the band around a line is from the lowest to the highest."


def _measured(scenario: Scenario, comparison: Comparison, *, live: bool) -> str:
    assert scenario.load is not None
    since = "over all of the run" if scenario.load.trigger_until is None else "from the trigger on"
    if live:
        return f"Taken {since}, as seen by the provider. This is one storm: run other seeds to see how much is chance."
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
        lead=f"Left out, because it never happened: {never}." if never else "",
        keys=_keys(comparison, seen[0]) if seen else (),
        charts=_charts(comparison, seen),
    )


def _limits(comparison: Comparison) -> Section | None:
    if not comparison.knows(IN_FLIGHT.pick):
        return None
    view = comparison.views[-1]
    charts = [
        Chart(title=comparison.names[policy], panel=comparison.panel(view, IN_FLIGHT, [policy]))
        for policy in comparison.drawn
    ]
    return Section(
        title="In flight, against the limit",
        lead=f"{view.name}, over all processes. Grey is the limit that the policy sets, if any;"
        " a limit far above the attempts in flight is not shown.",
        charts=charts,
    )


def _charts(comparison: Comparison, quantities: Sequence[Quantity]) -> list[Chart]:
    return [
        Chart(
            title=_title(comparison, quantity, view),
            panel=comparison.panel(view, quantity, comparison.drawn),
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
    " only calls that can no longer meet their deadline. No client can answer more; in some storms no client gets close."
)
_TERMS = (
    ("The ideal", _IDEAL),
    (
        "Trigger",
        "The start of the storm: more traffic, or less capacity. Recovery counts from its end.",
    ),
    (
        "Recovered",
        "The first second after the trigger from which 95 % of the arriving calls are answered in time for 30 s.",
    ),
    (
        "Wasted work",
        "The provider keeps working for clients that have given up. This keeps a collapsed system down.",
    ),
)
