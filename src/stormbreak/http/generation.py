"""What one reading of a settings file comes to: the target configs of its targets and pools.

A generation is made whole before it takes the place of the one before, so that a wrong file changes nothing.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from stormbreak.config.load import load_settings
from stormbreak.config.settings import PoolSettings, Settings, TargetSettings
from stormbreak.core.fallback import Step
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import DynamicKey, Origin
from stormbreak.http.environment import ProviderEndpoint, find_endpoint, in_force
from stormbreak.http.h1.connect import connect
from stormbreak.http.h1.connection import POOL_LIMIT, Wire
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.pricing import check_prices
from stormbreak.http.routes import Routes, RouteTable
from stormbreak.http.target_config import Pool, TargetConfig
from stormbreak.key_patterns import hidden, quoted
from stormbreak.types import Target


@dataclass(frozen=True, slots=True)
class Generation:
    """The settings, and what calls stand on by them."""

    settings: Settings
    policy: Policy
    footings: Mapping[str, TargetConfig]
    pools: Mapping[str, Pool]

    @property
    def accounts(self) -> dict[Target, Policy]:
        """The policies of the targets, which are told from each other without their models."""
        return {footing.account: footing.policy for footing in self.footings.values()}

    @property
    def addresses(self) -> dict[Target, str]:
        """Where they are."""
        return {footing.account: footing.base_url for footing in self.footings.values()}

    def moved_since(self, before: "Generation") -> frozenset[Target]:
        """Targets of the same name, provider and key that are at another address now."""
        then = before.addresses
        return frozenset(
            account
            for account, address in self.addresses.items()
            if then.get(account, address) != address
        )

    def find(self, name: str) -> tuple[TargetConfig, Pool | None]:
        """On what a call to `name` stands; of a pool, the first, and the pool.

        Raises:
            ConfigurationError: no target and no pool has that name.
        """
        if name in self.footings:
            return self.footings[name], None
        if name in self.pools:
            pool = self.pools[name]
            return pool.members[0], pool
        known = ", ".join(self.settings.names) or "there is none"
        raise ConfigurationError(f"no target or pool is called {quoted(str(name))}; known: {known}")


@dataclass(frozen=True, slots=True)
class SettingsBuilder:
    """Makes the generations of one file. Wires outlive them: connections that are not used close by themselves.

    `order` puts the targets of a step into the order of their turns. With `list_prices`, those are what limits of spending
    go by.
    """

    path: str | os.PathLike[str]
    profile: str | None
    keys: Mapping[str, DynamicKey]
    degraded: Degraded | None
    order: Callable[[Step], tuple[Target, ...]]
    wires: dict[tuple[str, str], Wire]
    list_prices: bool = True

    def read(self, before: Generation | None = None) -> Generation:
        """Read the file.

        Raises:
            ConfigurationError: it is wrong, or a key is missing.
        """
        settings = load_settings(self.path, profile=self.profile)
        if not settings.targets:  # a file that is about to be written is empty
            raise self.wrong("it names no target, as in [targets.main]")
        known = RouteTable()
        footings = {}
        weighs = in_force(settings.policy).weighs  # it holds where they fall back to
        for name, target in settings.targets.items():
            try:
                footings[name] = self._target_config(name, target, known, before, weighs=weighs)
            except ConfigurationError as error:
                raise self.wrong(f"targets.{name}: {error}") from None
        weighs = any(footing.weighs for footing in footings.values())
        pools = {
            name: self._pool(pool, footings, weighs=weighs) for name, pool in settings.pools.items()
        }
        return Generation(settings, in_force(settings.policy), footings, pools)

    def wrong(self, what: str) -> ConfigurationError:
        """What is wrong with the file, told with its name."""
        return ConfigurationError(f"{hidden(str(self.path))}: {what}")

    def _target_config(
        self,
        name: str,
        target: TargetSettings,
        known: RouteTable,
        before: Generation | None,
        *,
        weighs: bool,
    ) -> TargetConfig:
        policy = in_force(target.policy)
        if self.list_prices:
            check_prices(policy)
        routes = Routes(
            self._endpoint(name, target)._replace(name=name, policy=policy),
            policy.fallback,
            allow_http=target.allow_http,
            environ=os.environ,
            connect=self._wire,
            known=known,
        )
        if before is not None and before.settings.targets.get(name) == target:
            at_hand = before.footings[name].at_hand  # answers kept in memory are still good
        else:
            at_hand = LocalAnswers(policy, self.degraded)
        model, on_wire = target.model, target.stream_on_wire
        return TargetConfig(policy, routes, at_hand, model, on_wire, weighs or policy.weighs)

    def _endpoint(self, name: str, target: TargetSettings) -> ProviderEndpoint:
        key = self.keys.get(name)
        if key is not None and target.api_key_env is not None:
            raise ConfigurationError("it has an api_key_env, and a function for its key")
        return find_endpoint(
            target.provider,
            base_url=target.base_url,
            api_key=key,
            api_key_env=target.api_key_env,
            allow_http=target.allow_http,
        )

    def _pool(
        self, pool: PoolSettings, footings: Mapping[str, TargetConfig], *, weighs: bool
    ) -> Pool:
        made: Pool

        def ahead(model: str) -> Step:
            return made.step(model)

        members = tuple(
            replace(footings[member.target], ahead=ahead, weight=member.weight, weighs=weighs)
            for member in pool.targets
        )
        made = Pool(members, pool.on, pool.max_wait, pool.order, self.order)
        return made

    def _wire(self, origin: Origin) -> Wire:
        """The one wire to an origin, whatever the path and the key."""
        parts = urlsplit(origin.base_url)
        place = parts.scheme, parts.netloc
        wire = self.wires.get(place)
        if wire is None:
            wire = self.wires[place] = connect(POOL_LIMIT, origin)
        return wire
