"""The destinations of calls: the route to each target, and the target config of each call.

All fallback targets of a policy are resolved when the client is made, so that a wrong address or a missing key is an
error at the start. Each target has its own origin and connection: no key goes to another origin.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from stormbreak.core.fallback_policy import (
    Fallback,
    Place,
    Step,
    TargetOrder,
    ToDegraded,
    ToTargets,
)
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.http.endpoint import DynamicKey, Origin, ProviderEndpoint, find_endpoint
from stormbreak.http.h1.connection import Connection
from stormbreak.http.local_answers import LocalAnswers
from stormbreak.types import CACHE, DEGRADED, FALLBACK, Target, Verdict

_SOURCES = {"targets": FALLBACK, "cache": CACHE, "degraded": DEGRADED}  # by kind of fallback

MAX_MODELS = 1024
"""Maximum remembered models: callers choose the names, and may never repeat one."""

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to reach a target. The function `key` is called before each attempt."""

    target: Target
    origin: Origin
    connection: Connection
    policy: Policy | None = None  # if it is not the client's
    key: DynamicKey | None = None
    allow_http: bool = False


class RouteTable:
    """The routes of one or several clients. Routes beyond a maximum of models are dropped and made again."""

    def __init__(self) -> None:
        self._routes: dict[Target, Route] = {}
        self._endpoints: dict[Target, list[tuple[ProviderEndpoint, Connection]]] = {}  # by account

    def add_endpoint(self, endpoint: ProviderEndpoint, connection: Connection) -> None:
        """Make the targets of this endpoint routable."""
        known = self._endpoints.setdefault(_target(endpoint, ""), [])
        if (endpoint, connection) not in known:
            known.append((endpoint, connection))

    def add(self, target: Target, endpoint: ProviderEndpoint, connection: Connection) -> None:
        """Remember a route; the first route to a target counts."""
        if target in self._routes:
            return
        if len(self._routes) >= MAX_MODELS:
            self._forget()
        self._routes[target] = _route(target, endpoint, connection)

    def route(self, target: Target) -> Route:
        """Return the route to a target of a known endpoint."""
        route = self._routes.get(target)
        if route is None:
            endpoint, connection = self._endpoints[target.account][0]
            self.add(target, endpoint, connection)
            route = _route(target, endpoint, connection)
        return route

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._routes)

    def _forget(self) -> None:
        """Forget routes that can be made again: a target with several endpoints does not name its address."""
        self._routes = {
            target: route
            for target, route in tuple(self._routes.items())
            if len(self._endpoints[target.account]) > 1
        }


class Routes:
    """The routes of one client. `connect` makes the connection to an origin; `table` may be shared."""

    def __init__(
        self,
        endpoint: ProviderEndpoint,
        rules: tuple[Fallback, ...],
        *,
        connect: Callable[[Origin], Connection],
        table: RouteTable | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._table = RouteTable() if table is None else table
        self.route = self._table.route
        self._first: dict[str, Route] = {}  # by model
        self.rules = [(rule, tuple(_fallback_endpoints(rule, endpoint))) for rule in rules]
        endpoints = (endpoint, *(each for _, several in self.rules for each in several))
        addresses = {each.origin.base_url: each.origin for each in endpoints}
        self._connections = {address: connect(origin) for address, origin in addresses.items()}
        for each in endpoints:
            self._table.add_endpoint(each, self._connections[each.origin.base_url])

    def first(self, model: str) -> Route:
        """Return the route to the first target of a call for `model`."""
        route = self._first.get(model)
        if route is None:
            make_room(self._first)
            route = self._first[model] = self.route(self._add(self.endpoint, model))
        return route

    def own_targets(self) -> tuple[Target, ...]:
        """Return the remembered targets with the client's own key."""
        key, first = self.endpoint.origin.key_digest, (each.target for each in self._first.values())
        kept = (target for target in self._table.targets() if target.key == key)
        return tuple({*first, *kept})

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._connections.values())

    def steps(self, model: str) -> Iterator[Step]:
        """Yield the fallbacks of a call for `model`."""
        for rule, endpoints in self.rules:
            on, after, source = frozenset(rule.on), rule.max_wait, _SOURCES[rule.kind]
            if isinstance(rule, ToTargets):
                targets = tuple(
                    (self._add(endpoint, other), place.weight)
                    for endpoint, place in zip(endpoints, rule.targets, strict=True)
                    if (other := place.model_for(model)) is not None
                )
                if targets:
                    yield Step(on, after, source, targets, rule.order)
            else:
                text = rule.text if isinstance(rule, ToDegraded) else None
                yield Step(on, after, source, text=text)

    def _add(self, endpoint: ProviderEndpoint, model: str) -> Target:
        """Return the target of a model at an endpoint, and make it routable."""
        target = _target(endpoint, model)
        self._table.add(target, endpoint, self._connections[endpoint.origin.base_url])
        return target


def make_room(by_model: dict[K, T]) -> None:
    """Empty a cache by model when it is full: its entries can be made again."""
    if len(by_model) >= MAX_MODELS:
        by_model.clear()


def _target(endpoint: ProviderEndpoint, model: str) -> Target:
    return Target(endpoint.provider, model, endpoint.origin.key_digest, endpoint.name)


def _route(target: Target, endpoint: ProviderEndpoint, connection: Connection) -> Route:
    policy, key, allow_http = endpoint.policy, endpoint.key, endpoint.allow_http
    return Route(target, endpoint.origin, connection, policy, key, allow_http)


