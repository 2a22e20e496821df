"""The data that the OpenTelemetry SDK receives: spans as a tree, metrics by name and labels."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stormbreak.telemetry import Tracing


class Traces:
    """An SDK that stores all data, and the `listener` that fills it."""

    def __init__(self, **more):
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self._provider.get_tracer("test")
        self.listener = Tracing(self._provider, meters, **more)

    @property
    def spans(self):
        """The ended spans, in the order of their starts."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)

    def below(self, parent):
        """The children of a span, or the spans without a parent."""
        wanted = None if parent is None else parent.context.span_id
        return [
            span for span in self.spans if (span.parent.span_id if span.parent else None) == wanted
        ]

    def only(self):
        """The only call, and its attempts."""
        (call,) = self.below(None)
        return call, self.below(call)

    def tree(self, parent=None):
        """The names of all spans; a span with children is a pair of its name and their tree."""
        found = []
        for span in self.below(parent):
            under = self.tree(span)
            found.append((span.name, under) if under else span.name)
        return found

    def metrics(self):
        """The metrics by name."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name):
        """The points of one metric by their labels."""
        metric = self.metrics().get(name)
        points = [] if metric is None else metric.data.data_points
        return {frozenset(point.attributes.items()): point for point in points}

    def shown(self):
        """All spans and metrics, as an exporter would write them."""
        data = self._reader.get_metrics_data()
        return [span.to_json() for span in self.spans] + ([data.to_json()] if data else [])


def events_of(span):
    """Names and attributes of the events of a span."""
    return [(event.name, dict(event.attributes)) for event in span.events]


def attributes_of(span, *names):
    """The attributes of a span under these names, without their prefix."""
    return tuple(span.attributes.get(name) for name in names)
