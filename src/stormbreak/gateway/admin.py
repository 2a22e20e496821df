"""The pages of the admin port: /live, /ready, /metrics, /state."""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from stormbreak.core.engine import Engine
from stormbreak.drivers.listeners import Attached
from stormbreak.http.endpoint import is_loopback
from stormbreak.telemetry.state import State
from stormbreak.telemetry.status_pages import StatusPages
from stormbreak.telemetry.status_server import TEXT, PageUnavailableError, StatusServer

LIVE_TIMEOUT = 2.0  # seconds in which the event loop must answer

METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Pages(Protocol):
    """The source of the admin pages. Call it from any thread."""

    def check(self) -> None:
        """Raise PageUnavailableError if the client side of the gateway does not answer."""

    def metrics(self) -> bytes:
        """Return the metrics of the gateway and its engine."""

    def state_page(self) -> tuple[str, bytes]:
        """Return the state, for `stormbreak top`."""

    def close(self) -> None:
        """Stop watching."""


class AdminPages:
    """Metrics and state of one process. It watches the engine; `own_metrics` writes the gateway's metrics."""

    def __init__(self, engine: Engine, own_metrics: Callable[[], bytes]) -> None:
        self._own_metrics = own_metrics
        status = StatusPages(metrics=True)
        self._live = status.live
        self._engine_metrics = status.pages["/metrics"]
        self._attached = Attached(engine, *status.listeners)

    def check(self) -> None:
        """Do nothing: the server owns the event loop that serves clients."""

    def metrics(self) -> bytes:
        try:
            _, text = self._engine_metrics()
        except PageUnavailableError as missing:  # the extra is not installed
            text = f"# {missing}\n".encode()
        return text + self._own_metrics()

    def state(self) -> State:
        return self._live.state()

    def state_page(self) -> tuple[str, bytes]:
        return self._live.page()

    def close(self) -> None:
        self._attached.detach()


class AdminServer:
    """Serves the pages in threads, so that they show a busy event loop.

    Raises ConfigurationError if the port is in use.
    """

    def __init__(self, host: str, port: int, pages: Pages, *, is_ready: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_ready = is_ready
        self._pages = pages
        served = {
            "/live": self._live,
            "/ready": self._ready,
            "/metrics": lambda: (METRICS, pages.metrics()),
            "/state": pages.state_page,
        }
        self._server = StatusServer(served, host=host, port=port, any_name=not is_loopback(host))
        self.port = self._server.port

    def close(self) -> None:
        self._pages.close()
        self._server.close()

    def _live(self) -> tuple[str, bytes]:
        """Whether the event loop answers: a process that hangs is not alive."""
        answered = threading.Event()
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # the loop is closed
            raise PageUnavailableError("the gateway has ended", status=503) from None
        if not answered.wait(LIVE_TIMEOUT):
            raise PageUnavailableError("the event loop does not answer", status=503)
        self._pages.check()
        return TEXT, b"live\n"

    def _ready(self) -> tuple[str, bytes]:
        """Whether new requests are accepted. It does not depend on the providers."""
        if not self._is_ready():
            raise PageUnavailableError("the gateway is shutting down", status=503)
        return TEXT, b"ready\n"
