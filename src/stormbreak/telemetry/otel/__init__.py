"""Traces and metrics for OpenTelemetry, through its API only. The user chooses the SDK."""

from stormbreak.errors import ConfigurationError

try:
    import opentelemetry.trace  # noqa: F401 - checked here, so that the error can name the extra
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "traces need opentelemetry-api: pip install 'stormbreak[otel]'"
    ) from missing
