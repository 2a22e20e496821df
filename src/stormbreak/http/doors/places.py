"""Where the requests at a door lead: routes by origin and key, wires by origin."""

import os
from collections.abc import Callable
from urllib.parse import urlsplit

from stormbreak.core.fallback import Fallback
from stormbreak.http.environment import Endpoint
from stormbreak.http.origin import Origin, origin_of
from stormbreak.http.routes import Routes
from stormbreak.http.wire import Wire
from stormbreak.llm.presets import PRESETS

_NAMES = {urlsplit(known.base_url).netloc: known.name for known in PRESETS.values()}


class Places:
    """The routes of one door, made as its requests come. `connect` makes a wire to an origin."""

    def __init__(
        self,
        rules: tuple[Fallback, ...],
        *,
        allow_http: bool,
        connect: Callable[[Origin], Wire],
    ) -> None:
        self._rules = rules
        self._allow_http = allow_http
        self._connect = connect
        self._routes: dict[tuple[str, str | None], Routes] = {}
        self._wires: dict[tuple[str, str], Wire] = {}

    def routes(self, base_url: str, key: str | None) -> Routes:
        """Where a request to this address may lead.

        Raises:
            ConfigurationError: the key would travel in the clear, or a fallback lacks its own.
        """
        routes = self._routes.get((base_url, key))
        if routes is None:
            origin = self.origin(base_url, key)
            netloc = urlsplit(origin.base_url).netloc
            routes = self._routes[base_url, key] = Routes(
                Endpoint(_NAMES.get(netloc, netloc), origin),
                self._rules,
                allow_http=self._allow_http,
                environ=os.environ,
                connect=self.wire,
            )
        return routes

    def origin(self, base_url: str, key: str | None) -> Origin:
        """Tie the key to its address; raise ConfigurationError where it would travel in the clear."""
        return origin_of(base_url, key, allow_http=self._allow_http)

    def wire(self, origin: Origin) -> Wire:
        """The one wire to an origin, whatever the path and the key."""
        parts = urlsplit(origin.base_url)
        place = parts.scheme, parts.netloc
        wire = self._wires.get(place)
        if wire is None:
            wire = self._wires[place] = self._connect(origin)
        return wire

    def wires(self) -> tuple[Wire, ...]:
        """All there are."""
        return tuple(self._wires.values())
