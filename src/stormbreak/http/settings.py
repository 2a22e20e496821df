"""Settings in force: one engine for all targets and pools of a file, clients of them, and a reload that drops no call."""

import asyncio
import os
import random
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.fallback import Step, ordered
from stormbreak.cost.price_table import PriceOf
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.background_loop import BACKGROUND
from stormbreak.drivers.locks import LiveSet
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.http.endpoint import DynamicKey, KeyFunction
from stormbreak.http.generation import Generation, SettingsBuilder
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.pricing import list_price
from stormbreak.http.sync_client import Client
from stormbreak.http.target_config import TargetConfig
from stormbreak.key_patterns import quoted
from stormbreak.types import Target


def load(
    path: str | os.PathLike[str],
    *,
    profile: str | None = None,
    keys: Mapping[str, KeyFunction] | None = None,
    degraded: Degraded | None = None,
    prices: PriceOf | None = None,
) -> "LiveSettings":
    """Read a settings file, and be ready to make clients of what it names (see docs/configuration.md).

    `keys` are functions that give the keys of targets, by name, before each attempt. `profile` is by default what
    STORMBREAK_PROFILE says. `degraded` makes answers for a `degraded` rule that has no text. `prices` are for limits of
    spending and for what answers cost, as an `AsyncClient` has them.

    Raises:
        ConfigurationError: one line that names the file, the key or the variable, and the value.
    """
    return LiveSettings(path, profile=profile, keys=keys or {}, degraded=degraded, prices=prices)


class LiveSettings:
    """What a settings file says, in force; `load` makes it. It may be used from any thread and event loop."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        profile: str | None,
        keys: Mapping[str, KeyFunction],
        degraded: Degraded | None,
        prices: PriceOf | None = None,
    ) -> None:
        asked = {name: _asked(name, function) for name, function in keys.items()}
        self._maker = maker = SettingsBuilder(
            path, profile, asked, degraded, self._order, {}, prices is None
        )
        self._now = maker.read()
        unknown = next((name for name in keys if name not in self._now.footings), None)
        if unknown is not None:
            raise maker.wrong(f"keys names {quoted(str(unknown))}, which is no target")
        self.engine = Engine(self._now.policy, SpendAccounts(prices or list_price))
        self._driver = AsyncioDriver(self.engine)
        self._clients: LiveSet[AsyncClient] = LiveSet()
        self._take(self._now)

    @property
    def names(self) -> tuple[str, ...]:
        """The targets and pools there are."""
        return self._now.settings.names

    def client(self, name: str) -> AsyncClient:
        """A client of a target or a pool, which goes along with every reload. Its connections are closed with the settings.

        Raises:
            ConfigurationError: there is none of that name.
        """
        self._now.find(name)
        client = AsyncClient.on(self.engine, _Named(self, name))
        self._clients.add(client)
        return client

    def blocking_client(self, name: str) -> Client:
        """The same for code that blocks."""
        return Client.of(self.client(name))

    def reload(self) -> None:
        """Read the file again. Calls that have begun end as they began; new ones go by what it says now.

        A target that is as it was keeps its circuit, its limits and what was learned; one of which only the policy has
        changed keeps its circuit.

        Raises:
            ConfigurationError: the file is wrong, or a key is missing; everything stays as it was.
            RuntimeError: a listener asks for it, from within an event.
        """
        self._take(self._maker.read(self._now))

    def snapshot(self) -> dict[str, Any]:
        """What stands where: every target, and every call that is under way."""
        return self._driver.snapshot()

    @property
    def now(self) -> Generation:
        """What is in force."""
        return self._now

    async def close(self) -> None:
        """End every call of its clients on the running loop, now or later, and close the connections there."""
        here = asyncio.get_running_loop()
        for client in self._clients:
            client.stop(here)
        for footing in self._now.footings.values():
            await footing.at_hand.close()
        for wire in tuple(self._maker.wires.values()):
            await wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the calls of clients that block, and close their connections."""
        BACKGROUND.finish(self.close)

    def _take(self, made: Generation) -> None:
        def take(engine: Engine, now: float) -> None:
            moved = made.moved_since(self._now)
            engine.govern(made.policy, made.accounts, now, anew=moved)
            self._now = made

        self._driver.between_steps(take)

    def _order(self, step: Step) -> tuple[Target, ...]:
        chance = random.random()  # noqa: S311 - not secret

        def order(engine: Engine, now: float) -> tuple[Target, ...]:
            return ordered(
                step, chance, lambda target: engine.target_state(target).utilization(now)
            )

        return self._driver.between_steps(order)


def _asked(name: object, function: Any) -> DynamicKey:
    if callable(function):
        return DynamicKey(function)
    kind = type(function).__name__  # it is not repeated: it may be the key
    raise ConfigurationError(f"keys must be functions: that of {quoted(str(name))} is a {kind}")


class _Named:
    """The ground of a client of a name: whatever that stands for at the time of a call."""

    def __init__(self, settings: LiveSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    @property
    def first(self) -> TargetConfig:
        """The target, or the first of the pool."""
        return self._settings.now.find(self._name)[0]

    def footing(self, body: bytes) -> TargetConfig:
        """The target, or that of the pool whose turn it is."""
        first, pool = self._settings.now.find(self._name)
        return first if pool is None else pool.footing(body)

    def owned(self) -> tuple[LocalAnswers, ...]:
        """No wires: others use them, too. What is kept of answers is waited for."""
        return tuple(footing.at_hand for footing in self._settings.now.footings.values())
