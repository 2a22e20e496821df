"""The status server of an application: `/state` for `stormbreak top`, and `/metrics` for Prometheus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.target_state import Listener
from stormbreak.drivers.listeners import Attached
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.attachment import engine_of
from stormbreak.telemetry.status_server import NotServedError, Page, StatusServer
from stormbreak.telemetry.watch import Watch

# ---------------------------------------------------------------- pages


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


# ---------------------------------------------------------------- serve


class Serving:
    """Serves what it sees of `engines` until it is closed. `address` is a URL, or the path of a socket."""

    def __init__(self, engines: Sequence[Engine], *, port: int, path: Path | None) -> None:
        self._observed = Observed.new(metrics=True)
        self._port = StatusServer(self._observed.pages, port=port, path=path)
        self.address = self._port.address
        self.port = self._port.port
        listeners = self._observed.listeners
        self._attached = [Attached(engine, *listeners) for engine in engines]

    def close(self) -> None:
        """Serve and listen no more; a second time does nothing."""
        self._port.close()
        for attached in self._attached:
            attached.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(*what: Any, port: int | None = None, path: str | Path | None = None) -> Serving:
    """Serve `/state` and `/metrics` of clients, transports, settings or engines, to this machine only.

    On `port` of 127.0.0.1, or on a Unix socket at `path` that only its owner may open; without either on a free port. In
    a `with`, until its end; otherwise until `close()`, or the end of the process. `attach` tells what `what` may be.

    Raises:
        ConfigurationError: the port or the path cannot be taken; or there is no engine to look at.
    """
    if not what:
        raise ConfigurationError("serve: give at least one client, transport or engine")
    if port is not None and path is not None:
        raise ConfigurationError("serve: give a port or a path, not both")
    engines = [engine_of(each) for each in what]
    return Serving(engines, port=port or 0, path=None if path is None else Path(path))
