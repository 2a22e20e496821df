"""What a simulation came to, for people: a sentence, then a table."""

from collections.abc import Callable, Container, Mapping
from types import MappingProxyType

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from stormbreak.provider.scenario import Scenario
from stormbreak.storm.measures import Measures

_Show = Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 100 else f"{value:.2f} s"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


_SHOWN: Mapping[str, _Show] = MappingProxyType(
    {
        "goodput": _percent,
        "trigger_goodput": _percent,
        "success": _percent,
        "recovery": _seconds,
        "p50": _seconds,
        "p99": _seconds,
        "added_wait_p50": _seconds,
        "added_wait_p99": _seconds,
        "makespan": _seconds,
        "amplification": _ratio,
        "attempts_per_sent_call": _ratio,
        "peak_attempts": _count,
        "shed": _count,
        "wasted": _percent,
        "openings": _count,
        "calls": _count,
    }
)


def sentence(scenario: Scenario, policy: str, measures: Measures) -> str:
    """The result in words."""
    answered = f"{scenario.name} under {policy}: {_percent(measures.goodput)} of the possible answers came in time"
    if scenario.load is None or scenario.load.trigger_until is None:
        return f"{answered}, the last after {_show('makespan', measures)}."
    during = f"{_percent(measures.trigger_goodput)} while the trigger lasted"
    if measures.recovery is None:
        return f"{answered}, {during}; no recovery was seen."
    return f"{answered}, {during}; it had recovered {measures.recovery:g} s after that."


def table(policies: Mapping[str, Measures], *, without: Container[str] = ()) -> Table:
    """Measures as rows, policies as columns; `without` those that nobody knows."""
    shown = Table("", *map(escape, policies), box=SIMPLE, pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name in (name for name in _SHOWN if name not in without):
        shown.add_row(name, *(_show(name, measures) for measures in policies.values()))
    return shown


def _show(name: str, measures: Measures) -> str:
    value = getattr(measures, name)
    return "never" if value is None else _SHOWN[name](value)
