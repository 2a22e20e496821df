"""Which targets a client may send to: its own, and those that the fallbacks of its policy name.

All of them are found when the client is made, so that a wrong address or a missing key is told at the start. Each
target keeps its own origin and wire: the key of one never travels to another.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from stormbreak.core.fallback import Fallback, Place, Step, ToDegraded, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import DynamicKey, Origin
from stormbreak.http.environment import ProviderEndpoint, find_endpoint
from stormbreak.http.h1.connection import Wire
from stormbreak.types import CACHE, DEGRADED, FALLBACK, Outcome, Target

SOURCES = {"targets": FALLBACK, "cache": CACHE, "degraded": DEGRADED}
"""By kind of rule: where its answer comes from."""

MOST_MODELS = (
    1024  # that are remembered: whoever asks chooses their names, and may never repeat one
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a target."""

    target: Target
    origin: Origin
    wire: Wire
    policy: Policy | None = None  # where it is not that of the client
    key: DynamicKey | None = None
    allow_http: bool = False

    async def keyed(self) -> Origin | Outcome:
        """The origin with the key of now; or how an attempt fails that cannot have one."""
        if self.key is None:
            return self.origin
        return await self.key.ask(self.origin, allow_http=self.allow_http)


class RouteTable:
    """The routes of one client, or of several that share them; those of many models are made again when asked for."""

    def __init__(self) -> None:
        self._routes: dict[Target, Route] = {}
        self._leads: dict[
            Target, list[tuple[ProviderEndpoint, Wire]]
        ] = {}  # by target without its model

    def lead(self, endpoint: ProviderEndpoint, wire: Wire) -> None:
        """Make targets of this endpoint routable."""
        leads = self._leads.setdefault(_target(endpoint, ""), [])
        if (endpoint, wire) not in leads:
            leads.append((endpoint, wire))

    def add(self, target: Target, endpoint: ProviderEndpoint, wire: Wire) -> None:
        """Remember a route; the first to a target counts."""
        if target in self._routes:
            return
        if len(self._routes) >= MOST_MODELS:
            self._forget()
        self._routes[target] = _route(target, endpoint, wire)

    def route(self, target: Target) -> Route:
        """How to reach a target of an endpoint that is known."""
        route = self._routes.get(target)
        if route is None:
            endpoint, wire = self._leads[target.account][0]
            self.add(target, endpoint, wire)
            route = _route(target, endpoint, wire)
        return route

    def targets(self) -> tuple[Target, ...]:
        """Those that are remembered."""
        return tuple(self._routes)

    def _forget(self) -> None:
        """Forget all that can be found again: two endpoints may have one name and one key, and differ in their address."""
        several = (
            (target, self._routes.get(target))
            for target in tuple(self._routes)
            if len(self._leads[target.account]) > 1
        )
        self._routes = {target: route for target, route in several if route is not None}


class Routes:
    """The routes of one client. `connect` makes a wire to an origin; `known` are routes that several share."""

    def __init__(
        self,
        endpoint: ProviderEndpoint,
        rules: tuple[Fallback, ...],
        *,
        allow_http: bool,
        environ: Mapping[str, str],
        connect: Callable[[Origin], Wire],
        known: RouteTable | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._known = RouteTable() if known is None else known
        self._own: dict[str, Target] = {}
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._rules = [
            (rule, tuple(_found(rule, endpoint, allow_http=allow_http, environ=environ)))
            for rule in rules
        ]
        endpoints = (endpoint, *(found for _, several in self._rules for found in several))
        addresses = {each.origin.base_url: each.origin for each in endpoints}
        self._wires = {address: connect(origin) for address, origin in addresses.items()}
        for each in endpoints:
            self._known.lead(each, self._wires[each.origin.base_url])

    def target(self, model: str) -> Target:
        """The target that a call for `model` goes to first."""
        target = self._own.get(model)
        if target is None:
            target = self._route(self.endpoint, model)
            make_room(self._own)
            self._own[model] = target
        return target

    def route(self, target: Target) -> Route:
        """How to reach a target that was told before."""
        return self._known.route(target)

    def steps(self, model: str) -> tuple[Step, ...]:
        """Where a call for `model` may go from there."""
        steps = self._steps.get(model)
        if steps is None:
            make_room(self._steps)
            steps = self._steps[model] = tuple(self._made(model))
        return steps

    def own(self) -> tuple[Target, ...]:
        """The targets that have its own key, of those that were asked for of late."""
        key = self.endpoint.origin.key_digest
        return tuple(target for target in self._known.targets() if target.key == key)

    def wires(self) -> tuple[Wire, ...]:
        """All there are."""
        return tuple(self._wires.values())

    def _made(self, model: str) -> Iterator[Step]:
        for rule, endpoints in self._rules:
            on, after, source = frozenset(rule.on), rule.max_wait, SOURCES[rule.kind]
            if isinstance(rule, ToTargets):
                targets = tuple(
                    (self._route(endpoint, there), place.weight)
                    for endpoint, place in zip(endpoints, rule.targets, strict=True)
                    if (there := place.model_for(model)) is not None
                )
                if targets:
                    yield Step(on, after, source, targets, rule.order)
            else:
                text = rule.text if isinstance(rule, ToDegraded) else None
                yield Step(on, after, source, text=text)

    def _route(self, endpoint: ProviderEndpoint, model: str) -> Target:
        """The target of a model there, to which there is a route from now on."""
        target = _target(endpoint, model)
        self._known.add(target, endpoint, self._wires[endpoint.origin.base_url])
        return target


def make_room(by_model: dict[str, T]) -> None:
    """Empty what is remembered by model, where that is too much: it can all be made again."""
    if len(by_model) >= MOST_MODELS:
        by_model.clear()


def _target(endpoint: ProviderEndpoint, model: str) -> Target:
    return Target(endpoint.provider, model, endpoint.origin.key_digest, endpoint.name)


def _route(target: Target, endpoint: ProviderEndpoint, wire: Wire) -> Route:
    policy, key, allow_http = endpoint.policy, endpoint.key, endpoint.allow_http
    return Route(target, endpoint.origin, wire, policy, key, allow_http)


def _found(
    rule: Fallback, own: ProviderEndpoint, *, allow_http: bool, environ: Mapping[str, str]
) -> Iterator[ProviderEndpoint]:
    if isinstance(rule, ToTargets):
        for number, place in enumerate(rule.targets):
            try:
                yield _endpoint(place, own, allow_http=allow_http, environ=environ)
            except ConfigurationError as error:
                raise ConfigurationError(f"fallback.targets[{number}]: {error}") from None


def _endpoint(
    place: Place, own: ProviderEndpoint, *, allow_http: bool, environ: Mapping[str, str]
) -> ProviderEndpoint:
    """What is not said is as it is for the client; a provider or an address brings its own key."""
    elsewhere = place.provider is not None or place.base_url is not None
    if not elsewhere and place.api_key_env is None:
        return own
    found = find_endpoint(
        place.provider,
        base_url=place.base_url if elsewhere else own.origin.base_url,
        api_key_env=place.api_key_env,
        allow_http=allow_http,
        environ=environ,
    )
    return found if elsewhere else found._replace(provider=own.provider)
