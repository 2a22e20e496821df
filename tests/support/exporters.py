"""All that tells others of events, at once."""

from traces import Traces

from stormbreak.telemetry import Logs, Metrics, attach


class Exporters:
    """Everything that tells of events, attached to all that a test looks at; logs go where everything is logged."""

    def __init__(self):
        self._heard = []
        self._logs = Logs(every=0)
        self._metrics = Metrics()
        self._traces = Traces()

    def attach(self, what):
        hear = lambda event: self._heard.append(repr(event))  # noqa: E731 - another each time
        attach(what, hear, self._logs, self._metrics, self._traces.listener)

    def shown(self):
        """All that was told in another way than by lines of a log."""
        text = self._metrics.exposition()[1].decode()
        assert "stormbreak_attempts_sent_total{" in text
        traces = self._traces.shown()
        assert any('"gen_ai.operation.name": "chat"' in span for span in traces)
        return [*self._heard, text, *traces]