def _fallback_endpoints(rule: Fallback, own: ProviderEndpoint) -> Iterator[ProviderEndpoint]:
    if isinstance(rule, ToTargets):
        for number, place in enumerate(rule.targets):
            with errors_at(f"fallback.targets[{number}]"):
                yield _endpoint(place, own)


def _endpoint(place: Place, own: ProviderEndpoint) -> ProviderEndpoint:
    """Find the endpoint of a fallback: the client's, except for the values set. Another address has its own key."""
    elsewhere = place.provider is not None or place.base_url is not None
    if not elsewhere and place.api_key_env is None:
        return own
    found = find_endpoint(
        place.provider,
        base_url=place.base_url if elsewhere else own.origin.base_url,
        api_key_env=place.api_key_env,
        allow_http=own.allow_http,
    )
    return found if elsewhere else found._replace(provider=own.provider)


class OriginConnections(dict[tuple[str, str], Connection]):
    """One connection per scheme, host and port, for every path and key."""

    def __init__(self, connect: Callable[[Origin], Connection]) -> None:
        super().__init__()
        self._connect = connect

    def to(self, origin: Origin) -> Connection:
        """Return the connection to an origin; if several threads make one, all get the same."""
        place = self.place_of(origin)
        connection = self.get(place)
        return self.setdefault(place, self._connect(origin)) if connection is None else connection

    @staticmethod
    def place_of(origin: Origin) -> tuple[str, str]:
        """Return the scheme, and the host with its port."""
        parts = urlsplit(origin.base_url)
        return parts.scheme, parts.netloc


# ---------------------------------------------------------------- target configs
# A call keeps the config with which it began. A client has one config, or takes it from a settings file at the time of
# the call.


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """The configuration of calls to one target. `model` is for payloads without one; in a pool it replaces theirs.

    `reserves`: a target that the call may reach limits tokens or dollars. `pool_step` comes before the policy's
    fallbacks.
    """

    policy: Policy
    routes: Routes
    local_answers: LocalAnswers
    model: str | None = None
    stream_on_wire: bool = False
    reserves: bool = False
    pool_step: Callable[[str], Step] | None = None
    weight: float = 1.0
    _known: dict[str, tuple[Route, tuple[Step, ...]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def origin(self) -> Origin:
        """The origin of its calls, with a static key."""
        return self.routes.endpoint.origin

    @property
    def account(self) -> Target:
        """The target without its model."""
        return _target(self.routes.endpoint, "")

    def target(self, model: str) -> Target:
        """Return the first target of a call for `model`."""
        return self.routes.first(self._model_for(model)).target

    def route_and_steps(self, model: str) -> tuple[Route, tuple[Step, ...]]:
        """Return the route of a call for `model` to its first target, and its fallbacks."""
        known = self._known.get(model)
        if known is None:
            make_room(self._known)
            own, route = self.routes.steps(model), self.routes.first(self._model_for(model))
            steps = own if self.pool_step is None else (self.pool_step(model), *own)
            known = self._known[model] = route, tuple(steps)
        return known

    def _model_for(self, model: str) -> str:
        """Return the model to request: in a pool, that of this member."""
        return model if self.pool_step is None or not self.model else self.model

    def model_of(self, payload: Mapping[str, object]) -> str:
        """Return the model of a payload, by default its own; raise ConfigurationError if there is none."""
        model = payload.get("model") or self.model
        if not isinstance(model, str) or not model:
            raise ConfigurationError("model is missing: name it in the payload or in the client")
        return model


class TargetResolver(Protocol):
    """Finds the target config of each call."""

    @property
    def first(self) -> TargetConfig:
        """The config that describes the client."""

    def resolve(self, model: str) -> TargetConfig: ...

    def owned(self) -> tuple[LocalAnswers | Connection, ...]:
        """Return the objects to close with the client."""


@dataclass(frozen=True, slots=True)
class SingleTarget:
    """Always the same config."""

    first: TargetConfig

    def resolve(self, _model: str) -> TargetConfig:
        return self.first

    def owned(self) -> tuple[LocalAnswers | Connection, ...]:
        return self.first.local_answers, *self.first.routes.connections()


class Pool:
    """Target configs. One is chosen for each call; the others are its first fallback.

    `order` sorts the targets of a step for trying.
    """

    def __init__(
        self,
        members: tuple[TargetConfig, ...],
        on: tuple[Verdict, ...],
        after: float | None,
        choose: TargetOrder,
        order: Callable[[Step], tuple[Target, ...]],
    ) -> None:
        self.members = members
        self._on = frozenset(on)
        self._after = after
        self._choose = choose
        self._order = order
        self._steps: dict[str, Step] = {}

    @property
    def is_fixed(self) -> bool:
        """Whether every call goes first to the same member."""
        return self._choose is TargetOrder.IN_ORDER

    def resolve(self, model: str) -> TargetConfig:
        if self.is_fixed:
            return self.members[0]
        first = self._order(self.step(model))[0]
        return next(member for member in self.members if member.target(model) == first)

    def step(self, model: str) -> Step:
        """Return the fallback to all members, for a call for `model`; members that were tried are skipped."""
        step = self._steps.get(model)
        if step is None:
            targets = tuple((member.target(model), member.weight) for member in self.members)
            step = Step(self._on, self._after, FALLBACK, targets, self._choose)
            make_room(self._steps)
            self._steps[model] = step
        return step
