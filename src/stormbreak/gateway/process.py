"""A gateway in one process: it reloads its file after a change, and ends without cutting off answers.

A wrong file changes nothing: the whole file is read and checked before anything is replaced.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.cost.price_source import PriceOf, no_price
from stormbreak.cost.spend_gate import spend_accounts
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.gateway.admin import AdminPages, AdminServer
from stormbreak.gateway.app import GatewayApp
from stormbreak.gateway.client_call import Limits
from stormbreak.gateway.keys import all_holders
from stormbreak.gateway.lifecycle import Lifecycle
from stormbreak.gateway.limits import ClientQueues
from stormbreak.gateway.logs import ACCESS_LOG, LOG
from stormbreak.gateway.metrics import GatewayMetrics, money_text
from stormbreak.gateway.routing import GatewayRules, rules_of
from stormbreak.gateway.spending import ClientBudgets
from stormbreak.gateway.usage_ledger import UsageLedger
from stormbreak.http.h1.server import HttpServer, listen
from stormbreak.http.h1.server_connection import ServerBounds
from stormbreak.http.pricing import check_installed, list_price
from stormbreak.http.settings import Generation, LiveSettings


class Gateway(Lifecycle):
    """A gateway of a settings file, on the running event loop. `change` changes `[gateway]`, for the command line.

    `text` is the content of the file; None: read the file. `write_line` writes a line to the access log. Raises
    ConfigurationError if the file is wrong, a key is missing, or a port is in use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        change: Callable[[GatewaySettings], GatewaySettings] = lambda settings: settings,
        *,
        prices: PriceOf | None = None,
        text: str | None = None,
        write_line: Callable[[str], None] = ACCESS_LOG.info,
    ) -> None:
        super().__init__(path)
        self._live = LiveSettings(path, prices=prices, text=text, limits_tenants=False)
        self.settings = change(self._live.now.settings.gateway)
        self._rules = _rules(path, self._live.now)
        self._driver = AsyncioDriver(self._live.engine)
        price_of = spend_accounts(self._live.engine).price_of
        queues = ClientQueues()
        budgets = ClientBudgets(price_of, queues, self._ledger())
        self._limits = Limits(queues, budgets, self._usage(price_of))
        self.metrics = GatewayMetrics(write_line)
        self._app = GatewayApp(self._rules, self._driver, self._limits, self.metrics)
        bounds = ServerBounds(max_connections=self.settings.max_connections)
        self._server = HttpServer(self._app, bounds)
        self._flushing: asyncio.Task[None] | None = None
        self._use(self._rules)

    @property
    def rules(self) -> GatewayRules:
        return self._app.rules

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def busy(self) -> str:
        return f"{self._server.busy} requests are being answered"

    def metrics_text(self) -> bytes:
        text = self.metrics.text(self._gauges(), self._limits.budgets.spent())
        usage = self._limits.usage
        spent = {} if usage is None else usage.spent
        limits = spend_accounts(self._live.engine).taken(self._driver.clock())
        return text + money_text(spent, tuple(self.rules.keys.values()), limits)

    async def start(self) -> None:
        settings = self.settings
        await self.serve(listen(settings.host, settings.port))
        if settings.admin_port is not None:
            try:
                self._admin = AdminServer(
                    settings.admin_host,
                    settings.admin_port,
                    self.pages(),
                    is_ready=lambda: not self._server.draining,
                )
            except BaseException:
                await self._server.close()
                raise

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Listen for clients only, without an admin port."""
        await self._server.serve(sockets)
        if self._limits.usage is not None:
            self._flushing = asyncio.get_running_loop().create_task(self._limits.usage.run())
        self._load_prices()

    def pages(self) -> AdminPages:
        """Collect the state of the gateway from now on, for its admin port."""
        return AdminPages(self._live.engine, self.metrics_text)

    async def drain(self) -> None:
        await self.drain_within(self.rules.settings.grace)

    async def drain_within(self, grace: float) -> None:
        """Stop accepting, give answers `grace` seconds to finish, and close."""
        await self._server.drain(grace)
        await self.close()

    async def close(self) -> None:
        await self._server.close()
        self._close_admin()
        await self._live.close()
        self._limits.queues.driver.rest()
        if self._limits.usage is not None:
            if self._flushing is not None:
                self._flushing.cancel()
                await asyncio.wait({self._flushing})
            self._limits.usage.close()
        self._limits.budgets.close()

    async def prepare(self, text: str | None = None) -> GatewayRules:
        """Read the file again, or `text` instead, and change nothing yet. Raises ConfigurationError if it is wrong."""
        generation = await asyncio.to_thread(self._live.read, text)
        return _rules(self.path, generation)

    def apply(self, rules: GatewayRules) -> None:
        """Use the result of `prepare`."""
        self._live.apply(rules.generation)
        self._use(rules)
        self._load_prices()

    def _load_prices(self) -> None:
        """Load the list prices in a thread, if money is counted, so that calls rarely wait for them."""
        price_of = spend_accounts(self._live.engine).price_of

        def load() -> None:
            try:
                price_of("openai", "")
            except ConfigurationError:  # they are not installed
                pass
            except Exception as error:  # noqa: BLE001 - of a table that is not ours
                LOG.warning("the prices cannot be loaded: %s: %s", type(error).__name__, error)

        if self._limits.usage is not None or self._limits.budgets.spent():
            asyncio.get_running_loop().run_in_executor(None, load)

    async def _reload(self) -> GatewayRules:
        rules = await self.prepare()
        self.apply(rules)
        return rules

    def _usage(self, price_of: PriceOf) -> UsageLedger | None:
        ledger = self._rules.settings.ledger
        if ledger is None:
            return None
        if price_of is list_price:
            try:
                check_installed()
            except ConfigurationError as error:
                LOG.warning("gateway.ledger counts tokens but not dollars: %s", error)
                price_of = no_price
        return UsageLedger(self.path.parent / ledger, price_of)

    def _use(self, rules: GatewayRules) -> None:
        self._app.rules = rules
        holders, policy = all_holders(rules.keys.values()), rules.generation.policy
        self._limits.queues.apply(holders, policy)
        self._limits.budgets.apply(holders, policy)
        self.metrics.access_log = rules.settings.access_log

    def _gauges(self) -> dict[str, float]:
        server = self._server
        return {
            "workers": 1,
            "connections": server.connections,
            "in_flight": server.busy,
            "held_bytes": server.held,
            "draining": float(server.draining),
        }


def check(path: str | os.PathLike[str], text: str | None = None) -> tuple[GatewayRules, PriceOf]:
    """Read a file, or `text` instead, and check it without serving; also return its prices.

    Raises ConfigurationError if the file is wrong, or a key is missing.
    """
    live = LiveSettings(path, text=text, limits_tenants=False)
    return _rules(path, live.now), spend_accounts(live.engine).price_of


def _rules(path: str | os.PathLike[str], generation: Generation) -> GatewayRules:
    with errors_at(path):
        return rules_of(generation)


def with_options(settings: GatewaySettings, **options: Any) -> GatewaySettings:
    """Return the settings with the given options of the command line."""
    return replace(settings, **{k: v for k, v in options.items() if v is not None})
