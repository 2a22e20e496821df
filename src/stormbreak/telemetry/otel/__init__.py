"""Traces and metrics for OpenTelemetry, by its API alone: which SDK gets them, if any, is the user's choice."""

from stormbreak.errors import ConfigurationError

try:
    import opentelemetry.trace  # noqa: F401 - asked for by name, so that the error can say what brings it
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "traces need opentelemetry-api, which comes with stormbreak[otel]"
    ) from missing
