"""Gauges: the current state of engines, read on request. Also the counts of tenants, which are not in events.

Several engines, and several keys of one target, give one value. `MERGE` holds the only rules for that; Prometheus
applies the same rule across processes. Engines are not kept alive.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from stormbreak.core.engine import Engine
from stormbreak.core.tenant import Tenant
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet, new_lock
from stormbreak.telemetry.labels import STATES, Targets

Snapshot: TypeAlias = Mapping[str, Any]
"""One target or tenant of one engine, as `Engine.snapshot` gives it."""

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
"""How to merge the values of several snapshots of a target."""

_RULES: Mapping[str, Rule] = {
    **MERGE,
    **dict.fromkeys(("sent", "tokens"), "sum"),
    **dict.fromkeys(("rpm", "tpm", "spend_usd", "spend_limit_usd"), "max"),
}
"""The same for a tenant as well: all engines may share its money, or each has its own."""

FUNCTIONS: Mapping[Rule, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max, "min": min}
_WORST_FIRST = ("isolated", "open", "half_open", "closed")


def merged(field: str, snapshots: Sequence[Snapshot]) -> float | None:
    """Merge one field of several snapshots; None if none of them has a value."""
    known = [each[field] for each in snapshots if each.get(field) is not None]
    return FUNCTIONS[_RULES[field]](known) if known else None


def merge_target(snapshots: Sequence[Snapshot], slow: Callable[[Snapshot], str]) -> Snapshot:
    """Merge the snapshots of one target: the worst circuit, and the reason (`slow`) of the longest queue."""
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
    """The engines whose state is read. Call it from any thread."""

    __slots__ = ()

    def read(self) -> Iterator[Snapshot]:
        """Read every engine; one without a driver is left out."""
        for engine in self:
            with suppress(RuntimeError):  # it has no driver, not yet or not any more
                yield engine.snapshot(pending=False)

    def targets(self) -> dict[str, list[Snapshot]]:
        """Read every target, grouped by name."""
        return _grouped(pair for each in self.read() for pair in each["targets"].items())


def _grouped(snapshots: Iterable[tuple[str, Snapshot]]) -> dict[str, list[Snapshot]]:
    found: dict[str, list[Snapshot]] = {}
    for name, snapshot in snapshots:
        found.setdefault(name, []).append(snapshot)
    return found


# ---------------------------------------------------------------- gauges for exporters

GaugeValues: TypeAlias = Iterator[tuple[Mapping[str, str], float]]  # labels and values
Readings: TypeAlias = Mapping[str, Mapping[str, Sequence[Snapshot]]]
"""The snapshots of each "target" and "tenant", and the "counts" of each tenant, by label."""


class Gauge(NamedTuple):
    """One metric. Without a `field` it counts circuits by state; with `counts` it is a counter."""

    text: str
    field: str = ""
    labels: tuple[str, ...] = ("target",)
    counts: bool = False

    @property
    def across(self) -> Rule:
        """How to merge the values of several processes."""
        return _RULES.get(self.field, "sum")

    def values(self, readings: Readings) -> GaugeValues:
        kind = self.labels[0]
        for label, snapshots in readings["counts" if self.counts else kind].items():
            if self.field:
                value = merged(self.field, snapshots)
                if value is not None:
                    yield {kind: label}, value
                continue
            states = [each["circuit"] for each in snapshots if each["circuit"] is not None]
            for state in STATES if states else ():
                yield {"target": label, "state": state}, states.count(state)


_TENANT = ("tenant",)
GAUGES: Mapping[str, Gauge] = {
    "attempts_in_flight": Gauge("Attempts in flight.", "in_flight"),
    "concurrency_limit": Gauge("Maximum number of attempts in flight.", "limit"),
    "queue_length": Gauge("Calls waiting in the queue.", "queued"),
    "queue_age_seconds": Gauge("Time that the oldest call in the queue has waited.", "queue_age"),
    "cooldown_remaining_seconds": Gauge("Time until the cooldown of the target ends.", "cooldown"),
    "retry_budget": Gauge("Retries that the budget can pay; targets may share it.", "budget"),
    "fleet_sharing": Gauge(
        "1 if the store of the fleet answers; 0 if limits are shares.", "sharing"
    ),
    "fleet_members": Gauge("Processes that share the limits of the target.", "members"),
    "circuits": Gauge(
        "Circuits in each state, one for each engine and key.", labels=("target", "state")
    ),
    "tenant_calls_in_flight": Gauge("Calls of a tenant in flight.", "in_flight", _TENANT),
    "tenant_max_in_flight": Gauge("Maximum number of calls in flight.", "limit", _TENANT),
    "tenant_queue_length": Gauge("Calls waiting for limits of a tenant.", "queued", _TENANT),
    "tenant_queue_age_seconds": Gauge(
        "Time that the oldest of these calls has waited.", "queue_age", _TENANT
    ),
    "tenant_calls_sent": Gauge(
        "Calls of a tenant that were sent and have ended.", "sent", _TENANT, counts=True
    ),
    "tenant_tokens_used": Gauge(
        "Tokens that these calls have used.", "tokens", _TENANT, counts=True
    ),
    "tenant_rpm": Gauge("Requests a minute that a tenant may make.", "rpm", _TENANT),
    "tenant_tpm": Gauge("Tokens a minute that a tenant may use.", "tpm", _TENANT),
    "tenant_spend_usd": Gauge(
        "US dollars that a tenant has spent or reserved in its period.", "spend_usd", _TENANT
    ),
    "tenant_spend_limit_usd": Gauge(
        "Spend limit of a tenant in US dollars.", "spend_limit_usd", _TENANT
    ),
}
"""Gauges by name; exporters add their own prefix."""


class EngineGauges:
    """Reads the gauges of the watched engines. Call it from any thread."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._tenants = Targets()
        self._lock = new_lock()
        self._counted: WeakKeyDictionary[Tenant, Counter[str]] = WeakKeyDictionary()
        self.engines = WatchedEngines()
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._totals: dict[str, Counter[str]] = {}  # by label

    def unwatch(self, engine: Engine) -> None:
        """Stop reading this engine; its counts stay."""
        self._count()
        self.engines.discard(engine)

    def values(self) -> dict[str, list[tuple[Mapping[str, str], float]]]:
        """Read every engine once; return the values of each gauge and counter by its name."""
        readings = self._read()
        return {name: list(gauge.values(readings)) for name, gauge in GAUGES.items()}

    def _read(self) -> Readings:
        engines = list(self.engines.read())
        targets = (each for engine in engines for each in engine["targets"].values())
        tenants = (pair for engine in engines for pair in engine.get("tenants", {}).items())
        return {
            "target": _grouped((self._targets.label_of(each["place"]), each) for each in targets),
            "tenant": _grouped(
                (self._tenants.label_of(name), _with_dollars(each)) for name, each in tenants
            ),
            "counts": self._count(),
        }

    def _count(self) -> Mapping[str, Sequence[Snapshot]]:
        """Add the usage of tenants since the last time: totals never fall, even if a tenant or engine ends."""
        with self._lock:
            for engine in self.engines:
                for name, tenant in list(engine.tenants.items()):
                    now = Counter(sent=tenant.sent, tokens=tenant.tokens)
                    total = self._totals.setdefault(self._tenants.label_of(name), Counter())
                    total.update(now)
                    total.subtract(self._counted.get(tenant, ()))
                    self._counted[tenant] = now
            return {label: [dict(total)] for label, total in self._totals.items()}


def _with_dollars(tenant: Snapshot) -> Snapshot:
    spend = tenant["spend"]
    if spend is None:
        return tenant
    taken = float(spend["spent"]) + float(spend["reserved"])
    return {**tenant, "spend_usd": taken, "spend_limit_usd": float(spend["limit"])}
