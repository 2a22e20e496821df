"""Attach listeners to an engine, or to any object that has one."""

from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.core.target_state import Listener
from stormbreak.drivers.listeners import Attached
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.logs import Logs


def attach(to: Any, *listeners: Listener) -> Attached:
    """Send every event of `to` to each of the `listeners` until the returned handle is detached.

    `to` is a client, settings, a transport of `stormbreak.httpx2` or `stormbreak.httpx`, a wrapped client, a `Resilient`
    or an engine. Attaching a listener twice changes nothing. For a batch, pass listeners to `run_job`. The handle has
    `detach()`, and is a context manager.

    Raises:
        ConfigurationError: `to` has no engine.
    """
    return Attached(engine_of(to), *listeners)


def log_to(to: Any, *, every: float = 1.0) -> Attached:
    """Log the decisions of `to` to the logger "stormbreak": see `attach` and `Logs`."""
    return attach(to, Logs(every=every))


def engine_of(owner: Any) -> Engine:
    """Return the engine of an object. Raises ConfigurationError if it has none."""
    found = owner if isinstance(owner, Engine) else getattr(owner, "engine", None)
    if isinstance(found, Engine):
        return found
    from stormbreak.http.transports.wrap import installed_transports  # noqa: PLC0415 - only when needed

    for transport in installed_transports(owner):
        return transport.engine
    raise ConfigurationError(
        f"{type(owner).__qualname__} has no engine: attach to a client, settings, a transport, a wrapped client,"
        " a Resilient or an engine"
    )
