"""A settings file in use: one engine for all its targets and pools, their clients, and a reload that drops no call.

A `Generation` is one reading of the file. It is complete before it replaces the previous one, so that a wrong file
changes nothing.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from stormbreak.config.gateway_settings import ANY
from stormbreak.config.load import load_settings
from stormbreak.config.settings import PoolSettings, Settings, TargetSettings
from stormbreak.core.engine import Engine, Fleet
from stormbreak.core.fallback import ordered
from stormbreak.core.fallback_policy import Step
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.price_source import PriceOf
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.blocking import run
from stormbreak.drivers.chance import draw
from stormbreak.drivers.locks import LiveSet
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.file_reader import read_text
from stormbreak.fleet import fleet_for
from stormbreak.hidden_keys import hidden, quoted
from stormbreak.http.client import AsyncClient
from stormbreak.http.endpoint import DynamicKey, KeyFunction, ProviderEndpoint, find_endpoint
from stormbreak.http.h1.connection import POOL_LIMIT
from stormbreak.http.h1.connection_factory import connect
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.policy_in_force import check_prices, in_force, tenants_in_force
from stormbreak.http.pricing import list_price, prices_in
from stormbreak.http.routing import OriginConnections, Pool, Routes, RouteTable, TargetConfig
from stormbreak.http.sync_client import Client
from stormbreak.types import Target

# ---------------------------------------------------------------- settings in use


def load(
    path: str | os.PathLike[str],
    *,
    profile: str | None = None,
    keys: Mapping[str, KeyFunction] | None = None,
    degraded: Degraded | None = None,
    prices: PriceOf | None = None,
    text: str | None = None,
) -> "LiveSettings":
    """Read a settings file, to make clients of its targets and pools (see docs/configuration.md).

    `keys` are functions, by name of the target, that return its key before each attempt. `profile` is by default
    STORMBREAK_PROFILE. `degraded` makes answers for a `degraded` rule without a text. `prices` are for spend limits and
    for the cost of answers, as in an `AsyncClient`; None: those of the file. `text` is the content of the file; None:
    read it.

    Raises:
        ConfigurationError: one line that names the file, the key or the variable, and the value.
    """
    return LiveSettings(
        path, profile=profile, keys=keys or {}, degraded=degraded, prices=prices, text=text
    )


class LiveSettings:
    """A settings file in use, made by `load`. Use it from any thread and event loop.

    `connections` are used instead of its own, and also closed with it. The engine applies the limits of tenants, unless
    the caller, a gateway, `limits_tenants` itself.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        profile: str | None = None,
        keys: Mapping[str, KeyFunction] = MappingProxyType({}),
        degraded: Degraded | None = None,
        prices: PriceOf | None = None,
        text: str | None = None,
        connections: OriginConnections | None = None,
        limits_tenants: bool = True,
    ) -> None:
        dynamic_keys = {name: _dynamic_key(name, function) for name, function in keys.items()}
        if connections is None:
            connections = OriginConnections(partial(connect, POOL_LIMIT))
        self._builder = builder = SettingsBuilder(
            path,
            profile,
            dynamic_keys,
            degraded,
            self._order,
            connections,
            has_prices=prices is not None,
            limits_tenants=limits_tenants,
        )
        self.now = builder.read(text=text)
        """The settings in force."""
        unknown = next((name for name in keys if name not in self.now.configs), None)
        if unknown is not None:
            raise builder.wrong(f"keys names {quoted(str(unknown))}, which is not a target")
        price_of = prices or builder.price_of(self.now.settings)
        self.engine = Engine(self.now.policy, SpendAccounts(price_of), self.now.fleet())
        self._driver = AsyncioDriver(self.engine)
        self._clients: LiveSet[AsyncClient] = LiveSet()
        self.apply(self.now)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the targets and pools."""
        return self.now.settings.names

    def client(self, name: str) -> AsyncClient:
        """Make a client of a target or a pool. It follows every reload; the settings close its connections.

        Raises:
            ConfigurationError: no target or pool has that name.
        """
        self.now.find(name)
        client = AsyncClient.on(self.engine, _NamedTarget(self, name))
        self._clients.add(client)
        return client

    def blocking_client(self, name: str) -> Client:
        """Make a client for blocking code."""
        self.now.find(name)
        client = AsyncClient.on(self.engine, _NamedTarget(self, name), blocks=True)
        self._clients.add(client)
        return Client.of(client)

    def reload(self) -> None:
        """Read the file again. Calls in progress keep their settings; new calls use the new ones.

        An unchanged target keeps its circuit, its limits and everything learned. If only the policy of a target has
        changed, it keeps its circuit.

        Raises:
            ConfigurationError: the file is wrong, or a key is missing; everything stays as it was.
            RuntimeError: a listener calls it, from within an event.
        """
        self.apply(self.read())

    def read(self, text: str | None = None) -> "Generation":
        """Read the file again, or `text` instead, for `apply`; a caller may check more in between.

        Raises:
            ConfigurationError: as in `reload`.
        """
        generation = self._builder.read(self.now, text)
        generation.fleet()  # raises if its package is missing
        return generation

    def apply(self, generation: "Generation") -> None:
        """Use the result of `read`.

        Raises:
            RuntimeError: a listener calls it, from within an event.
        """
        fleet = self.engine.fleet or generation.fleet()

        def apply(engine: Engine, now: float) -> None:
            moved = generation.moved_since(self.now)
            engine.fleet = fleet
            engine.govern(
                generation.policy,
                generation.policies,
                now,
                moved=moved,
                tenants=generation.tenants,
            )
            self.now = generation

        self._driver.between_steps(apply)

    def snapshot(self) -> dict[str, Any]:
        return self._driver.snapshot()

    async def close(self) -> None:
        """End every call of the clients on the running loop, now or later, and close the connections there."""
        loop = asyncio.get_running_loop()
        for client in self._clients:
            if not client.blocks:
                client.stop(loop)
        self._driver.rest()
        for config in self.now.configs.values():
            await config.local_answers.close()
        for connection in tuple(self._builder.connections.values()):
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the calls of blocking clients, and close their connections."""
        for client in self._clients:
            if client.blocks:
                client.stop()
        self._driver.rest()
        for connection in tuple(self._builder.connections.values()):
            run(connection.blocking.close())

    def _order(self, step: Step) -> tuple[Target, ...]:
        chance = draw()

        def order(engine: Engine, now: float) -> tuple[Target, ...]:
            return ordered(
                step, chance, lambda target: engine.target_state(target).utilization(now)
            )

        return self._driver.between_steps(order)


