"""The destinations of requests through a transport: routes by origin and key, one connection by origin.

Rotating keys would accumulate. So beyond `MAX_ROUTES` the least recently used routes are forgotten, and with them the
engine's state of their targets, unless a call is in progress there or they have a cooldown. Connections that no route
and no target of the settings uses are dropped, too. A response that is still being read keeps its pool, which closes by
itself afterwards.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from stormbreak.core.fallback_policy import Fallback
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.http.endpoint import Origin, ProviderEndpoint, origin_of
from stormbreak.http.h1.connection import Connection
from stormbreak.http.routing import OriginConnections, Routes, TargetConfig
from stormbreak.llm.providers import PRESETS
from stormbreak.types import Target

MAX_ROUTES = 256  # maximum routes and connections; more than an application uses at a time

_SALT = secrets.token_bytes(16)
_NAMES = {urlsplit(known.base_url).netloc: known.name for known in PRESETS.values()}


class OriginResolver:
    """The routes of one transport, made on demand.

    `connections` are made on demand. `forget` drops the state of targets if they are idle. `led` returns the
    connections of the settings' targets, which are kept.
    """

    def __init__(
        self,
        rules: tuple[Fallback, ...],
        *,
        allow_http: bool,
        connections: OriginConnections,
        forget: Callable[[tuple[Target, ...]], bool],
        led: Callable[[], Iterable[Connection]] = tuple,
    ) -> None:
        self._rules = rules
        self._allow_http = allow_http
        self._forget = forget
        self._led = led
        self._kept: OrderedDict[tuple[str, bytes], KeptRoutes] = OrderedDict()
        self._connections = connections
        self._lock = new_lock()
        reset_in_child(self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        for kept in self._kept.values():
            kept.calls = 0  # the calls belong to the parent

    def routes(self, base_url: str, key: str | None) -> "KeptRoutes":
        """Return the routes of a request to this address; within the context they are not forgotten.

        Raises:
            ConfigurationError: the key would travel in the clear, or a fallback has no key.
        """
        digest = b"" if key is None else blake2b(key.encode(), key=_SALT, digest_size=16).digest()
        where = base_url, digest
        kept = self._use(where, None)
        if kept is None:  # making routes calls too much code to hold the lock
            kept = self._use(where, KeptRoutes(self._make(base_url, key), self._lock))
            assert kept is not None
        if len(self._kept) > MAX_ROUTES:
            self._drop_one()
        return kept

    def _use(self, where: tuple[str, bytes], made: "KeptRoutes | None") -> "KeptRoutes | None":
        """Return the kept routes, or the `made` ones, with one more call; None if there are neither."""
        with self._lock:
            kept = self._kept.get(where)
            if kept is not None:
                self._kept.move_to_end(where)
            elif made is not None:
                kept = self._kept[where] = made
            else:
                return None
            kept.calls += 1
            return kept

    def _make(self, base_url: str, key: str | None) -> Routes:
        origin = self.origin(base_url, key)
        netloc = urlsplit(origin.base_url).netloc
        return Routes(
            ProviderEndpoint(_NAMES.get(netloc, netloc), origin, allow_http=self._allow_http),
            self._rules,
            connect=self.connection,
        )

    def _drop_one(self) -> None:
        with self._lock:
            idle = [(where, kept) for where, kept in self._kept.items() if not kept.calls]
        for where, kept in idle:
            if not self._forget(kept.routes.own_targets()):
                continue
            with self._lock:
                if not kept.calls:  # still unused
                    self._kept.pop(where, None)
            return

    def origin(self, base_url: str, key: str | None) -> Origin:
        """Tie the key to its address; raise ConfigurationError if it would travel in the clear."""
        return origin_of(base_url, key, allow_http=self._allow_http)

    def connection(self, origin: Origin) -> Connection:
        """Return the one connection to an origin, for every path and key."""
        connection = self._connections.to(origin)
        if len(self._connections) > MAX_ROUTES:
            self._drop_connections(self._connections.place_of(origin))
        return connection

    def _drop_connections(self, newest: tuple[str, str]) -> None:
        with self._lock:
            used = {each for kept in self._kept.values() for each in kept.routes.connections()}
            used.update(self._led())
            last = self._connections.get(newest)
            for place, connection in tuple(self._connections.items()):
                if len(self._connections) <= MAX_ROUTES:
                    break
                if place != newest and (connection not in used or connection is last):
                    self._connections.pop(place, None)

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._connections.values())


class KeptRoutes(msgspec.Struct, eq=False):
    """Routes, and the number of calls that use them; changed under the lock of the resolver.

    `config` is that of the last call. It refers to the routes; the reverse would keep their connections alive.
    """

    routes: Routes
    _lock: Any
    config: TargetConfig | None = None
    calls: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.calls -= 1
