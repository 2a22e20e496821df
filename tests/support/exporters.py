"""All that tells others of events, at once."""

from stormbreak.telemetry import Logs, Metrics, attach


class Exporters:
    """Everything that tells of events, attached to all that a test looks at; logs go where everything is logged."""

    def __init__(self):
        self._heard = []
        self._logs = Logs(every=0)
        self._metrics = Metrics()

    def attach(self, what):
        attach(what, lambda event: self._heard.append(repr(event)), self._logs, self._metrics)

    def shown(self):
        """All that was told in another way than by lines of a log."""
        text = self._metrics.exposition()[1].decode()
        assert "stormbreak_attempts_sent_total{" in text
        return [*self._heard, text]
