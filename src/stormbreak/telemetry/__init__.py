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
    "Attached": "stormbreak.drivers.listeners",
    "Logs": "stormbreak.telemetry.logs",
    "Metrics": "stormbreak.telemetry.prometheus",
    "NAMES": "stormbreak.telemetry.event_text",
    "Tracing": "stormbreak.telemetry.otel.tracing",
    "attach": "stormbreak.telemetry.attachment",
    "dashboard": "stormbreak.telemetry.event_metrics",
    "describe": "stormbreak.telemetry.event_text",
    "log_to": "stormbreak.telemetry.attachment",
    "name_of": "stormbreak.telemetry.event_text",
    "serve": "stormbreak.telemetry.status_pages",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names only

__getattr__, __dir__ = on_demand(__name__, _HOMES)
