"""The status server of an application: `/state` for `stormbreak top`, `/metrics` for Prometheus, and `/health`."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.core.target_state import Listener
from stormbreak.drivers.listeners import Attached
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import is_loopback
from stormbreak.telemetry.attachment import engine_of
from stormbreak.telemetry.live_state import LiveState
from stormbreak.telemetry.status_server import HOST, TEXT, Page, PageUnavailableError, StatusServer

PUBLIC = frozenset({"/health", "/metrics"})
"""The pages that other machines may read: they do not show calls or failing rows."""

_log = logging.getLogger("stormbreak")


class StatusPages:
    """The `pages` of a `StatusServer`, and the `listeners` that fill them."""

    def __init__(self, *, metrics: bool) -> None:
        self.live = LiveState()
        self.listeners: tuple[Listener, ...] = (self.live,)
        self.pages: dict[str, Page] = {"/state": self.live.page, "/health": _health}
        if metrics:
            self._add_metrics()

    def serve(self, host: str, port: int) -> StatusServer:
        """Serve the pages on an address; to other machines only the `PUBLIC` ones, for any Host, and log a warning.

        Raises ConfigurationError if the address is not available.
        """
        if is_loopback(host):
            return StatusServer(self.pages, host=host, port=port)
        pages = {path: page for path, page in self.pages.items() if path in PUBLIC}
        server = StatusServer(pages, host=host, port=port, any_name=True)
        _log.warning("%s: every machine that reaches this address can read it", server.address)
        return server

    def _add_metrics(self) -> None:
        """Add `/metrics`; without the extra, the page says how to install it."""
        try:
            from stormbreak.telemetry.prometheus import Metrics  # noqa: PLC0415 - an extra
        except ConfigurationError as missing:
            why = str(missing)

            def unavailable() -> tuple[str, bytes]:
                raise PageUnavailableError(why)

            self.pages["/metrics"] = unavailable
            return
        listener = Metrics()
        self.listeners += (listener,)
        self.pages["/metrics"] = listener.exposition


def _health() -> tuple[str, bytes]:
    """Report that the process answers. It ignores the targets, so that an outage there does not restart the process."""
    return TEXT, b"ok\n"


class Serving(AbstractContextManager["Serving"]):
    """Serves the status of `engines` until it is closed. `address` is a URL, or the path of a socket."""

    def __init__(
        self, engines: Sequence[Engine], *, port: int, host: str, path: Path | None
    ) -> None:
        status = StatusPages(metrics=True)
        if path is None:
            self._server = status.serve(host, port)
        else:
            self._server = StatusServer(status.pages, path=path)
        self.address = self._server.address
        self.port = self._server.port
        self._attached = [Attached(engine, *status.listeners) for engine in engines]

    def close(self) -> None:
        """Stop serving and listening. Idempotent."""
        self._server.close()
        for attached in self._attached:
            attached.detach()

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    *owners: Any, port: int | None = None, host: str = HOST, path: str | Path | None = None
) -> Serving:
    """Serve `/state`, `/metrics` and `/health` of clients, transports, settings or engines.

    On `port` of this machine, or on a Unix socket at `path` that only its owner can open; by default on a free port.
    With another `host`, such as "0.0.0.0", other machines can read `/metrics` and `/health`, and `/state` is not
    served. It serves until the end of a `with`, until `close()`, or until the process ends. See `attach` for the
    `owners`.

    Raises:
        ConfigurationError: the address or the path is not available, or there is no engine.
    """
    if not owners:
        raise ConfigurationError("serve: give at least one client, transport or engine")
    if (port is not None or host != HOST) and path is not None:
        raise ConfigurationError("serve: give a port or a path, not both")
    engines = [engine_of(each) for each in owners]
    return Serving(engines, port=port or 0, host=host, path=None if path is None else Path(path))
