"""The policy of fallbacks: ordered rules, each for certain verdicts. `fallback` follows them.

A rule leads to other targets (another provider, another key, a model with a larger context), to a cached
answer, or to a degraded one. The rules are tried in order, each once; the first that matches
the verdict and can serve the call does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

from stormbreak.core.checks import check_types, require, require_positive
from stormbreak.types import Target, Verdict

AFTER = 2.0  # maximum seconds of wait if another target can serve the call
TRANSIENT = (
    Verdict.THROTTLED, Verdict.OVERLOADED, Verdict.SERVER_ERROR, Verdict.BROKEN, Verdict.RESET, Verdict.TIMEOUT,
    Verdict.CONNECT_FAILED, Verdict.REJECTED,
)  # fmt: skip
ELSEWHERE = (*TRANSIENT, Verdict.BILLING, Verdict.AUTH, Verdict.NOT_FOUND)
"""Verdicts that another provider or key may avoid; an invalid request would fail there too."""

POSSIBLE = (
    *ELSEWHERE,
    Verdict.TOO_LONG,
    Verdict.FILTERED,
    Verdict.INVALID,
    Verdict.REDIRECTED,
    Verdict.SCHEMA_MISMATCH,
)


class TargetOrder(StrEnum):
    """The order of several targets: as listed, random by weight, or the least loaded first."""

    IN_ORDER = "in_order"
    WEIGHTED = "weighted"
    LEAST_LOADED = "least_loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A fallback target: None means the value of the call that falls back.

    A `provider` or `base_url` has its own key, from `api_key_env` or the environment; `model` alone stays at the same
    provider. `weight` counts in a weighted pool.

    `models` maps the model of the call to the model there. Calls for other models use `model`; if that is None, they do
    not go there.
    """

    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    model: str | None = None
    models: Mapping[str, str] = field(default_factory=dict, hash=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        words = (self.provider, self.base_url, self.api_key_env, self.model, self.models)
        require(
            any(words),
            "a target must name a provider, base_url, api_key_env, model or models",
            "none",
        )
        require_positive(self, "weight")
        object.__setattr__(self, "models", dict(self.models))  # the caller's dict may change

    def model_for(self, model: str) -> str | None:
        """Return the model here for a call of `model`; None: the call does not go here."""
        if self.models:
            return self.models.get(model, self.model)
        return self.model or model


@dataclass(frozen=True, slots=True, kw_only=True)
class ToTargets:
    """For the verdicts `on`, each of the `targets` in turn, until one answers."""

    kind: Literal["targets"] = "targets"
    on: tuple[Verdict, ...] = ELSEWHERE
    max_wait: float | None = AFTER
    targets: tuple[Place, ...] = ()
    order: TargetOrder = TargetOrder.IN_ORDER

    def __post_init__(self) -> None:
        check_types(self)
        check_rule(self.on, self.max_wait)
        require(bool(self.targets), "targets must hold a target", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToCache:
    """For the verdicts `on`, the cached answer to the same request, if any."""

    kind: Literal["cache"] = "cache"
    on: tuple[Verdict, ...] = ELSEWHERE
    max_wait: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_rule(self.on, self.max_wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDegraded:
    """For the verdicts `on`, `text` as the answer; None: the result of the client's function."""

    kind: Literal["degraded"] = "degraded"
    on: tuple[Verdict, ...] = ELSEWHERE
    max_wait: float | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_rule(self.on, self.max_wait)


Fallback: TypeAlias = ToTargets | ToCache | ToDegraded


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """The cache of good answers for `ToCache` rules: in the file `path` (None: in memory).

    An answer expires after `max_age` seconds; all have at most `max_bytes`.
    """

    path: str | None = None
    max_age: float = 86_400.0
    max_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "max_age", "max_bytes")


def check_rule(on: Iterable[Verdict], after: float | None) -> None:
    """Reject invalid verdicts and waits of a rule."""
    odd = [str(verdict) for verdict in on if verdict not in POSSIBLE]
    require(not odd, "on must name only verdicts of calls that failed", ", ".join(odd))
    require(bool(tuple(on)), "on must name a verdict", "none")
    require(after is None or after > 0, "max_wait must be positive", after)


class Step(NamedTuple):
    """A rule prepared for one call: `targets` with their weights, or a local source for the driver."""

    on: frozenset[Verdict]
    after: float | None
    source: str
    targets: tuple[tuple[Target, float], ...] = ()
    choose: TargetOrder = TargetOrder.IN_ORDER
    text: str | None = None

    @property
    def bounds_waiting(self) -> bool:
        """Whether this step limits the wait of a call before it."""
        return self.after is not None and Verdict.REJECTED in self.on
