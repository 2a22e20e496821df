"""The pages of the admin port: /live, /ready, /metrics, /state."""

import asyncio
import threading
from collections.abc import Callable

from stormbreak.core.engine import Engine
from stormbreak.drivers.listeners import Attached
from stormbreak.http.endpoint import is_loopback
from stormbreak.telemetry.status_pages import StatusPages
from stormbreak.telemetry.status_server import PageUnavailableError, StatusServer

LIVE_TIMEOUT = 2.0  # seconds in which the event loop must answer

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class AdminServer:
    """Serves the pages in threads, so that a busy event loop does not hide itself. `metrics` writes those of the gateway.

    Raises:
        ConfigurationError: the port is in use.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        engine: Engine,
        is_ready: Callable[[], bool],
        metrics: Callable[[], bytes],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_ready = is_ready
        self._own_metrics = metrics
        status = StatusPages(metrics=True)
        self._engine_metrics = status.pages["/metrics"]
        pages = status.pages | {
            "/live": self._live,
            "/ready": self._ready,
            "/metrics": self._metrics,
        }
        self._server = StatusServer(pages, host=host, port=port, any_name=not is_loopback(host))
        self._attached = Attached(engine, *status.listeners)
        self.port = self._server.port

    def close(self) -> None:
        """Stop serving."""
        self._attached.detach()
        self._server.close()

    def _live(self) -> tuple[str, bytes]:
        """Whether the event loop answers: a process that hangs is not alive."""
        answered = threading.Event()
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # it is closed
            raise PageUnavailableError("the gateway has ended", status=503) from None
        if not answered.wait(LIVE_TIMEOUT):
            raise PageUnavailableError("the event loop does not answer", status=503)
        return _TEXT, b"live\n"

    def _ready(self) -> tuple[str, bytes]:
        """Whether new requests are welcome. It does not depend on the providers."""
        if not self._is_ready():
            raise PageUnavailableError("the gateway shuts down", status=503)
        return _TEXT, b"ready\n"

    def _metrics(self) -> tuple[str, bytes]:
        try:
            _, text = self._engine_metrics()
        except PageUnavailableError as missing:  # the extra is not installed
            text = f"# {missing}\n".encode()
        return _METRICS, text + self._own_metrics()