def _dynamic_key(name: object, function: Any) -> DynamicKey:
    if callable(function):
        return DynamicKey(function)
    kind = type(function).__name__  # the value is not shown: it may be the key
    raise ConfigurationError(f"keys must be functions: that of {quoted(str(name))} is a {kind}")


class _NamedTarget:
    """Resolves a name, at the time of a call, to the target or pool in the settings."""

    def __init__(self, settings: LiveSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    @property
    def first(self) -> TargetConfig:
        """The target, or the first of the pool."""
        return self._settings.now.find(self._name)[0]

    def resolve(self, model: str) -> TargetConfig:
        """Return the target, or the member of the pool whose turn it is."""
        first, pool = self._settings.now.find(self._name)
        return first if pool is None else pool.resolve(model)

    def owned(self) -> tuple[LocalAnswers, ...]:
        """Return the caches, to wait for their writes. The connections are shared with other clients."""
        return tuple(config.local_answers for config in self._settings.now.configs.values())


# ---------------------------------------------------------------- one reading of the file


class ModelRoute(NamedTuple):
    """The first target of a call, the model to request there, and whether no other target is possible.

    `is_fixed`: every call for that model goes first to this target.
    """

    config: TargetConfig
    model: str
    is_single: bool
    is_fixed: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """The settings, the configs of their targets, and the limits of `tenants` in force.

    `leads` are targets and pools by model name, `beginnings` those by the start of a model name, the longest first.
    """

    settings: Settings
    policy: Policy
    configs: Mapping[str, TargetConfig]
    pools: Mapping[str, Pool]
    tenants: Mapping[str, TenantLimits]
    leads: Mapping[str, str] = field(init=False)
    beginnings: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        leads = {one: name for one in settings.model_names if (name := settings.leads_to(one))}
        starts = [(one[:-1], to) for one, to in settings.gateway.models.items() if one[-1:] == ANY]
        starts.sort(key=lambda each: -len(each[0]))
        object.__setattr__(self, "leads", leads)
        object.__setattr__(self, "beginnings", tuple(starts))

    def route(self, model: str) -> ModelRoute | None:
        """Return the route of a call for `model`; None if the file has none.

        A call for the full name of a target gets the target's own model, if it has one.
        """
        name = self.leads.get(model)
        is_whole = name is not None
        if name is None:
            name = next((led for start, led in self.beginnings if model.startswith(start)), None)
        if name is None:
            return None
        config, pool = self.find(name)
        is_fixed = pool is None or pool.is_fixed
        if pool is not None:
            config = pool.resolve(model)
        asked = config.model if is_whole and config.model else model
        is_single = (pool is None or len(pool.members) == 1) and not config.policy.fallback
        return ModelRoute(config, asked, is_single, is_fixed)

    @property
    def policies(self) -> dict[Target, Policy]:
        """Return the policies of the targets, by target without its model."""
        return {config.account: config.policy for config in self.configs.values()}

    def fleet(self) -> Fleet | None:
        """Make the fleet of an engine with these policies, if one of them has a store."""
        return fleet_for(self.policy, *self.policies.values())

    def moved_since(self, before: "Generation") -> frozenset[Target]:
        """Return targets of the same name, provider and key whose address has changed."""
        then = {config.account: config.origin.base_url for config in before.configs.values()}
        return frozenset(
            config.account
            for config in self.configs.values()
            if then.get(config.account, config.origin.base_url) != config.origin.base_url
        )

    def find(self, name: str) -> tuple[TargetConfig, Pool | None]:
        """Return the config of a target, or of the first target of a pool, and the pool.

        Raises:
            ConfigurationError: no target or pool has that name.
        """
        if name in self.configs:
            return self.configs[name], None
        if name in self.pools:
            pool = self.pools[name]
            return pool.members[0], pool
        known = ", ".join(self.settings.names) or "there is none"
        raise ConfigurationError(f"no target or pool is called {quoted(str(name))}; known: {known}")


@dataclass(frozen=True, slots=True)
class SettingsBuilder:
    """Reads the generations of one file. Connections outlive generations; unused ones close by themselves.

    `order` sorts the targets of a step for trying. `has_prices`: the program supplies prices. `limits_tenants`: the
    limits of tenants are in force.
    """

    path: str | os.PathLike[str]
    profile: str | None
    keys: Mapping[str, DynamicKey]
    degraded: Degraded | None
    order: Callable[[Step], tuple[Target, ...]]
    connections: OriginConnections
    has_prices: bool = False
    limits_tenants: bool = True

    def read(self, before: Generation | None = None, text: str | None = None) -> Generation:
        """Read the file, or `text` instead.

        Raises:
            ConfigurationError: the file is wrong, or a key is missing.
        """
        settings = load_settings(self.path, profile=self.profile, text=text)
        if not settings.targets:  # a file that is being written may be empty
            raise self.wrong("it names no target, as in [targets.main]")
        has_prices = self.has_prices or bool(settings.prices)
        table = RouteTable()
        tenants = tenants_in_force(settings.tenants if self.limits_tenants else None)
        configs = {}
        reserves = in_force(settings.policy).reserves  # fallbacks may use this policy
        for name, target in settings.targets.items():
            try:
                if not has_prices:
                    check_prices(in_force(target.policy), tenants)
                configs[name] = self._config(name, target, table, before, reserves=reserves)
            except ConfigurationError as error:
                raise self.wrong(f"targets.{name}: {error}") from None
        reserves = any(config.reserves for config in configs.values())
        pools = {
            name: self._pool(pool, configs, reserves=reserves)
            for name, pool in settings.pools.items()
        }
        return Generation(settings, in_force(settings.policy), configs, pools, tenants)

    def price_of(self, settings: Settings) -> PriceOf:
        """Return the prices of the settings; raise ConfigurationError if a price file is wrong."""
        if not settings.prices:
            return list_price
        try:
            return prices_in(settings.prices, Path(self.path).parent)
        except ConfigurationError as error:
            raise self.wrong(f"prices: {error}") from None

    def wrong(self, what: str) -> ConfigurationError:
        """Make an error that names the file."""
        return ConfigurationError(f"{hidden(str(self.path))}: {what}")

    def _config(
        self,
        name: str,
        target: TargetSettings,
        table: RouteTable,
        before: Generation | None,
        *,
        reserves: bool,
    ) -> TargetConfig:
        policy = in_force(target.policy)
        routes = Routes(
            self._endpoint(name, target)._replace(name=name, policy=policy),
            policy.fallback,
            connect=self.connections.to,
            table=table,
        )
        if before is not None and before.settings.targets.get(name) == target:
            local_answers = before.configs[name].local_answers  # keeps answers in memory
        else:
            local_answers = LocalAnswers(policy, self.degraded)
        return TargetConfig(
            policy,
            routes,
            local_answers,
            target.model,
            target.stream_on_wire,
            reserves or policy.reserves,
        )

    def _endpoint(self, name: str, target: TargetSettings) -> ProviderEndpoint:
        key: DynamicKey | str | None = self.keys.get(name)
        if key is not None and target.api_key_env is not None:
            raise ConfigurationError("it has an api_key_env, and a function for its key")
        if key is None and target.api_key_file is not None:
            key = self._key_in(target.api_key_file)
        return find_endpoint(
            target.provider,
            base_url=target.base_url,
            api_key=key,
            api_key_env=target.api_key_env,
            allow_http=target.allow_http,
        )

    def _key_in(self, path: str) -> str:
        """Return the key in a file; a relative path starts at the settings file."""
        with errors_at(f"api_key_file {quoted(path)}"):
            return read_text(Path(self.path).parent / path, what="a key file").strip()

    def _pool(
        self, settings: PoolSettings, configs: Mapping[str, TargetConfig], *, reserves: bool
    ) -> Pool:
        pool: Pool

        def pool_step(model: str) -> Step:
            return pool.step(model)

        members = tuple(
            replace(
                configs[member.target],
                pool_step=pool_step,
                weight=member.weight,
                reserves=reserves,
            )
            for member in settings.targets
        )
        pool = Pool(members, settings.on, settings.max_wait, settings.order, self.order)
        return pool
