"""Metrics for Prometheus: counters and histograms from events, gauges from snapshots. Needs the extra `metrics`.

::

    metrics = Metrics()
    attach(client, metrics)
    app.mount("/metrics", metrics.asgi_app())

One object serves any number of engines, threads and event loops. docs/events.md lists the metrics.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event
from stormbreak.telemetry.event_metrics import FAMILIES, Family, updates_of
from stormbreak.telemetry.gauges import EngineGauges
from stormbreak.telemetry.labels import MAX_TARGETS, Targets

try:
    import prometheus_client
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "metrics need prometheus_client: pip install 'stormbreak[metrics]'"
    ) from missing

from stormbreak.telemetry.prometheus_multiprocess import (
    PREFIX,
    AllProcesses,
    GaugeCollector,
    SharedGauges,
    fork_lock,
    is_multiprocess,
)


class Metrics:
    """A listener that counts events for Prometheus.

    Args:
        registry: where the metrics are registered; by default a new registry. Use one object per registry: it can be
            attached to any number of engines.
        max_targets: targets with their own label; later ones are "other".

    Raises:
        ConfigurationError: the registry already has stormbreak's metrics, or the multi-process mode of
            `prometheus_client` is incomplete.
    """

    def __init__(
        self,
        registry: prometheus_client.CollectorRegistry | None = None,
        *,
        max_targets: int = MAX_TARGETS,
    ) -> None:
        self.registry = prometheus_client.CollectorRegistry() if registry is None else registry
        self._targets = Targets(max_targets)
        self._gauges = EngineGauges(self._targets)
        self._children: dict[tuple[str, str, tuple[str, ...]], Callable[[float], None]] = {}
        self._shared: SharedGauges | None = None
        self._exported = self.registry
        multiprocess = is_multiprocess()
        try:
            if multiprocess:
                self._shared = SharedGauges(self._gauges, self.registry)
                self._exported = prometheus_client.CollectorRegistry()
                self._exported.register(AllProcesses(self._shared.write))
            else:
                self.registry.register(GaugeCollector(self._gauges))
        except ValueError as duplicate:
            raise ConfigurationError(
                "the registry already has stormbreak's metrics: attach that Metrics object to every client"
            ) from duplicate
        self._families = {name: self._register(name, family) for name, family in FAMILIES.items()}
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._children = {}
        if self._shared is None:
            for metric in self._families.values():
                _renew_locks(metric)
            self.registry._lock = Lock()  # noqa: SLF001

    def watch(self, engine: Engine) -> None:
        """Export the gauges of this engine, as long as it lives."""
        self._gauges.engines.add(engine)

    def unwatch(self, engine: Engine) -> None:
        """Stop exporting its gauges; its counts stay."""
        self._gauges.unwatch(engine)

    def __call__(self, event: Event) -> None:
        updates = updates_of(event)
        if not updates:
            return
        target = self._targets.label(event.target)
        for name, labels, amount in updates:
            update = self._children.get((name, target, labels))
            if update is None:
                update = self._children[name, target, labels] = self._child(name, target, labels)
            update(amount)

    def exposition(self) -> tuple[str, bytes]:
        """Return the content type and the text for Prometheus; in multi-process mode, the text of all processes."""
        text = prometheus_client.generate_latest(self._exported)
        return prometheus_client.CONTENT_TYPE_LATEST, text

    def asgi_app(self) -> Callable[..., Any]:
        """Return an ASGI application that serves the metrics on every path."""
        return prometheus_client.make_asgi_app(self._exported)

    def wsgi_app(self) -> Callable[..., Any]:
        """Return a WSGI application that serves the metrics on every path."""
        return prometheus_client.make_wsgi_app(self._exported)

    def _register(
        self, name: str, family: Family
    ) -> prometheus_client.Counter | prometheus_client.Histogram:
        described = PREFIX + name, family.text, ("target", *family.labels)
        if not family.buckets:
            return prometheus_client.Counter(*described, registry=self.registry)
        return prometheus_client.Histogram(
            *described, buckets=family.buckets, registry=self.registry
        )

    def _child(self, name: str, target: str, labels: tuple[str, ...]) -> Callable[[float], None]:
        child = self._families[name].labels(target, *labels)
        update = child.inc if isinstance(child, prometheus_client.Counter) else child.observe
        shared = self._shared
        if shared is None:
            return update

        def update_and_share(amount: float) -> None:
            with fork_lock:
                update(amount)
            shared.start()

        return update_and_share


def _renew_locks(metric: Any) -> None:
    """Replace the library's locks in a child: another thread of the parent may have held them at the fork."""
    for each in (metric, *metric._metrics.values()):  # noqa: SLF001 - there is no public access
        parts = (getattr(each, "_value", None), getattr(each, "_sum", None))
        for part in (each, *parts, *getattr(each, "_buckets", ())):
            if hasattr(part, "_lock"):
                part._lock = Lock()  # noqa: SLF001
