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
    "stormbreak.core.breaker_policy": "BreakerPolicy",
    "stormbreak.core.policy": "Policy",
    "stormbreak.core.tenant": "TenantLimits",
    "stormbreak.drivers.circuit_breaker": "CircuitBreaker",
    "stormbreak.drivers.explain": "explain",
    "stormbreak.drivers.judge": "Judge",
    "stormbreak.drivers.scope": "scope",
    "stormbreak.errors": "CallError CircuitOpenError ClientClosedError ConfigurationError RejectedError StormbreakError StreamBrokenError UpstreamError",
    "stormbreak.functions.resilient": "Resilient resilient",
    "stormbreak.http.client": "AsyncClient",
    "stormbreak.http.settings": "LiveSettings load",
    "stormbreak.http.stream": "Stream",
    "stormbreak.http.sync_client": "BlockingStream Client",
    "stormbreak.types": "Answer Priority Target Usage Verdict",
}

__all__, __getattr__, __dir__ = on_demand(__name__, _HOMES)
