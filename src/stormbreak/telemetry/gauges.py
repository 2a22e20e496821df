"""What stands where at the moment of a scrape, as gauges for Prometheus."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stormbreak.telemetry.standing import STANDING, Standing

PREFIX = "stormbreak_"


class Gauges(Collector):
    """Looks whenever it is asked; from any thread."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The gauges, without a value."""
        return _empty().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges as they stand."""
        lanes, families = self._standing.lanes(), _empty()
        for name, family in families.items():
            gauge = STANDING[name]
            for labels, value in gauge.values(lanes):
                family.add_metric([labels[label] for label in gauge.labels], value)
        return families.values()


def _empty() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(PREFIX + name, gauge.text, labels=gauge.labels)
        for name, gauge in STANDING.items()
    }
