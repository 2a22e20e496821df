"""Where the requests at a door lead: routes by origin and key, wires by origin.

Keys that rotate would pile up: beyond a bound, the routes that were not used for longest are forgotten, and what the
engine knows of their targets, unless a call is under way there or they are to be left alone. So do hosts: beyond as many
wires, those that no route leads over go. Whatever is still read holds its pool, which closes by itself afterwards.
"""

import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from urllib.parse import urlsplit

from stormbreak.core.fallback import Fallback
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.http.endpoint import Origin, origin_of
from stormbreak.http.environment import ProviderEndpoint
from stormbreak.http.h1.connection import Wire
from stormbreak.http.routes import Routes
from stormbreak.llm.providers import PRESETS
from stormbreak.types import Target

MOST = 256  # routes that are kept; nobody uses so many keys at a time

_SALT = secrets.token_bytes(16)
_NAMES = {urlsplit(known.base_url).netloc: known.name for known in PRESETS.values()}


class OriginResolver:
    """The routes of one door, made as its requests come.

    `connect` makes a wire to an origin. `forget` drops what is known of targets, if they are idle.
    """

    def __init__(
        self,
        rules: tuple[Fallback, ...],
        *,
        allow_http: bool,
        connect: Callable[[Origin], Wire],
        forget: Callable[[tuple[Target, ...]], bool],
    ) -> None:
        self._rules = rules
        self._allow_http = allow_http
        self._connect = connect
        self._forget = forget
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()
        self._wires: dict[tuple[str, str], Wire] = {}
        self._lock = new_lock()
        reset_in_child(self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        for kept in self._kept.values():
            kept.calls = 0  # of the parent

    @contextmanager
    def routes(self, base_url: str, key: str | None) -> Iterator[Routes]:
        """Where a request to this address may lead; not forgotten within.

        Raises:
            ConfigurationError: the key would travel in the clear, or a fallback lacks its own.
        """
        where = base_url, _digest(key)
        kept = self._used(where, None)
        if kept is None:  # what makes routes calls too much to be done under the lock
            kept = self._used(where, _Kept(self._made(base_url, key)))
            assert kept is not None
        if len(self._kept) > MOST:
            self._drop_one()
        try:
            yield kept.routes
        finally:
            with self._lock:
                kept.calls -= 1

    def _used(self, where: tuple[str, bytes], made: "_Kept | None") -> "_Kept | None":
        """The routes that are kept, or those that were made, with one call more; None where there are neither."""
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

    def _made(self, base_url: str, key: str | None) -> Routes:
        origin = self.origin(base_url, key)
        netloc = urlsplit(origin.base_url).netloc
        return Routes(
            ProviderEndpoint(_NAMES.get(netloc, netloc), origin),
            self._rules,
            allow_http=self._allow_http,
            environ=os.environ,
            connect=self.wire,
        )

    def _drop_one(self) -> None:
        with self._lock:
            idle = [(where, kept) for where, kept in self._kept.items() if not kept.calls]
        for where, kept in idle:
            if not self._forget(kept.routes.own()):
                continue
            with self._lock:
                if not kept.calls:  # still
                    self._kept.pop(where, None)
            return

    def origin(self, base_url: str, key: str | None) -> Origin:
        """Tie the key to its address; raise ConfigurationError where it would travel in the clear."""
        return origin_of(base_url, key, allow_http=self._allow_http)

    def wire(self, origin: Origin) -> Wire:
        """The one wire to an origin, whatever the path and the key."""
        parts = urlsplit(origin.base_url)
        place = parts.scheme, parts.netloc
        wire = self._wires.get(place)
        if wire is None:  # several threads may find that: one wire is kept
            wire = self._wires.setdefault(place, self._connect(origin))
            if len(self._wires) > MOST:
                self._drop_wires(place)
        return wire

    def _drop_wires(self, newest: tuple[str, str]) -> None:
        with self._lock:
            needed = {wire for kept in self._kept.values() for wire in kept.routes.wires()}
            for place, wire in tuple(self._wires.items()):
                if len(self._wires) <= MOST:
                    break
                if place != newest and (wire not in needed or wire is self._wires[newest]):
                    self._wires.pop(place, None)

    def wires(self) -> tuple[Wire, ...]:
        """All there are."""
        return tuple(self._wires.values())


def _digest(key: str | None) -> bytes:
    """What stands for a key where it might be shown."""
    return b"" if key is None else blake2b(key.encode(), key=_SALT, digest_size=16).digest()


class _Kept:
    """Routes, and how many calls are under way there; changed under the lock of their places."""

    __slots__ = ("calls", "routes")

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.calls = 0
