"""stormbreak keeps applications on LLM APIs working through rate limits, outages and traffic peaks.

The public names. Each is loaded when it is first used, so that importing stormbreak stays quick.
"""

from typing import TYPE_CHECKING

from stormbreak.lazy_import import on_demand

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stormbreak.core.breaker_policy import BreakerPolicy as BreakerPolicy
    from stormbreak.core.policy import Policy as Policy
    from stormbreak.core.tenant import TenantLimits as TenantLimits
    from stormbreak.drivers.circuit_breaker import CircuitBreaker as CircuitBreaker
    from stormbreak.drivers.explain import explain as explain
    from stormbreak.drivers.judge import Judge as Judge
    from stormbreak.drivers.scope import scope as scope
    from stormbreak.errors import CallError as CallError
    from stormbreak.errors import CircuitOpenError as CircuitOpenError
    from stormbreak.errors import ClientClosedError as ClientClosedError
    from stormbreak.errors import ConfigurationError as ConfigurationError
    from stormbreak.errors import RejectedError as RejectedError
    from stormbreak.errors import StormbreakError as StormbreakError
    from stormbreak.errors import StreamBrokenError as StreamBrokenError
    from stormbreak.errors import UpstreamError as UpstreamError
    from stormbreak.functions.resilient import Resilient as Resilient
    from stormbreak.functions.resilient import resilient as resilient
    from stormbreak.http.client import AsyncClient as AsyncClient
    from stormbreak.http.settings import LiveSettings as LiveSettings
    from stormbreak.http.settings import load as load
    from stormbreak.http.stream import Stream as Stream
    from stormbreak.http.sync_client import BlockingStream as BlockingStream
    from stormbreak.http.sync_client import Client as Client
    from stormbreak.types import Answer as Answer
    from stormbreak.types import Priority as Priority
    from stormbreak.types import Target as Target
    from stormbreak.types import Usage as Usage
    from stormbreak.types import Verdict as Verdict

_HOMES = {
    "Answer": "stormbreak.types",
    "AsyncClient": "stormbreak.http.client",
    "BlockingStream": "stormbreak.http.sync_client",
    "BreakerPolicy": "stormbreak.core.breaker_policy",
    "CallError": "stormbreak.errors",
    "CircuitBreaker": "stormbreak.drivers.circuit_breaker",
    "CircuitOpenError": "stormbreak.errors",
    "Client": "stormbreak.http.sync_client",
    "ClientClosedError": "stormbreak.errors",
    "ConfigurationError": "stormbreak.errors",
    "Judge": "stormbreak.drivers.judge",
    "LiveSettings": "stormbreak.http.settings",
    "Policy": "stormbreak.core.policy",
    "Priority": "stormbreak.types",
    "RejectedError": "stormbreak.errors",
    "Resilient": "stormbreak.functions.resilient",
    "StormbreakError": "stormbreak.errors",
    "Stream": "stormbreak.http.stream",
    "StreamBrokenError": "stormbreak.errors",
    "Target": "stormbreak.types",
    "TenantLimits": "stormbreak.core.tenant",
    "UpstreamError": "stormbreak.errors",
    "Usage": "stormbreak.types",
    "Verdict": "stormbreak.types",
    "explain": "stormbreak.drivers.explain",
    "resilient": "stormbreak.functions.resilient",
    "load": "stormbreak.http.settings",
    "scope": "stormbreak.drivers.scope",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names only

__getattr__, __dir__ = on_demand(__name__, _HOMES)
