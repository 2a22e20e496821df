"""The lifecycle of a gateway's process: it reloads its file on SIGHUP or a change, and drains on SIGTERM."""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.admin import AdminServer
from stormbreak.gateway.logs import LOG
from stormbreak.gateway.metrics import GatewayMetrics
from stormbreak.gateway.routing import GatewayRules
from stormbreak.gateway.spend_ledger import SpendLedger, ledger_path

WATCH_INTERVAL = 1.0  # seconds between two checks of the file

IGNORED = "%s is ignored: logs go to standard error; SIGHUP reloads the settings, SIGTERM drains"

_FIXED = ("host", "port", "admin_host", "admin_port", "max_connections", "ledger")


class Lifecycle(ABC):
    """A gateway that serves the settings file at `path` until a signal ends it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._reading = asyncio.Lock()
        self._seen = self._mark()
        self._admin: AdminServer | None = None

    settings: GatewaySettings
    metrics: GatewayMetrics
    _rules: GatewayRules
    """The settings at the start: some changes need a restart."""

    @property
    @abstractmethod
    def port(self) -> int:
        """The port for clients."""

    @property
    def admin_port(self) -> int | None:
        return None if self._admin is None else self._admin.port

    @property
    @abstractmethod
    def busy(self) -> str:
        """Describe the work in progress, for the log."""

    @abstractmethod
    async def start(self) -> None:
        """Listen."""

    @abstractmethod
    async def drain(self) -> None:
        """Stop accepting, let answers finish within the grace period, and close."""

    @abstractmethod
    async def close(self) -> None:
        """End at once."""

    @abstractmethod
    async def _reload(self) -> GatewayRules:
        """Read the file again and use it; if it is wrong, raise ConfigurationError and change nothing."""

    async def reload(self) -> bool:
        """Read the file again; return whether that succeeded. A wrong file changes nothing."""
        async with self._reading:
            self._seen = self._mark()
            try:
                rules = await self._reload()
            except ConfigurationError as error:
                self.metrics.reloaded(error)
                return False
            except Exception:  # noqa: BLE001 - a mistake of ours must not be silent, nor the last reading
                LOG.exception("the settings cannot be used")
                self.metrics.reloads["failed"] += 1
                return False
            self.metrics.reloaded(None)
            self._warn_of_fixed(self._rules, rules)
            return True

    async def run(self, started: Callable[[Self], None] = lambda _: None) -> None:
        """Listen until SIGTERM or SIGINT, then drain; a second one ends at once. SIGHUP reads the file again.

        SIGUSR1 and SIGUSR2, with which other servers reopen their logs or replace themselves, do nothing.
        """
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        hung_up = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hung_up.set)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, LOG.warning, IGNORED, number.name)
        await self.start()
        started(self)
        watching = loop.create_task(self._watch(hung_up))
        try:
            await stopped.wait()
        finally:
            watching.cancel()
        LOG.info("shutting down: %s", self.busy)
        stopped.clear()
        draining = loop.create_task(self.drain())
        again = loop.create_task(stopped.wait())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not draining.done():
            draining.cancel()
            await self.close()

    def _warn_of_fixed(self, before: GatewayRules, after: GatewayRules) -> None:
        changed = [
            f"gateway.{name}"
            for name in _FIXED
            if getattr(before.settings, name) != getattr(after.settings, name)
        ]
        if before.generation.settings.prices != after.generation.settings.prices:
            changed.append("prices")
        for name in changed:
            LOG.warning("%s has changed: restart the gateway to use it", name)

    async def _watch(self, hung_up: asyncio.Event) -> None:
        """Read the file again on SIGHUP or when it has changed."""
        while True:
            try:
                async with asyncio.timeout(WATCH_INTERVAL):
                    await hung_up.wait()
            except TimeoutError:
                if self._mark() == self._seen:
                    continue
            hung_up.clear()
            await self.reload()

    def _close_admin(self) -> None:
        if self._admin is not None:
            self._admin.close()

    def _ledger(self) -> SpendLedger | None:
        path = ledger_path(self.path, self.settings, self._rules.generation.policy)
        return None if path is None else SpendLedger(path)

    def _mark(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
