"""What a port shows: who has to hear the events for it, and the pages that are made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from stormbreak.core.engine import Listener
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.port import NotServedError, Page
from stormbreak.telemetry.watch import Watch


@dataclass(frozen=True, slots=True)
class Observed:
    """`watch` is one of the `listeners`; `pages` are for a `StatusServer`."""

    watch: Watch
    listeners: tuple[Listener, ...]
    pages: Mapping[str, Page]

    @classmethod
    def new(cls, *, metrics: bool) -> Self:
        """`/state`, and if so asked `/metrics`; where the extra for that is not installed, the page says so."""
        watch = Watch()
        observed = cls(watch, (watch,), {"/state": watch.page})
        if not metrics:
            return observed
        listener, page = _metrics()
        heard = () if listener is None else (listener,)
        return cls(watch, (watch, *heard), {**observed.pages, "/metrics": page})


def _metrics() -> tuple[Listener | None, Page]:
    try:
        from stormbreak.telemetry.prometheus import Metrics  # noqa: PLC0415 - an extra
    except ConfigurationError as missing:
        said = str(missing)

        def not_installed() -> tuple[str, bytes]:
            raise NotServedError(said)

        return None, not_installed
    metrics = Metrics()
    return metrics, metrics.exposition
