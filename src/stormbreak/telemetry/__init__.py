"""Logs, metrics, traces and a status server: listeners to the events of an engine.

Each public name is loaded on first use, since some need an extra.
"""

from typing import TYPE_CHECKING

from stormbreak.lazy_import import on_demand

if TYPE_CHECKING:
    from stormbreak.drivers.listeners import Attached as Attached
    from stormbreak.telemetry.attachment import attach as attach
    from stormbreak.telemetry.attachment import log_to as log_to
    from stormbreak.telemetry.event_metrics import dashboard as dashboard
    from stormbreak.telemetry.event_text import NAMES as NAMES
    from stormbreak.telemetry.event_text import describe as describe
    from stormbreak.telemetry.event_text import name_of as name_of
    from stormbreak.telemetry.logs import Logs as Logs
    from stormbreak.telemetry.otel.tracing import Tracing as Tracing
    from stormbreak.telemetry.prometheus import Metrics as Metrics
    from stormbreak.telemetry.status_pages import serve as serve

_HOMES = {
    "stormbreak.drivers.listeners": "Attached",
    "stormbreak.telemetry.attachment": "attach log_to",
    "stormbreak.telemetry.event_metrics": "dashboard",
    "stormbreak.telemetry.event_text": "NAMES describe name_of",
    "stormbreak.telemetry.logs": "Logs",
    "stormbreak.telemetry.otel.tracing": "Tracing",
    "stormbreak.telemetry.prometheus": "Metrics",
    "stormbreak.telemetry.status_pages": "serve",
}

__all__, __getattr__, __dir__ = on_demand(__name__, _HOMES)
