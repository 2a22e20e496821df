"""What stands where at the moment somebody looks: the snapshots of engines, in numbers, for whoever exports gauges.

Several engines, and several keys of one target, are one number each: what is counted adds up, of cooldowns the longest is
told, of budgets the poorest. Engines are not kept alive; those that nobody steps any more have nothing to tell.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from stormbreak.core.engine import Engine
from stormbreak.drivers.locks import LiveSet
from stormbreak.telemetry.labels import STATES, Targets

TargetSnapshots: TypeAlias = Mapping[str, list[Mapping[str, Any]]]
"""The snapshots of lanes, by the label of their target."""

GaugeValues: TypeAlias = Iterator[tuple[Mapping[str, str], float]]
"""Labels and values."""


class Gauge(NamedTuple):
    """One metric: what it means, its labels, what it is made of, and what several processes come to."""

    text: str
    labels: tuple[str, ...]
    values: Callable[[TargetSnapshots], GaugeValues]
    across: str  # sum, max or min


_TOGETHER: Mapping[str, Callable[[Iterable[float]], float]] = MappingProxyType(
    {"sum": sum, "max": max, "min": min}
)


def _of(key: str, across: str, text: str) -> Gauge:
    """One value for each target, of what the snapshots of its lanes have under `key`."""
    together = _TOGETHER[across]

    def values(lanes: TargetSnapshots) -> GaugeValues:
        for label, snapshots in lanes.items():
            known = [each[key] for each in snapshots if each[key] is not None]
            if known:
                yield {"target": label}, together(known)

    return Gauge(text, ("target",), values, across)


def _circuits(lanes: TargetSnapshots) -> GaugeValues:
    for label, snapshots in lanes.items():
        states = [each["circuit"] for each in snapshots if each["circuit"] is not None]
        for state in STATES if states else ():
            yield {"target": label, "state": state}, states.count(state)


STANDING: Mapping[str, Gauge] = MappingProxyType(
    {
        "in_flight": _of("in_flight", "sum", "Attempts that are in flight."),
        "limit": _of("limit", "sum", "Attempts that may be in flight."),
        "queued": _of("queued", "sum", "Calls that wait in the queue."),
        "cooldown_seconds": _of(
            "cooldown", "max", "Seconds for which the target asked to be left alone."
        ),
        "retry_budget": _of(
            "budget", "min", "Retries that could be paid; targets may share a budget."
        ),
        "circuits": Gauge(
            "Circuits in each state, one for each engine and key.",
            ("target", "state"),
            _circuits,
            "sum",
        ),
    }
)
"""By name, which exporters put their own prefix before."""


class Standing:
    """Looks at the engines it watches whenever it is asked; from any thread."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._engines: LiveSet[Engine] = LiveSet()

    def watch(self, engine: Engine) -> None:
        """Tell of this engine, too."""
        self._engines.add(engine)

    def unwatch(self, engine: Engine) -> None:
        """Tell of it no more."""
        self._engines.discard(engine)

    def of(self, name: str) -> GaugeValues:
        """The values of one gauge."""
        return STANDING[name].values(self.lanes())

    def lanes(self) -> TargetSnapshots:
        """The snapshots of all lanes."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for snapshot in self._snapshots():
            for lane in snapshot["targets"].values():
                found.setdefault(self._targets.label_of(lane["place"]), []).append(lane)
        return found

    def _snapshots(self) -> Iterator[Mapping[str, Any]]:
        for engine in self._engines:
            try:
                yield engine.snapshot(pending=False)
            except RuntimeError:  # nobody steps it any more
                continue
