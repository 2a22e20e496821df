"""Measures of a storm, written for people: what each is called, and how its numbers look."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.report.comparison import Comparison
from stormbreak.report.page import Table
from stormbreak.storm.measures import SHARES
from stormbreak.storm.spread import Spread, spread


class _Written(NamedTuple):
    number: Callable[[float], str]
    unit: str = ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


_PERCENT, _SECONDS = _Written(_percent, " %"), _Written(_seconds, " s")
_COUNT, _RATIO = _Written(_count), _Written(_ratio)

_ROWS: Mapping[str, tuple[str, _Written]] = MappingProxyType(
    {
        "goodput": ("answers in time, of those possible", _PERCENT),
        "trigger_goodput": ("the same while the trigger lasts", _PERCENT),
        "success": ("calls that were answered in time", _PERCENT),
        "recovery": ("recovered, after the trigger's end", _SECONDS),
        "p50": ("time to an answer, median", _SECONDS),
        "p99": ("time to an answer, 99th percentile", _SECONDS),
        "added_wait_p50": ("wait in the client's queue, median", _SECONDS),
        "added_wait_p99": ("wait in the client's queue, 99th percentile", _SECONDS),
        "makespan": ("first call to last answer", _SECONDS),
        "makespan_99": ("first call until 99 % are answered", _SECONDS),
        "amplification": ("attempts per call", _RATIO),
        "attempts_per_sent_call": ("attempts per call that was sent", _RATIO),
        "peak_attempts": ("most attempts in one second", _COUNT),
        "shed": ("calls that were never sent", _COUNT),
        "wasted": ("the provider's work that was wasted", _PERCENT),
        "openings": ("openings of circuits", _COUNT),
        "calls": ("calls", _COUNT),
    }
)


_OF_TRIGGERS = frozenset({"trigger_goodput", "recovery"})
_UNSEEN = frozenset({"openings"})  # from outside a program
_SEEN: Mapping[str, str] = MappingProxyType(
    {
        "added_wait_p50": "wait until a call was first asked for, median",
        "added_wait_p99": "wait until a call was first asked for, 99th percentile",
    }
)


def measures_table(comparison: Comparison, *, live: bool = False) -> Table:
    """Measures as rows, policies as columns; with several seeds each with its standard deviation.

    What is known only where there is a trigger, or from inside a program, is left out where it is not.
    """
    load = comparison.scenario.load
    calm = load is None or load.trigger_until is None
    unknown = (_OF_TRIGGERS if calm else frozenset()) | (_UNSEEN if live else frozenset())
    columns = [spread(comparison.measures(policy)) for policy in comparison.runs]
    rows = [
        [
            _SEEN.get(name, label) if live else label,
            *(_cell(name, column[name], written) for column in columns),
        ]
        for name, (label, written) in _ROWS.items()
        if name not in unknown
    ]
    return Table(heads=["", *comparison.names.values()], rows=rows)


def _cell(name: str, found: Spread, written: _Written) -> str:
    if found.mean is None:
        absent = "-" if name in SHARES else "never"
        return (
            absent if found.never == found.seeds else f"{absent} in {found.never} of {found.seeds}"
        )
    mean, deviation = written.number(found.mean), written.number(found.deviation or 0.0)
    around = "" if deviation == written.number(0.0) else f" ±{deviation}"
    return mean + around + written.unit
