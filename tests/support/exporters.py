"""All exporters of events together."""

from traces import Traces

from stormbreak.telemetry import Logs, Metrics, attach


class Exporters:
    """All listeners that export events: a plain one, logs, metrics and traces."""

    def __init__(self):
        self._events = []
        self._logs = Logs(every=0)
        self._metrics = Metrics()
        self._traces = Traces()

    def attach(self, what):
        listen = lambda event: self._events.append(repr(event))  # noqa: E731 - a new one each time
        attach(what, listen, self._logs, self._metrics, self._traces.listener)

    def shown(self):
        """All exported text except log lines."""
        text = self._metrics.exposition()[1].decode()
        assert "stormbreak_attempts_sent_total{" in text
        traces = self._traces.shown()
        assert any('"gen_ai.operation.name": "chat"' in span for span in traces)
        return [*self._events, text, *traces]
