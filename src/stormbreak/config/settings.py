"""The values of a settings file: targets and pools by name, the default policy, price files, and a gateway with its keys.

`http.settings` resolves addresses and keys, and makes clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stormbreak.config.gateway_settings import (
    ANY,
    GatewaySettings,
    KeySettings,
    matches,
)
from stormbreak.core.checks import check_types, require, require_positive
from stormbreak.core.fallback_policy import AFTER, ELSEWHERE, TargetOrder, check_rule
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import VARIABLE, quote_model, quoted
from stormbreak.llm.providers import preset
from stormbreak.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """One target: the arguments of `AsyncClient` that a file can set.

    The key comes from the variable `api_key_env`, or from the file `api_key_file`.
    """

    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    model: str | None = None
    policy: Policy = field(default_factory=Policy)
    allow_http: bool = False
    stream_on_wire: bool = False

    def __post_init__(self) -> None:
        if self.provider is not None:
            preset(self.provider)
        require(self.model != "", "model must be the name of a model", '""')
        if self.api_key_env is not None and not VARIABLE.fullmatch(self.api_key_env):
            raise ConfigurationError(  # not repeated: it may be the key
                "api_key_env must be the name of a variable: letters, digits and _, no digit first"
            )
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ConfigurationError("api_key_env and api_key_file exclude each other: name one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A target in a pool, by name, with its `weight` in a weighted choice."""

    target: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(bool(self.target), "target must be the name of a target", "none")
        check_types(self)
        require_positive(self, "weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Targets. Each call chooses one; the others are its first fallback, as in `ToTargets`."""

    targets: tuple[Member, ...] = ()
    on: tuple[Verdict, ...] = ELSEWHERE
    max_wait: float | None = AFTER
    order: TargetOrder = TargetOrder.IN_ORDER

    def __post_init__(self) -> None:
        require(bool(self.targets), "targets must name at least one target", "none")
        names = [member.target for member in self.targets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"targets names {quoted(twice)} twice")
        check_rule(self.on, self.max_wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A settings file with its profile and environment applied.

    `prices` are names or paths of price files; `tenants` are the limits of tenants, in a gateway for all their keys
    together.
    """

    policy: Policy = field(default_factory=Policy)
    targets: Mapping[str, TargetSettings] = field(default_factory=dict)
    pools: Mapping[str, PoolSettings] = field(default_factory=dict)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    keys: Mapping[str, KeySettings] = field(default_factory=dict)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    prices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, pool in self.pools.items():
            if name in self.targets:
                raise ConfigurationError(f"pools.{name} has the name of a target")
            for number, member in enumerate(pool.targets):
                if member.target not in self.targets:
                    known = ", ".join(self.targets) or "there is none"
                    raise ConfigurationError(
                        f"pools.{name}.targets[{number}] must be the name of a target ({known}),"
                        f" got {quoted(member.target)}"
                    )
        self._check_gateway()

    def _check_gateway(self) -> None:
        known = ", ".join(self.names) or "there is none"
        for model, name in self.gateway.models.items():
            if name not in self.names:
                raise ConfigurationError(
                    f"gateway.models.{model} must be the name of a target or pool ({known}), got {quoted(name)}"
                )
        tenants = {key.tenant for key in self.keys.values()}
        idle = next((name for name in self.tenants if name not in tenants), None)
        if idle is not None and self.keys:
            raise ConfigurationError(f"tenants.{idle} has no key: set it as the tenant of a key")
        digests: dict[str, str] = {}
        for key, settings in self.keys.items():
            other = digests.setdefault(settings.sha256, key)
            if other != key:
                raise ConfigurationError(f"keys.{key}.sha256 is the same as that of keys.{other}")
            wrong = next(
                (name for name in settings.models or () if not self._is_served(name)), None
            )
            if wrong is not None:
                raise ConfigurationError(
                    f"keys.{key}.models names {quote_model(wrong)}, which does not lead to a target:"
                    " name it in gateway.models"
                )

    def _is_served(self, name: str) -> bool:
        led = self.leads_to(name.removesuffix(ANY)) is not None
        return led or any(matches(name, model) for model in self.model_names)

    def leads_to(self, model: str) -> str | None:
        """Return the target or pool to which a model name leads in the gateway; None if there is none."""
        if model in self.model_names:
            return self.gateway.models.get(model, model)
        patterns = [
            name for name in self.gateway.models if name.endswith(ANY) and matches(name, model)
        ]
        return self.gateway.models[max(patterns, key=len)] if patterns else None

    @property
    def model_names(self) -> tuple[str, ...]:
        """The model names that clients of the gateway can ask for, without names that match a `*`.

        A target or pool is such a name itself, if its model does not depend on the request.
        """
        named = (name for name in self.gateway.models if not name.endswith(ANY))
        own = (name for name in self.names if self._has_model(name))
        return tuple(dict.fromkeys((*named, *own)))

    def _has_model(self, name: str) -> bool:
        pool = self.pools.get(name)
        members = [name] if pool is None else [member.target for member in pool.targets]
        return all(self.targets[member].model is not None for member in members)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.targets, *self.pools)
