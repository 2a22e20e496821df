"""OpenTelemetry: a span for each call and each attempt, and metrics. Needs the extra `otel`, and an SDK of the user's.

::

    attach(client, Tracing())

One object serves any number of engines, threads and event loops. docs/telemetry.md tells what is on the spans.
"""

from collections.abc import Collection
from importlib.metadata import version

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from stormbreak.core.engine import Engine
from stormbreak.drivers.listeners import subscribe
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event
from stormbreak.telemetry.event_metrics import FAMILIES, measured
from stormbreak.telemetry.gauges import Standing
from stormbreak.telemetry.labels import MOST_TARGETS, Targets
from stormbreak.telemetry.otel.metrics import GenAi, observe, teller
from stormbreak.telemetry.otel.spans import Spans

SCOPE = "stormbreak"
MOST_CALLS = 10_000


class Tracing:
    """A listener that traces calls and counts events. It carries no prompt, no answer, no tenant and no key.

    Args:
        tracer_provider: makes the spans; by default the global one.
        meter_provider: makes the metrics; by default the global one.
        labels: names of those labels of calls (see `scope`) whose values become attributes of spans; by default none.
        most_targets: distinct targets that metrics tell apart; those that come later are "other".
        most_calls: calls of one engine under way at a time whose spans are kept open; beyond it the oldest are ended.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        labels: Collection[str] = (),
        most_targets: int = MOST_TARGETS,
        most_calls: int = MOST_CALLS,
    ) -> None:
        if isinstance(labels, str):
            raise ConfigurationError("labels must be several names of labels, got one text")
        self._tracer = get_tracer(SCOPE, version(SCOPE), tracer_provider)
        meter = get_meter(SCOPE, version(SCOPE), meter_provider)
        self._labels = frozenset(labels)
        self._most_calls = most_calls
        self._targets = Targets(most_targets)
        self._genai = GenAi(meter, self._targets)
        self._notify = {name: teller(meter, name, family) for name, family in FAMILIES.items()}
        self._labels_of: dict[tuple[str, str, tuple[str, ...]], dict[str, str]] = {}
        self._standing = Standing(self._targets)
        observe(meter, self._standing)

    def watch(self, engine: Engine) -> None:
        """Trace the calls of this engine, and tell what stands where in it, for as long as it lives.

        Raises:
            ConfigurationError: another one traces them already.
        """
        if engine.context_listener is not None:
            raise ConfigurationError(
                "these calls are traced already: attach one Tracing to whatever shares an engine"
            )
        spans = Spans(self._tracer, self._genai, labels=self._labels, most=self._most_calls)
        subscribe(engine, spans)
        engine.context_listener = spans  # numbers of calls are those of one engine
        self._standing.watch(engine)

    def unwatch(self, engine: Engine) -> None:
        """Trace it no more; spans of calls that are under way end here, as unfinished."""
        self._standing.unwatch(engine)
        spans = engine.context_listener
        engine.context_listener = None
        if isinstance(spans, Spans):
            engine.listeners.remove(spans)
            spans.close()

    def __call__(self, event: Event) -> None:
        """Count an event."""
        measures = measured(event)
        if not measures:
            return
        target = self._targets.label(event.target)
        for name, values, amount in measures:
            labels = self._labels_of.get((name, target, values))
            if labels is None:
                named = zip(FAMILIES[name].labels, values, strict=True)
                labels = self._labels_of[name, target, values] = {"target": target, **dict(named)}
            self._notify[name](amount, labels)
