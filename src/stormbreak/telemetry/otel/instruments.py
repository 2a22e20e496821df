"""Our own metrics as instruments of OpenTelemetry: the numbers of `measured`, and what stands where.

Their names and labels are such that a collector which hands them on to Prometheus makes of them what `Metrics` tells it:
"stormbreak.calls" becomes `stormbreak_calls_total`, and a dashboard does not see the difference.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from stormbreak.telemetry.measured import Family
from stormbreak.telemetry.standing import STANDING, Standing

PREFIX = "stormbreak."
_SECONDS = "_seconds"

Tell: TypeAlias = Callable[[float, dict[str, str]], None]


def teller(meter: Meter, name: str, family: Family) -> Tell:
    """What tells an amount, with labels, of the metric of this name."""
    named, unit = _named(name)
    if not family.buckets:
        return meter.create_counter(named, unit, family.text).add
    return meter.create_histogram(
        named, unit, family.text, explicit_bucket_boundaries_advisory=family.buckets
    ).record


def observe(meter: Meter, standing: Standing) -> None:
    """Have what stands where told whenever somebody reads the metrics."""
    for name, gauge in STANDING.items():
        named, unit = _named(name)
        meter.create_observable_gauge(named, [_look(name, standing)], unit, gauge.text)


def _look(name: str, standing: Standing) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def look(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(labels)) for labels, value in standing.of(name)]

    return look


def _named(name: str) -> tuple[str, str]:
    """The name without its unit, and that."""
    if name.endswith(_SECONDS):
        return PREFIX + name.removesuffix(_SECONDS), "s"
    return PREFIX + name, ""
