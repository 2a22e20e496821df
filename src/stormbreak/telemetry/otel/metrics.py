"""OpenTelemetry metrics: those of the GenAI conventions, and our own as instruments.

The duration of operations is that of calls, as the user made them; tokens are those of every attempt for which the provider
said how many, for each of them is billed.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from stormbreak.telemetry.event_metrics import Family
from stormbreak.telemetry.gauges import STANDING, Standing
from stormbreak.telemetry.labels import OTHER, Targets
from stormbreak.telemetry.otel import conventions as names
from stormbreak.types import Target, Usage, Verdict

DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKENS = "gen_ai.client.token.usage"

BOUNDS = tuple(0.01 * 2**power for power in range(14))
"""Upper bounds of buckets in seconds, as the conventions give them; those for tokens follow."""

TOKEN_BOUNDS = tuple(4**power for power in range(14))


class GenAi:
    """Seconds and tokens of operations. What is no operation of a model, such as a function, is not measured."""

    def __init__(self, meter: Meter, targets: Targets) -> None:
        self._targets = targets
        self._durations = meter.create_histogram(
            DURATION, "s", "GenAI operation duration.", explicit_bucket_boundaries_advisory=BOUNDS
        )
        self._firsts = meter.create_histogram(
            FIRST_CHUNK,
            "s",
            "Time to receive the first chunk of a stream.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )

        self._tokens = meter.create_histogram(
            TOKENS,
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BOUNDS,
        )

    def began(self, seconds: float, target: Target, operation: str) -> None:
        """The first output of a stream came."""
        if operation:
            self._firsts.record(seconds, self._of(target, operation))

    def used(self, usage: Usage, target: Target, operation: str) -> None:
        """An attempt used so many tokens."""
        if operation:
            attributes = self._of(target, operation)
            for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                self._tokens.record(count, attributes | {names.TOKEN_TYPE: kind})

    def ended(self, seconds: float, target: Target, operation: str, verdict: Verdict) -> None:
        """An operation is over."""
        if operation:
            attributes = self._of(target, operation)
            if verdict is not Verdict.OK:
                attributes[names.ERROR_TYPE] = verdict.value
            self._durations.record(seconds, attributes)

    def _of(self, target: Target, operation: str) -> names.Attributes:
        """Attributes of a bounded number: what has no label of its own is "other"."""
        told = names.where(target)
        if self._targets.label(target) == OTHER:
            told = {names.PROVIDER: OTHER, names.MODEL: OTHER}
        known = {name: value for name, value in told.items() if name != names.TARGET}
        return {names.OPERATION: operation, **known}


# ---------------------------------------------------------------- our own metrics
# The numbers of `event_metrics` and the gauges. Their names and labels are such that a collector
# which hands them on to Prometheus makes of them what `Metrics` tells it: "stormbreak.calls"
# becomes `stormbreak_calls_total`, and a dashboard does not see the difference.

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
