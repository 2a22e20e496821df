"""Putting doors under a client that is there already, with all that it is set to: its transport, its proxies, its mounts."""

from collections.abc import Mapping
from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http.pricing import engine_for
from stormbreak.http.transports.sdk_transport import Door

_OWN = ("_transport", "_mounts")
"""Where httpx2 and httpx keep what a client sends through."""


def put_under(
    client: Any, doors: Mapping[type, type[Door]], policy: Policy | str | Engine, **settings: Any
) -> None:
    """Put a door over each transport that the client has, all of one engine; `doors` by the class of client.

    The client is one of the library, or one of an SDK, which has such a client.

    Raises:
        ConfigurationError: it is neither; or there is a door already, past which its proxies may lead; or it is closed.
    """
    http, kind = _found(client, doors)
    all_ = (http._transport, *http._mounts.values())  # noqa: SLF001 - there is no public way
    transports = {id(each): each for each in all_ if each is not None}
    behind = [each for each in transports.values() if isinstance(each, Door)]
    if len(behind) == len(transports):
        raise ConfigurationError("the client has a transport of stormbreak's already")
    if behind:
        raise ConfigurationError(
            "a proxy or mount of the client leads past its transport of stormbreak's:"
            " give the proxy to that, or wrap a client without it"
        )
    if http.is_closed:
        raise ConfigurationError("the client is closed")
    engine = policy if isinstance(policy, Engine) else engine_for(policy)
    made = {each: kind(engine, inner=inner, **settings) for each, inner in transports.items()}
    http._transport = made[id(http._transport)]  # noqa: SLF001
    for pattern, inner in http._mounts.items():  # noqa: SLF001
        http._mounts[pattern] = made.get(id(inner))  # noqa: SLF001 - None: the transport


def installed_transports(client: Any) -> list[Door]:
    """The doors that a client of the library sends through, or that of an SDK on one; none if it was not wrapped."""
    for one in (client, getattr(client, "_client", None)):
        mounts = getattr(one, "_mounts", None)
        inners = mounts.values() if isinstance(mounts, Mapping) else ()
        transports = (getattr(one, "_transport", None), *inners)
        doors = [each for each in transports if isinstance(each, Door)]
        if doors:
            return doors
    return []


def _found(client: Any, doors: Mapping[type, type[Door]]) -> tuple[Any, type[Door]]:
    """The HTTP client in `client`, and what goes under it."""
    for one in (client, getattr(client, "_client", None)):
        for http, door in doors.items():
            if isinstance(one, http) and all(hasattr(one, name) for name in _OWN):
                return one, door
    inner = getattr(client, "_client", client)
    name = f"{type(inner).__module__.partition('.')[0]}.{type(inner).__qualname__}"
    wanted = " or ".join(f"{each.__module__}.{each.__qualname__}" for each in doors)
    raise ConfigurationError(f"only {wanted}, or an SDK on one, can be wrapped, got {name}")
