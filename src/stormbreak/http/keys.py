"""Keys that a function gives, since they change: asked for each attempt, so that a retry has the key of its own time."""

import asyncio
import inspect
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from stormbreak.errors import ConfigurationError
from stormbreak.http.origin import Origin, origin_of
from stormbreak.types import Outcome, Verdict

KeyFunction: TypeAlias = Callable[[], str | Awaitable[str]]
"""Gives a key, or a coroutine that does. It runs on the event loop: one that blocks should be a coroutine function."""


class DynamicKey:
    """The key of one origin. Until it is asked, a random word stands for it, and tells it from other keys."""

    def __init__(self, function: KeyFunction) -> None:
        self._function = function
        self._last: tuple[str, Origin] | None = None
        self.stand_in = secrets.token_hex(16)

    async def ask(self, origin: Origin, *, allow_http: bool) -> Origin | Outcome:
        """The origin with its key; where the function fails, an attempt that failed for it. Never its message: it may hold the key."""
        try:
            key: Any = self._function()
            if inspect.isawaitable(key):
                key = await key
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the user's
            return _failed(type(error).__name__)
        if not isinstance(key, str):
            return _failed(f"it gave a {type(key).__name__}")
        try:
            return self._origin(origin, key, allow_http=allow_http)
        except ConfigurationError as error:
            return _failed(str(error))

    def _origin(self, origin: Origin, key: str, *, allow_http: bool) -> Origin:
        last = self._last
        if last is not None and last[0] == key and last[1].base_url == origin.base_url:
            return last[1]
        made = origin_of(origin.base_url, key, allow_http=allow_http)
        self._last = key, made
        return made


def _failed(why: str) -> Outcome:
    return Outcome(Verdict.AUTH, detail=f"the function that gives the key failed: {why}")
