"""Settings in force: one engine for all targets and pools of a file, clients of them, and a reload that drops no call.

A generation is what one reading of the file came to: it is made whole before it takes the place of the one before,
which is kept where that fails. Calls keep the footing that they began with.
"""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from stormbreak.config.load_settings import load_settings
from stormbreak.config.settings import PoolSettings, Settings, TargetSettings
from stormbreak.core.engine import Engine
from stormbreak.core.fallback import Step, ordered
from stormbreak.core.policy import Policy
from stormbreak.drivers.aio import AsyncioDriver
from stormbreak.drivers.background import BACKGROUND
from stormbreak.errors import ConfigurationError
from stormbreak.http.at_hand import AtHand, Degraded
from stormbreak.http.blocking import Client
from stormbreak.http.client import AsyncClient
from stormbreak.http.connect import connect
from stormbreak.http.environment import find_endpoint, in_force
from stormbreak.http.footing import Footing, Ground, Pool
from stormbreak.http.keys import AskedKey, KeyFunction
from stormbreak.http.origin import Origin
from stormbreak.http.routes import Route, Routes
from stormbreak.http.wire import POOL_LIMIT, Wire
from stormbreak.keylike import hidden, quoted
from stormbreak.types import Target


def load(
    path: str | os.PathLike[str],
    *,
    profile: str | None = None,
    keys: Mapping[str, KeyFunction] | None = None,
    degraded: Degraded | None = None,
) -> "LiveSettings":
    """Read a settings file, and be ready to make clients of what it names (see docs/configuration.md).

    `keys` are functions that give the keys of targets, by name, before each attempt. `profile` is by default what
    STORMBREAK_PROFILE says. `degraded` makes answers for a `degraded` rule that has no text.

    Raises:
        ConfigurationError: one line that names the file, the key or the variable, and the value.
    """
    return LiveSettings(path, profile=profile, keys=keys or {}, degraded=degraded)


@dataclass(frozen=True, slots=True)
class _Generation:
    """What one reading came to."""

    settings: Settings
    policy: Policy
    footings: Mapping[str, Footing]
    pools: Mapping[str, Pool]

    @property
    def accounts(self) -> dict[Target, Policy]:
        """The policies of the targets, which are told from each other without their models."""
        return {footing.account: footing.policy for footing in self.footings.values()}


