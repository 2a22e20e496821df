"""OpenTelemetry: a span for each call and each attempt, and metrics. Needs the extra `otel`, and an SDK that you choose.

::

    attach(client, Tracing())

One object serves any number of engines, threads and event loops. docs/events.md lists the attributes of the spans.
"""

from collections.abc import Collection
from importlib.metadata import version

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from stormbreak.core.engine import Engine
from stormbreak.drivers.listeners import Attached
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event
from stormbreak.telemetry.event_metrics import FAMILIES, updates_of
from stormbreak.telemetry.gauges import EngineGauges
from stormbreak.telemetry.labels import MAX_TARGETS, Targets
from stormbreak.telemetry.otel.metrics import GenAiMetrics, instrument, observe
from stormbreak.telemetry.otel.spans import Spans

SCOPE = "stormbreak"
MAX_CALLS = 10_000


class Tracing:
    """A listener that traces calls and counts events. It exports no prompt, answer, tenant or key.

    Args:
        tracer_provider: creates the spans; by default the global one.
        meter_provider: creates the metrics; by default the global one.
        labels: names of call labels (see `scope`) that become span attributes; by default none.
        max_targets: targets with their own metric label; later ones are "other".
        max_calls: open spans of calls per engine; beyond that the oldest are ended.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        labels: Collection[str] = (),
        max_targets: int = MAX_TARGETS,
        max_calls: int = MAX_CALLS,
    ) -> None:
        if isinstance(labels, str):
            raise ConfigurationError("labels must be a collection of label names, got a string")
        self._tracer = get_tracer(SCOPE, version(SCOPE), tracer_provider)
        meter = get_meter(SCOPE, version(SCOPE), meter_provider)
        self._labels = frozenset(labels)
        self._max_calls = max_calls
        self._targets = Targets(max_targets)
        self._genai = GenAiMetrics(meter, self._targets)
        self._record = {name: instrument(meter, name, family) for name, family in FAMILIES.items()}
        self._labels_of: dict[tuple[str, str, tuple[str, ...]], dict[str, str]] = {}
        self._gauges = EngineGauges(self._targets)
        observe(meter, self._gauges)

    def watch(self, engine: Engine) -> None:
        """Trace the calls of this engine and export its gauges, as long as it lives.

        Raises ConfigurationError if another object traces them already.
        """
        if engine.context_listener is not None:
            raise ConfigurationError(
                "the engine is already traced: attach only one Tracing object to it"
            )
        spans = Spans(self._tracer, self._genai, labels=self._labels, max_calls=self._max_calls)
        Attached(engine, spans)
        engine.context_listener = spans  # call numbers are unique per engine only
        self._gauges.engines.add(engine)

    def unwatch(self, engine: Engine) -> None:
        """Stop tracing it; the spans of active calls end now, as unfinished."""
        self._gauges.unwatch(engine)
        spans = engine.context_listener
        engine.context_listener = None
        if isinstance(spans, Spans):
            engine.listeners.remove(spans)
            spans.close()

    def __call__(self, event: Event) -> None:
        updates = updates_of(event)
        if not updates:
            return
        target = self._targets.label(event.target)
        for name, values, amount in updates:
            labels = self._labels_of.get((name, target, values))
            if labels is None:
                named = zip(FAMILIES[name].labels, values, strict=True)
                labels = self._labels_of[name, target, values] = {"target": target, **dict(named)}
            self._record[name](amount, labels)
