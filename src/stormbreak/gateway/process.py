"""The process of a gateway: it starts, reads its file again when that changes, and ends without cutting answers.

A file that is wrong changes nothing: it is read and checked whole before anything is replaced.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.cost.price_table import PriceOf
from stormbreak.cost.spend_gate import spend_accounts
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.admin import AdminServer
from stormbreak.gateway.app import GatewayApp
from stormbreak.gateway.call import Limits
from stormbreak.gateway.ledger import SpendLedger
from stormbreak.gateway.limits import KeyQueues
from stormbreak.gateway.metrics import GatewayMetrics, money_text
from stormbreak.gateway.rules import GatewayRules, rules_of
from stormbreak.gateway.spending import KeyBudgets
from stormbreak.gateway.usage_ledger import UsageLedger
from stormbreak.http.h1.server import HttpServer
from stormbreak.http.h1.server_connection import ServerBounds
from stormbreak.http.settings import Generation, load

LOG = logging.getLogger("stormbreak.gateway")
WATCH_INTERVAL = 1.0  # seconds between two looks at the file

_FIXED = ("host", "port", "admin_host", "admin_port", "max_connections", "ledger")


class Gateway:
    """A gateway of a settings file, on the running event loop. `change` is applied to `[gateway]`, as the command line does.

    Raises:
        ConfigurationError: the file is wrong, a key is missing, or a port is in use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        change: Callable[[GatewaySettings], GatewaySettings] = lambda settings: settings,
        *,
        prices: PriceOf | None = None,
    ) -> None:
        self.path = Path(path)
        self._live = load(path, prices=prices)
        self.settings = change(self._live.now.settings.gateway)
        self._rules = _rules(path, self._live.now)
        self._driver = AsyncioDriver(self._live.engine)
        price_of = spend_accounts(self._live.engine).price_of
        budgets = KeyBudgets(price_of, self._ledger())
        self._limits = Limits(KeyQueues(), budgets, self._usage(price_of))
        self.metrics = GatewayMetrics()
        self._app = GatewayApp(self._rules, self._driver, self._limits, self.metrics)
        bounds = ServerBounds(max_connections=self.settings.max_connections)
        self._server = HttpServer(self._app, bounds)
        self._admin: AdminServer | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._seen = self._mark()
        self._use(self._rules)

    @property
    def rules(self) -> GatewayRules:
        """What is in force."""
        return self._app.rules

    @property
    def port(self) -> int:
        """The port for clients."""
        return self._server.port

    @property
    def admin_port(self) -> int | None:
        """The admin port; None if there is none."""
        return None if self._admin is None else self._admin.port

    def metrics_text(self) -> bytes:
        """Write the metrics of the gateway itself."""
        text = self.metrics.text(self._gauges, self._limits.budgets.spent)
        usage = self._limits.usage
        spent = {} if usage is None else usage.spent
        return text + money_text(spent, tuple(self.rules.keys.values()))

    async def start(self) -> None:
        """Listen."""
        settings = self.settings
        await self._server.start(settings.host, settings.port)
        if self._limits.usage is not None:
            self._flushing = asyncio.get_running_loop().create_task(self._limits.usage.run())
        if settings.admin_port is not None:
            try:
                self._admin = AdminServer(
                    settings.admin_host,
                    settings.admin_port,
                    engine=self._live.engine,
                    is_ready=lambda: not self._server.draining,
                    metrics=self.metrics_text,
                )
            except BaseException:
                await self._server.close()
                raise

    async def run(self, started: Callable[["Gateway"], None] = lambda _: None) -> None:
        """Listen until SIGTERM or SIGINT, then drain; a second one ends at once. SIGHUP reads the file again."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        hung_up = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hung_up.set)
        await self.start()
        started(self)
        watching = loop.create_task(self._watch(hung_up))
        try:
            await stopped.wait()
        finally:
            watching.cancel()
        LOG.info("shutting down: %d requests are being answered", self._server.busy)
        stopped.clear()
        draining = loop.create_task(self.drain())
        again = loop.create_task(stopped.wait())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not draining.done():
            draining.cancel()
            await self.close()

    async def drain(self) -> None:
        """Stop accepting, let answers end within the grace, and close."""
        await self._server.drain(self.rules.settings.grace)
        await self.close()

    async def close(self) -> None:
        """End at once."""
        await self._server.close()
        if self._admin is not None:
            self._admin.close()
        await self._live.close()
        if self._limits.usage is not None:
            if self._flushing is not None:
                self._flushing.cancel()
                await asyncio.wait({self._flushing})
            self._limits.usage.close()
        self._limits.budgets.close()

    async def reload(self) -> bool:
        """Read the file again; return whether that went well. A file that is wrong changes nothing."""
        async with self._reading:
            self._seen = self._mark()
            try:
                generation = await asyncio.to_thread(self._live.read)
                rules = _rules(self.path, generation)
            except ConfigurationError as error:
                self.metrics.reloads["failed"] += 1
                LOG.warning("the settings stay as they were: %s", error)
                return False
            self._live.apply(generation)
            self._use(rules)
            self.metrics.reloads["ok"] += 1
            LOG.info("the settings were read again")
            for name in _FIXED:
                if getattr(rules.settings, name) != getattr(self._rules.settings, name):
                    LOG.warning("gateway.%s has changed: restart the gateway to use it", name)
            return True

    # ------------------------------------------------------------ internal

    def _ledger(self) -> SpendLedger | None:
        ledger = self.settings.ledger
        return None if ledger is None else SpendLedger(self.path.parent / ledger)

    def _usage(self, price_of: PriceOf) -> UsageLedger | None:
        ledger = self._rules.settings.ledger
        if ledger is None:
            return None
        try:
            price_of("openai", "")  # loaded now, so that no call waits for it
        except ConfigurationError as error:
            LOG.warning("gateway.ledger counts tokens, and no dollars: %s", error)
            price_of = _no_price
        return UsageLedger(self.path.parent / ledger, price_of)

    def _use(self, rules: GatewayRules) -> None:
        self._app.rules = rules
        keys, patience = [*rules.keys.values()], rules.generation.policy.patience
        self._limits.queues.apply(keys, patience)
        self._limits.budgets.apply(keys)
        self.metrics.access_log = rules.settings.access_log

    async def _watch(self, hung_up: asyncio.Event) -> None:
        """Read the file again on SIGHUP, or when it has changed."""
        while True:
            try:
                async with asyncio.timeout(WATCH_INTERVAL):
                    await hung_up.wait()
            except TimeoutError:
                if self._mark() == self._seen:
                    continue
            hung_up.clear()
            await self.reload()

    def _mark(self) -> tuple[int, ...]:
        """Return what changes with the file."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _gauges(self) -> dict[str, float]:
        server = self._server
        return {
            "connections": server.connections,
            "in_flight": server.busy,
            "held_bytes": server.held,
            "draining": float(server.draining),
        }


def _no_price(_provider: str, _model: str) -> None:
    """Know no price."""


def check(path: str | os.PathLike[str]) -> GatewayRules:
    """Read a file and check it, without serving it.

    Raises:
        ConfigurationError: the file is wrong, or a key is missing.
    """
    return _rules(path, load(path).now)


def _rules(path: str | os.PathLike[str], generation: Generation) -> GatewayRules:
    try:
        return rules_of(generation)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def with_options(settings: GatewaySettings, **options: Any) -> GatewaySettings:
    """Return the settings with the options of the command line that were given."""
    return replace(settings, **{k: v for k, v in options.items() if v is not None})
