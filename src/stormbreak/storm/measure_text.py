"""The measures of a storm as text, in the order of a table."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.storm.measures import SHARES, Spread, Value


class _Format(NamedTuple):
    number: Callable[[float], str]
    unit: str = ""


_PERCENT = _Format(lambda value: f"{100 * value:.1f}", " %")
_SECONDS = _Format(lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.2f}", " s")
_COUNT = _Format(lambda value: f"{value:,.0f}")
_RATIO = _Format(lambda value: f"{value:.2f}")

FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        **dict.fromkeys(("goodput", "trigger_goodput", "success"), _PERCENT),
        **dict.fromkeys(("recovery", "p50", "p99", "added_wait_p50", "added_wait_p99"), _SECONDS),
        **dict.fromkeys(("makespan", "makespan_99"), _SECONDS),
        **dict.fromkeys(("amplification", "attempts_per_sent_call"), _RATIO),
        **dict.fromkeys(("peak_attempts", "shed"), _COUNT),
        "wasted": _PERCENT,
        **dict.fromkeys(("openings", "calls"), _COUNT),
    }
)


def value_text(name: str, value: Value) -> str:
    """Write a measure of one run."""
    if value is None:
        return "-" if name in SHARES else "never"
    form = FORMATS[name]
    return form.number(value) + form.unit


def mean_text(name: str, found: Spread) -> str:
    """Write the mean of a measure, with the deviation if it is not zero."""
    if found.mean is None:
        absent = value_text(name, None)
        return (
            absent if found.never == found.seeds else f"{absent} in {found.never} of {found.seeds}"
        )
    form = FORMATS[name]
    deviation = form.number(found.deviation or 0.0)
    around = "" if deviation == form.number(0.0) else f" ±{deviation}"
    return form.number(found.mean) + around + form.unit
