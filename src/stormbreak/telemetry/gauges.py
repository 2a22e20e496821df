"""What stands where at the moment of a scrape: the snapshots of engines, as gauges.

Several engines, and several keys of one target, are one line each: what is counted adds up, of cooldowns the longest is
told, of budgets the poorest. Engines are not kept alive; those that nobody steps any more have nothing to tell.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakSet

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stormbreak.core.engine import Engine
from stormbreak.drivers.forks import forget_in_child
from stormbreak.telemetry.labels import STATES, Targets


class _Gauge(NamedTuple):
    key: str  # in the snapshot of a lane
    together: Callable[[Iterable[float]], float]
    text: str


_GAUGES: Mapping[str, _Gauge] = MappingProxyType(
    {
        "stormbreak_in_flight": _Gauge("in_flight", sum, "Attempts that are in flight."),
        "stormbreak_limit": _Gauge("limit", sum, "Attempts that may be in flight."),
        "stormbreak_queued": _Gauge("queued", sum, "Calls that wait in the queue."),
        "stormbreak_cooldown_seconds": _Gauge(
            "cooldown", max, "Seconds for which the target asked to be left alone."
        ),
        "stormbreak_retry_budget": _Gauge(
            "budget", min, "Retries that could be paid; targets may share a budget."
        ),
    }
)
_CIRCUITS = "stormbreak_circuits"


class Gauges(Collector):
    """Looks at the engines it watches whenever it is asked; from any thread."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._engines: WeakSet[Engine] = WeakSet()
        self._begin()
        forget_in_child(self._begin)

    def _begin(self) -> None:
        self._lock = threading.RLock()

    def watch(self, engine: Engine) -> None:
        """Tell of this engine, too."""
        with self._lock:
            self._engines.add(engine)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The gauges, without a value."""
        families, circuits = _empty()
        return [*families.values(), circuits]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges as they stand."""
        families, circuits = _empty()
        for label, lanes in self._lanes().items():
            for name, family in families.items():
                gauge = _GAUGES[name]
                values = [lane[gauge.key] for lane in lanes if lane[gauge.key] is not None]
                if values:
                    family.add_metric([label], gauge.together(values))
            states = [lane["circuit"] for lane in lanes if lane["circuit"] is not None]
            for state in STATES if states else ():
                circuits.add_metric([label, state], states.count(state))
        return [*families.values(), circuits]

    def _lanes(self) -> dict[str, list[Mapping[str, Any]]]:
        """The snapshots of lanes by the label of their target."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for snapshot in self._snapshots():
            for lane in snapshot["targets"].values():
                found.setdefault(self._targets.label_of(lane["place"]), []).append(lane)
        return found

    def _snapshots(self) -> Iterator[Mapping[str, Any]]:
        with self._lock:
            engines = list(self._engines)
        for engine in engines:
            try:
                yield engine.snapshot(pending=False)
            except RuntimeError:  # nobody steps it any more
                continue


def _empty() -> tuple[dict[str, GaugeMetricFamily], GaugeMetricFamily]:
    families = {
        name: GaugeMetricFamily(name, gauge.text, labels=["target"])
        for name, gauge in _GAUGES.items()
    }
    text = "Circuits in each state, one for each engine and key."
    return families, GaugeMetricFamily(_CIRCUITS, text, labels=["target", "state"])
