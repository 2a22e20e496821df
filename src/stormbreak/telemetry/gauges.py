"""Gauges: the present state of engines, read when somebody asks.

Several engines, and several keys of one target, give one value. `MERGE` holds the only rules for that; Prometheus
applies the same rule across processes. Engines are not kept alive.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from stormbreak.core.engine import Engine
from stormbreak.drivers.locks import LiveSet
from stormbreak.telemetry.labels import STATES, Targets

Snapshot: TypeAlias = Mapping[str, Any]  # one target of one engine, as `Engine.snapshot` gives it

Rule: TypeAlias = Literal["sum", "max", "min"]

MERGE: Mapping[str, Rule] = {
    "in_flight": "sum",
    "limit": "sum",
    "queued": "sum",
    "queue_age": "max",
    "cooldown": "max",
    "budget": "min",
    "sharing": "min",
    "members": "max",
}
"""How the values of several snapshots become one."""

FUNCTIONS: Mapping[Rule, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max, "min": min}
_WORST_FIRST = ("isolated", "open", "half_open", "closed")


def merged(field: str, snapshots: Sequence[Snapshot]) -> float | None:
    """Merge one field of several snapshots; None if none of them has a value."""
    known = [each[field] for each in snapshots if each[field] is not None]
    return FUNCTIONS[MERGE[field]](known) if known else None


def merge_target(snapshots: Sequence[Snapshot], slow: Callable[[Snapshot], str]) -> Snapshot:
    """Merge the snapshots of one target: of circuits the worst, of the reasons (`slow`) that of the longest queue."""
    circuits = {each["circuit"] for each in snapshots}
    by_queue = sorted(snapshots, key=lambda each: -each["queued"])
    return {
        "circuit": next((state for state in _WORST_FIRST if state in circuits), None),
        **{field: _rounded(merged(field, snapshots)) for field in MERGE},
        "slow": next(filter(None, map(slow, by_queue)), ""),
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if isinstance(value, float) else value


class WatchedEngines(LiveSet[Engine]):
    """The engines whose state is read. From any thread."""

    __slots__ = ()

    def snapshots(self, key: Callable[[str, Snapshot], str]) -> dict[str, list[Snapshot]]:
        """Read every target, grouped by `key` of its name and snapshot. An engine without a driver is left out."""
        found: dict[str, list[Snapshot]] = {}
        for engine in self:
            try:
                targets = engine.snapshot(pending=False)["targets"]
            except RuntimeError:  # it has no driver yet, or no longer
                continue
            for name, snapshot in targets.items():
                found.setdefault(key(name, snapshot), []).append(snapshot)
        return found


# ---------------------------------------------------------------- gauges for exporters

GaugeValues: TypeAlias = Iterator[tuple[Mapping[str, str], float]]  # labels and values


class Gauge(NamedTuple):
    """One metric. Without a `field` it counts circuits by state."""

    text: str
    field: str = ""
    labels: tuple[str, ...] = ("target",)

    @property
    def across(self) -> Rule:
        """How the values of several processes become one."""
        return MERGE.get(self.field, "sum")

    def values(self, by_label: Mapping[str, Sequence[Snapshot]]) -> GaugeValues:
        """Compute the values from the snapshots of each target label."""
        for label, snapshots in by_label.items():
            if self.field:
                value = merged(self.field, snapshots)
                if value is not None:
                    yield {"target": label}, value
                continue
            states = [each["circuit"] for each in snapshots if each["circuit"] is not None]
            for state in STATES if states else ():
                yield {"target": label, "state": state}, states.count(state)


GAUGES: Mapping[str, Gauge] = {
    "attempts_in_flight": Gauge("Attempts in flight.", "in_flight"),
    "concurrency_limit": Gauge("Maximum number of attempts in flight.", "limit"),
    "queue_length": Gauge("Calls waiting in the queue.", "queued"),
    "queue_age_seconds": Gauge("Time that the oldest call in the queue has waited.", "queue_age"),
    "cooldown_remaining_seconds": Gauge("Time until the cooldown of the target ends.", "cooldown"),
    "retry_budget": Gauge("Retries that the budget can pay; targets may share it.", "budget"),
    "fleet_sharing": Gauge(
        "Whether the store of the fleet answers: 1, or 0 where limits are shares.", "sharing"
    ),
    "fleet_members": Gauge("Processes that share the limits of the target.", "members"),
    "circuits": Gauge(
        "Circuits in each state, one for each engine and key.", labels=("target", "state")
    ),
}
"""By name; exporters add their own prefix."""


class EngineGauges:
    """Reads the gauges of the watched engines. From any thread."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self.engines = WatchedEngines()

    def values(self, name: str) -> GaugeValues:
        """Read one gauge."""
        return GAUGES[name].values(self.by_label())

    def by_label(self) -> Mapping[str, list[Snapshot]]:
        """Read all snapshots, grouped by target label."""
        return self.engines.snapshots(lambda _, each: self._targets.label_of(each["place"]))
