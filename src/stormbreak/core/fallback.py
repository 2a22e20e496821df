"""Where a call goes when its target cannot answer: ordered rules, each for certain verdicts.

A rule leads to other targets (another provider, another key, a model with a larger context), to an answer that was good
once, or to one that says that there is none. The rules are asked in their order, each once; the first that is for
the verdict and can do something does. One deadline and one budget hold across all of them.

While a rule for rejected calls is still to come, no call waits longer than its `after` where it is: for a slot,
for the end of a cooldown, for a backoff. It does not wait for an open circuit at all while the circuit of a target of such a rule
lets calls pass. Where every circuit is open, it waits for that of its own target. A call without a bound on its patience never waits for the
circuit of a fallback: it ends there, and its own target may be well again before.

A move to another target is no retry there, but it is load that was not meant for it. So it is free only as long as that
target seems well (fewer than `DEPRIORITIZED` failures in a row came back from it) or nothing was sent so far; else the
budget pays, as for a retry: when everything is down, falling from one to the next must not double the traffic.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

from stormbreak.core.checks import check_types, require
from stormbreak.types import Target, Verdict

DEPRIORITIZED = 3
"""Failures in a row, of those that may be retried, after which a move to a target has to be paid."""

AFTER = 2.0
"""Seconds that a call waits at most if another target can serve it."""

TRANSIENT = (
    Verdict.THROTTLED,
    Verdict.OVERLOADED,
    Verdict.SERVER_ERROR,
    Verdict.BROKEN,
    Verdict.RESET,
    Verdict.TIMEOUT,
    Verdict.CONNECT_FAILED,
    Verdict.REJECTED,
)
ELSEWHERE = (*TRANSIENT, Verdict.BILLING, Verdict.AUTH, Verdict.NOT_FOUND)
"""What another provider or key may do better; the same request would be as wrong there."""

POSSIBLE = (*ELSEWHERE, Verdict.TOO_LONG, Verdict.FILTERED, Verdict.INVALID, Verdict.REDIRECTED)


class TargetOrder(StrEnum):
    """Which target of several comes first: as they are written, by chance and weight, or the one with most room."""

    IN_ORDER = "in_order"
    WEIGHTED = "weighted"
    LEAST_LOADED = "least_loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A target in words: what is None is as in the call that falls back.

    A `provider` or `base_url` brings its own key, from `api_key_env` or the environment; `model` alone stays where it
    is. Of a weighted pool, a place gets `weight` parts.

    `models` says by the model of the call which one is asked there; a call for another asks `model`, and where that is
    None, too, it does not go there at all.
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
        require(self.weight > 0, "weight must be positive", self.weight)
        object.__setattr__(self, "models", dict(self.models))  # the caller's own may change

    def model_for(self, model: str) -> str | None:
        """The model that a call for `model` asks here; None: it does not come here."""
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
    """For the verdicts `on`, the answer that the same request got once, if it is kept."""

    kind: Literal["cache"] = "cache"
    on: tuple[Verdict, ...] = ELSEWHERE
    max_wait: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_rule(self.on, self.max_wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDegraded:
    """For the verdicts `on`, `text` as the answer; None: what the client's function makes."""

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
    """Where good answers are kept for a `ToCache` rule: in the file `path` (None: in memory).

    Each is given for `max_age` seconds; together they have at most `max_bytes`.
    """

    path: str | None = None
    max_age: float = 86_400.0
    max_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        check_types(self)
        require(self.max_age > 0, "max_age must be positive", self.max_age)
        require(self.max_bytes > 0, "max_bytes must be positive", self.max_bytes)


def check_rule(on: Iterable[Verdict], after: float | None) -> None:
    """Refuse what no rule can be for, or wait for."""
    odd = [str(verdict) for verdict in on if verdict not in POSSIBLE]
    require(not odd, "on must name only verdicts of calls that failed", ", ".join(odd))
    require(bool(tuple(on)), "on must name a verdict", "none")
    require(after is None or after > 0, "after must be positive", after)


class Step(NamedTuple):
    """A rule, made ready for one call: `targets` with their weights, or the local source that the driver asks."""

    on: frozenset[Verdict]
    after: float | None
    source: str
    targets: tuple[tuple[Target, float], ...] = ()
    choose: TargetOrder = TargetOrder.IN_ORDER
    text: str | None = None

    @property
    def bounds_waiting(self) -> bool:
        """Whether a call does not wait for long where this step is still to come."""
        return self.after is not None and Verdict.REJECTED in self.on


def ordered(step: Step, uniform: float, load: Callable[[Target], float]) -> tuple[Target, ...]:
    """The targets of a step in the order of their turns; `load` is the share of a target's room that is taken.

    By weight the first is drawn with `uniform`, the others follow by their weights. Those without room come last.
    """
    places = step.targets
    if step.choose is TargetOrder.IN_ORDER:
        return tuple(target for target, _ in places)
    loads = {target: load(target) for target, _ in places}
    if step.choose is TargetOrder.LEAST_LOADED:
        return tuple(sorted(loads, key=loads.__getitem__))
    free = [place for place in places if loads[place[0]] < 1.0] or list(places)
    drawn = uniform * sum(weight for _, weight in free)
    first = free[-1][0]
    for target, weight in free:
        drawn -= weight
        if drawn < 0:
            first = target
            break
    others = sorted(
        (place for place in places if place[0] != first),
        key=lambda place: (loads[place[0]] >= 1.0, -place[1]),
    )
    return (first, *(target for target, _ in others))
