"""Metrics for Prometheus: counters and histograms made of events, gauges made of snapshots. Needs the extra `metrics`.

::

    metrics = Metrics()
    attach(client, metrics)
    app.mount("/metrics", metrics.asgi_app())

One object serves any number of engines, threads and event loops. docs/telemetry.md tells what each metric means.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event
from stormbreak.telemetry.event_metrics import FAMILIES, Family, measured
from stormbreak.telemetry.gauges import Standing
from stormbreak.telemetry.labels import MOST_TARGETS, Targets

try:
    import prometheus_client
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "metrics need prometheus_client, which comes with stormbreak[metrics]"
    ) from missing

from stormbreak.telemetry.prometheus_multiprocess import (
    PREFIX,
    AllProcesses,
    Gauges,
    SharedGauges,
    is_multiprocess,
    writing,
)


class Metrics:
    """A listener that counts, and tells Prometheus.

    Args:
        registry: where the metrics are registered; by default a registry of their own. One object a registry: it may be
            attached to any number of engines.
        most_targets: distinct targets that get a label of their own; those that come later are "other".

    Raises:
        ConfigurationError: the registry has metrics of stormbreak's already, or the multi-process mode of
            `prometheus_client` is half set up.
    """

    def __init__(
        self,
        registry: prometheus_client.CollectorRegistry | None = None,
        *,
        most_targets: int = MOST_TARGETS,
    ) -> None:
        self.registry = prometheus_client.CollectorRegistry() if registry is None else registry
        self._targets = Targets(most_targets)
        self._standing = Standing(self._targets)
        self._told: dict[tuple[str, str, tuple[str, ...]], Callable[[float], None]] = {}
        self._written: SharedGauges | None = None
        self._served = self.registry
        several = is_multiprocess()
        try:
            if several:
                self._written = SharedGauges(self._standing, self.registry)
                self._served = prometheus_client.CollectorRegistry()
                self._served.register(AllProcesses(self._written.write))
            else:
                self.registry.register(Gauges(self._standing))
        except ValueError as twice:
            raise ConfigurationError(
                "the registry has metrics of stormbreak's already: attach those to every client"
            ) from twice
        self._families = {name: self._made(name, family) for name, family in FAMILIES.items()}
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._told = {}
        if self._written is None:
            for metric in self._families.values():
                _free_in_child(metric)
            self.registry._lock = Lock()  # noqa: SLF001

    def watch(self, engine: Engine) -> None:
        """Tell what stands where in this engine, too, for as long as it lives."""
        self._standing.watch(engine)

    def unwatch(self, engine: Engine) -> None:
        """Tell of it no more; what was counted stays."""
        self._standing.unwatch(engine)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        measures = measured(event)
        if not measures:
            return
        target = self._targets.label(event.target)
        for name, labels, amount in measures:
            tell = self._told.get((name, target, labels))
            if tell is None:
                tell = self._told[name, target, labels] = self._child(name, target, labels)
            tell(amount)

    def exposition(self) -> tuple[str, bytes]:
        """Everything in the registry, as Prometheus reads it: the content type, and the text.

        In the multi-process mode of `prometheus_client` it is everything of all processes; so it is in the applications.
        """
        text = prometheus_client.generate_latest(self._served)
        return prometheus_client.CONTENT_TYPE_LATEST, text

    def asgi_app(self) -> Callable[..., Any]:
        """An ASGI application that answers every path with the metrics."""
        return prometheus_client.make_asgi_app(self._served)

    def wsgi_app(self) -> Callable[..., Any]:
        """A WSGI application that answers every path with the metrics."""
        return prometheus_client.make_wsgi_app(self._served)

    def _made(
        self, name: str, family: Family
    ) -> prometheus_client.Counter | prometheus_client.Histogram:
        labels = ("target", *family.labels)
        if not family.buckets:
            return prometheus_client.Counter(
                PREFIX + name, family.text, labels, registry=self.registry
            )
        return prometheus_client.Histogram(
            PREFIX + name, family.text, labels, buckets=family.buckets, registry=self.registry
        )

    def _child(self, name: str, target: str, labels: tuple[str, ...]) -> Callable[[float], None]:
        child = self._families[name].labels(target, *labels)
        tell = child.inc if isinstance(child, prometheus_client.Counter) else child.observe
        written = self._written
        if written is None:
            return tell

        def register_process(amount: float) -> None:
            with writing:  # nobody forks meanwhile: the library has one lock for all that it writes
                tell(amount)
            written.begin()

        return register_process


def _free_in_child(metric: Any) -> None:
    """Free the locks of the library's own, which another thread of the parent may hold at the fork."""
    for each in (metric, *metric._metrics.values()):  # noqa: SLF001 - there is no public way
        parts = (getattr(each, "_value", None), getattr(each, "_sum", None))
        for part in (each, *parts, *getattr(each, "_buckets", ())):
            if hasattr(part, "_lock"):
                part._lock = Lock()  # noqa: SLF001
