"""Put our transports under an existing client, over its own transport, proxies and mounts."""

from collections.abc import Mapping
from typing import Any, TypeVar

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http.policy_in_force import engine_for
from stormbreak.http.settings import LiveSettings
from stormbreak.http.transports.sdk_transport import SdkTransport

_OWN = ("_transport", "_mounts")  # where httpx2 and httpx keep the transports of a client


Client = TypeVar("Client")


def put_under(
    client: Client,
    kinds: Mapping[type, type[SdkTransport]],
    policy: Policy | str | Engine,
    **settings: Any,
) -> Client:
    """Put our transports over each transport of the client, with one engine; `kinds` are by the class of client.

    Returns the client.

    Raises:
        ConfigurationError: it is neither a client of the library nor an SDK with one; or it is already wrapped, in
        whole or
            in part; or it is closed.
    """
    if isinstance(policy, LiveSettings):
        raise ConfigurationError("wrap takes a policy: give the settings to a transport")
    http, kind = _http_client(client, kinds)
    all_ = (http._transport, *http._mounts.values())  # noqa: SLF001 - there is no public way
    transports = {id(each): each for each in all_ if each is not None}
    ours = [each for each in transports.values() if isinstance(each, SdkTransport)]
    if len(ours) == len(transports):
        raise ConfigurationError("the client already has a stormbreak transport")
    if ours:
        raise ConfigurationError(
            "a proxy or mount of the client bypasses its stormbreak transport:"
            " give the proxy to the transport, or wrap a client without it"
        )
    if http.is_closed:
        raise ConfigurationError("the client is closed")
    engine = policy if isinstance(policy, Engine) else engine_for(policy)
    made = {each: kind(engine, inner=inner, **settings) for each, inner in transports.items()}
    http._transport = made[id(http._transport)]  # noqa: SLF001
    for pattern, inner in http._mounts.items():  # noqa: SLF001
        http._mounts[pattern] = made.get(id(inner))  # noqa: SLF001 - None: the transport
    return client


def installed_transports(client: Any) -> list[SdkTransport]:
    """Return our transports under a client of the library, or under an SDK with one."""
    for each in (client, getattr(client, "_client", None)):
        mounts = getattr(each, "_mounts", None)
        mounted = mounts.values() if isinstance(mounts, Mapping) else ()
        transports = (getattr(each, "_transport", None), *mounted)
        ours = [transport for transport in transports if isinstance(transport, SdkTransport)]
        if ours:
            return ours
    return []


def _http_client(
    client: Any, kinds: Mapping[type, type[SdkTransport]]
) -> tuple[Any, type[SdkTransport]]:
    """Return the HTTP client of `client`, and the kind of transport for it."""
    for each in (client, getattr(client, "_client", None)):
        for http, kind in kinds.items():
            if isinstance(each, http) and all(hasattr(each, name) for name in _OWN):
                return each, kind
    inner = getattr(client, "_client", client)
    name = f"{type(inner).__module__.partition('.')[0]}.{type(inner).__qualname__}"
    wanted = " or ".join(f"{each.__module__}.{each.__qualname__}" for each in kinds)
    raise ConfigurationError(f"only {wanted}, or an SDK on one, can be wrapped, got {name}")
