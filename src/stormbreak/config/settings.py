"""The values of a settings file: targets and pools by name, and the default policy.

`http.settings` resolves addresses and keys, and makes clients.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stormbreak.core.checks import require
from stormbreak.core.fallback import AFTER, ELSEWHERE, TargetOrder, check_rule
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import VARIABLE, quoted
from stormbreak.llm.providers import preset
from stormbreak.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """One target: the arguments of `AsyncClient` that a file can set."""

    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A target in a pool, by name, with its `weight` in a weighted choice."""

    target: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(bool(self.target), "target must be the name of a target", "none")
        require(self.weight > 0, "weight must be positive", self.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Targets, of which each call chooses one; the others are its first fallback, as in `ToTargets`."""

    targets: tuple[Member, ...] = ()
    on: tuple[Verdict, ...] = ELSEWHERE
    max_wait: float | None = AFTER
    order: TargetOrder = TargetOrder.IN_ORDER

    def __post_init__(self) -> None:
        require(bool(self.targets), "targets must name a target", "none")
        names = [member.target for member in self.targets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"targets names {quoted(twice)} twice")
        check_rule(self.on, self.max_wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A settings file with its profile and environment applied."""

    policy: Policy = field(default_factory=Policy)
    targets: Mapping[str, TargetSettings] = field(default_factory=dict)
    pools: Mapping[str, PoolSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, pool in self.pools.items():
            if name in self.targets:
                raise ConfigurationError(f"pools.{name} has the name of a target")
            for number, member in enumerate(pool.targets):
                if member.target not in self.targets:
                    raise ConfigurationError(
                        f"pools.{name}.targets[{number}] must be {_one_of(self.targets)},"
                        f" got {quoted(member.target)}"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of targets and pools."""
        return (*self.targets, *self.pools)


def _one_of(names: Iterable[str]) -> str:
    return f"the name of a target ({', '.join(names) or 'there is none'})"
