"""The metrics that the conventions for generative AI ask of a client, of calls as the user made them."""

from opentelemetry.metrics import Meter

from stormbreak.telemetry.labels import OTHER, Targets
from stormbreak.telemetry.otel import conventions as names
from stormbreak.types import Target, Verdict

DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"

BOUNDS = tuple(0.01 * 2**power for power in range(14))
"""Upper bounds of buckets in seconds, as the conventions give them."""


class GenAi:
    """Seconds of operations. What is no operation of a model, such as a function, is not measured."""

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

    def began(self, seconds: float, target: Target, operation: str) -> None:
        """The first output of a stream came."""
        if operation:
            self._firsts.record(seconds, self._of(target, operation))

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
