"""OpenTelemetry metrics: those of the GenAI conventions, and the metrics of `event_metrics` and `gauges`.

Durations are measured per call of the user. Tokens are counted for every attempt whose usage the provider reported,
since each of them is billed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from stormbreak.telemetry.event_metrics import Family
from stormbreak.telemetry.gauges import GAUGES, EngineGauges
from stormbreak.telemetry.labels import OTHER, Targets
from stormbreak.telemetry.otel import conventions as names
from stormbreak.types import Target, Usage, Verdict

DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKENS = "gen_ai.client.token.usage"

SECONDS_BOUNDS = tuple(0.01 * 2**power for power in range(14))
TOKEN_BOUNDS = tuple(4**power for power in range(14))
"""Upper bounds of buckets, from the conventions."""


class GenAiMetrics:
    """Durations and tokens of GenAI operations. Calls without an operation, such as functions, are not measured."""

    def __init__(self, meter: Meter, targets: Targets) -> None:
        self._targets = targets
        self._durations, self._first_chunks, self._tokens = (
            meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=bounds)
            for name, unit, text, bounds in (
                (DURATION, "s", "GenAI operation duration.", SECONDS_BOUNDS),
                (FIRST_CHUNK, "s", "Time to receive the first chunk of a stream.", SECONDS_BOUNDS),
                (TOKENS, "{token}", "Number of input and output tokens used.", TOKEN_BOUNDS),
            )
        )

    def record_first_chunk(self, seconds: float, target: Target, operation: str) -> None:
        if operation:
            self._first_chunks.record(seconds, self._attributes(target, operation))

    def record_usage(self, usage: Usage, target: Target, operation: str) -> None:
        if operation:
            attributes = self._attributes(target, operation)
            for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                self._tokens.record(count, attributes | {names.TOKEN_TYPE: kind})

    def record_duration(
        self, seconds: float, target: Target, operation: str, verdict: Verdict
    ) -> None:
        if operation:
            attributes = self._attributes(target, operation)
            if verdict is not Verdict.OK:
                attributes[names.ERROR_TYPE] = verdict.value
            self._durations.record(seconds, attributes)

    def _attributes(self, target: Target, operation: str) -> names.Attributes:
        """Return a bounded number of attributes: a target without its own label is "other"."""
        if self._targets.label(target) == OTHER:
            attributes: names.Attributes = {names.PROVIDER: OTHER, names.MODEL: OTHER}
        else:
            attributes = {**names.target_attributes(target)}
            del attributes[names.TARGET]
        return {names.OPERATION: operation, **attributes}


# ---------------------------------------------------------------- our own metrics
# A collector for Prometheus converts them to the names of `Metrics`: "stormbreak.calls" becomes
# `stormbreak_calls_total`. So one dashboard serves both.

PREFIX = "stormbreak."
_SECONDS = "_seconds"

Record: TypeAlias = Callable[[float, dict[str, str]], None]


def instrument(meter: Meter, name: str, family: Family) -> Record:
    """Create a counter or histogram; return the function that records an amount with labels."""
    name, unit = _name_and_unit(name)
    if not family.buckets:
        return meter.create_counter(name, unit, family.text).add
    return meter.create_histogram(
        name, unit, family.text, explicit_bucket_boundaries_advisory=family.buckets
    ).record


def observe(meter: Meter, gauges: EngineGauges) -> None:
    """Create the gauges, and read them once whenever the metrics are collected."""
    unread: dict[str, list[tuple[Mapping[str, str], float]]] = {}

    def callback(key: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observations(_: CallbackOptions) -> list[Observation]:
            values = unread.pop(key, None)
            if values is None:  # another collection has begun
                fresh = gauges.values()
                values = fresh.pop(key)
                unread.update(fresh)
            return [Observation(value, dict(labels)) for labels, value in values]

        return observations

    for key, gauge in GAUGES.items():
        name, unit = _name_and_unit(key)
        create = meter.create_observable_counter if gauge.counts else meter.create_observable_gauge
        create(name, [callback(key)], unit, gauge.text)


def _name_and_unit(name: str) -> tuple[str, str]:
    bare = name.removesuffix(_SECONDS)
    return PREFIX + bare, "" if bare == name else "s"
