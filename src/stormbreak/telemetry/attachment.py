"""Letting listeners hear what an engine does, whatever the engine is in."""

from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.core.target_state import Listener
from stormbreak.drivers.listeners import Attached
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.logs import Logs


def attach(what: Any, *listeners: Listener) -> Attached:
    """Have each of the `listeners` hear every event of `what`, and look at what stands where, until it is detached.

    `what` is a client, settings, a transport of `stormbreak.httpx2` or `stormbreak.httpx`, a client that was wrapped, a
    `Resilient`, or an engine. To be attached twice makes no difference. A batch takes its listeners in `run_job`.
    What is returned has `detach()`, and may stand in a `with`.

    Raises:
        ConfigurationError: there is no engine in it.
    """
    return Attached(engine_of(what), *listeners)


def log_to(what: Any, *, every: float = 1.0) -> Attached:
    """Log the decisions of `what` to the logger "stormbreak", until it is detached.

    `attach` tells what it may be, `Logs` what is logged.
    """
    return attach(what, Logs(every=every))


def engine_of(what: Any) -> Engine:
    """The engine in what has one.

    Raises:
        ConfigurationError: there is none.
    """
    found = what if isinstance(what, Engine) else getattr(what, "engine", None)
    if isinstance(found, Engine):
        return found
    from stormbreak.http.transports.wrap import installed_transports  # noqa: PLC0415 - it needs aiohttp

    for door in installed_transports(what):
        return door.engine
    raise ConfigurationError(
        "only what has an engine can be listened to: a client, settings, a transport, a wrapped client,"
        f" a Resilient or an engine; got {type(what).__qualname__}"
    )
