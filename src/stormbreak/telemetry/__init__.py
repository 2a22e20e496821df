"""What the engine does, told to logs, metrics, traces and people: listeners of its events, and nothing more.

The public names. Each is loaded when it is first used: metrics need an extra.
"""

from typing import TYPE_CHECKING

from stormbreak.on_demand import on_demand

if TYPE_CHECKING:
    from stormbreak.drivers.listening import Attached as Attached
    from stormbreak.telemetry.attaching import attach as attach
    from stormbreak.telemetry.attaching import log_to as log_to
    from stormbreak.telemetry.grafana import dashboard as dashboard
    from stormbreak.telemetry.logs import Logs as Logs
    from stormbreak.telemetry.names import NAMES as NAMES
    from stormbreak.telemetry.names import name_of as name_of
    from stormbreak.telemetry.otel.tracing import Tracing as Tracing
    from stormbreak.telemetry.prometheus import Metrics as Metrics
    from stormbreak.telemetry.serving import serve as serve
    from stormbreak.telemetry.words import words_for as words_for

_HOMES = {
    "Attached": "stormbreak.drivers.listening",
    "Logs": "stormbreak.telemetry.logs",
    "Metrics": "stormbreak.telemetry.prometheus",
    "NAMES": "stormbreak.telemetry.names",
    "Tracing": "stormbreak.telemetry.otel.tracing",
    "attach": "stormbreak.telemetry.attaching",
    "dashboard": "stormbreak.telemetry.grafana",
    "log_to": "stormbreak.telemetry.attaching",
    "name_of": "stormbreak.telemetry.names",
    "serve": "stormbreak.telemetry.serving",
    "words_for": "stormbreak.telemetry.words",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names only

__getattr__, __dir__ = on_demand(__name__, _HOMES)