class LiveSettings:
    """What a settings file says, in force; `load` makes it. It may be used from any thread and event loop."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        profile: str | None,
        keys: Mapping[str, KeyFunction],
        degraded: Degraded | None,
    ) -> None:
        self._path = path
        self._profile = profile
        self._keys = {name: AskedKey(function) for name, function in keys.items()}
        self._degraded = degraded
        self._wires: dict[tuple[str, str], Wire] = {}
        self._now: _Generation | None = None
        made = self._read()
        unknown = next((name for name in keys if name not in made.footings), None)
        if unknown is not None:
            raise self._wrong(f"keys names {quoted(unknown)}, which is no target")
        self.engine = Engine(made.policy)
        self._driver = AsyncioDriver(self.engine)
        self._take(made)

    @property
    def names(self) -> tuple[str, ...]:
        """The targets and pools there are."""
        return self._generation.settings.names

    def client(self, name: str) -> AsyncClient:
        """A client of a target or a pool. It goes along with every reload; what it is closed with is `close` of the settings.

        Raises:
            ConfigurationError: there is none of that name.
        """
        return AsyncClient.on(self.engine, self._ground(name))

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
        self._take(self._read())

    def snapshot(self) -> dict[str, Any]:
        """What stands where: every target, and every call that is under way."""
        return self._driver.snapshot()

    async def close(self) -> None:
        """Close the connections of the running loop."""
        for footing in self._generation.footings.values():
            await footing.at_hand.close()
        for wire in tuple(self._wires.values()):
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
        """Close the connections of clients that block."""
        BACKGROUND.run(self.close())

    def footings(self, name: str) -> tuple[Footing, Pool | None]:
        """On what a call to `name` stands now; of a pool, the first, and the pool."""
        now = self._generation
        if name in now.footings:
            return now.footings[name], None
        if name in now.pools:
            return now.pools[name].members[0], now.pools[name]
        known = ", ".join(now.settings.names) or "there is none"
        raise ConfigurationError(f"no target or pool is called {quoted(name)}; known: {known}")

    @property
    def _generation(self) -> _Generation:
        assert self._now is not None
        return self._now

    def _ground(self, name: str) -> Ground:
        self.footings(name)
        return _Named(self, name)

    def _take(self, made: _Generation) -> None:
        before = self._now
        moved = frozenset() if before is None else _moved(before, made)

        def take(engine: Engine, now: float) -> None:
            engine.govern(made.policy, made.accounts, now, anew=moved)
            self._now = made

        self._driver.by_hand(take)

    def _read(self) -> _Generation:
        settings = load_settings(self._path, profile=self._profile)
        policy = in_force(settings.policy)
        known: dict[Target, Route] = {}
        footings = {
            name: self._footing(name, target, known) for name, target in settings.targets.items()
        }
        weighs = any(footing.weighs for footing in footings.values())
        pools = {
            name: self._pool(pool, footings, weighs=weighs) for name, pool in settings.pools.items()
        }
        return _Generation(settings, policy, footings, pools)

    def _footing(self, name: str, target: TargetSettings, known: dict[Target, Route]) -> Footing:
        policy = in_force(target.policy)
        key = self._keys.get(name)
        try:
            if key is not None and target.api_key_env is not None:
                raise ConfigurationError("it has an api_key_env, and a function for its key")
            endpoint = find_endpoint(
                target.provider,
                base_url=target.base_url,
                api_key=key,
                api_key_env=target.api_key_env,
                allow_http=target.allow_http,
            )
            routes = Routes(
                endpoint._replace(name=name, policy=policy),
                policy.fallback,
                allow_http=target.allow_http,
                environ=os.environ,
                connect=self._wire,
                known=known,
            )
        except ConfigurationError as error:
            raise self._wrong(f"targets.{name}: {error}") from None
        return Footing(
            policy,
            routes,
            self._at_hand(name, target, policy),
            target.model,
            target.stream_on_wire,
            policy.quota.acts,
        )

    def _at_hand(self, name: str, target: TargetSettings, policy: Policy) -> AtHand:
        """That of before, where nothing has changed: answers kept in memory are still good."""
        if self._now is not None and self._now.settings.targets.get(name) == target:
            return self._now.footings[name].at_hand
        return AtHand(policy, self._degraded)

    def _pool(self, pool: PoolSettings, footings: Mapping[str, Footing], *, weighs: bool) -> Pool:
        made: Pool

        def ahead(model: str) -> Step:
            return made.step(model)

        members = tuple(
            replace(footings[member.target], ahead=ahead, weight=member.weight, weighs=weighs)
            for member in pool.targets
        )
        made = Pool(members, pool.on, pool.after, pool.choose, self._order)
        return made

    def _order(self, step: Step) -> tuple[Target, ...]:
        chance = random.random()  # noqa: S311 - not secret

        def order(engine: Engine, now: float) -> tuple[Target, ...]:
            return ordered(step, chance, lambda target: engine.lane(target).taken(now))

        return self._driver.by_hand(order)

    def _wire(self, origin: Origin) -> Wire:
        """The one wire to an origin. It outlives a reload: connections that are not used close by themselves."""
        parts = urlsplit(origin.base_url)
        place = parts.scheme, parts.netloc
        wire = self._wires.get(place)
        if wire is None:
            wire = self._wires[place] = connect(POOL_LIMIT, origin)
        return wire

    def _wrong(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{hidden(str(self._path))}: {what}")


class _Named:
    """The ground of a client of a name: whatever that stands for at the time of a call."""

    def __init__(self, settings: LiveSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    @property
    def first(self) -> Footing:
        """The target, or the first of the pool."""
        return self._settings.footings(self._name)[0]

    def footing(self, body: bytes) -> Footing:
        """The target, or that of the pool whose turn it is."""
        first, pool = self._settings.footings(self._name)
        return first if pool is None else pool.footing(body)

    def owned(self) -> tuple[Wire, ...]:
        """None: others use them, too."""
        return ()


def _moved(before: _Generation, after: _Generation) -> frozenset[Target]:
    """Targets of the same name, provider and key at another address."""
    addresses = {
        footing.account: footing.routes.endpoint.origin.base_url
        for footing in before.footings.values()
    }
    return frozenset(
        account
        for footing in after.footings.values()
        if (account := footing.account) in addresses
        and addresses[account] != footing.routes.endpoint.origin.base_url
    )
