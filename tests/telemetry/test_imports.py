"""Logs need only the standard library. Metrics and traces name the package that they need."""

import subprocess
import sys

from table_test import table_test


def output_of(code):
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_logs_load_nothing_heavy():
    code = "import sys; from stormbreak.telemetry import log_to, describe; print(*sys.modules)"
    loaded = set(output_of(code).split())

    assert "stormbreak.telemetry.logs" in loaded
    assert not loaded & {"httptools", "asyncio", "prometheus_client", "pydantic", "opentelemetry"}


@table_test(
    ("name", "library", "message"),
    [
        (
            "Metrics",
            "prometheus_client",
            "metrics need prometheus_client: pip install 'stormbreak[metrics]'\n",
        ),
        (
            "Tracing",
            "opentelemetry",
            "traces need opentelemetry-api: pip install 'stormbreak[otel]'\n",
        ),
    ],
)
def test_metrics_and_traces_without_the_extra_name_the_package(name, library, message):
    code = f"""
import sys
sys.modules[{library!r}] = None  # as if it were not installed
from stormbreak import ConfigurationError
from stormbreak.telemetry import log_to
try:
    from stormbreak.telemetry import {name}
except ConfigurationError as error:
    print(error)
"""
    assert output_of(code) == message


def test_tracing_needs_no_sdk():
    code = """
import sys
sys.modules["opentelemetry.sdk"] = sys.modules["opentelemetry.semconv"] = None
from stormbreak.telemetry import Tracing
Tracing()
print("prometheus_client" in sys.modules)
"""
    assert output_of(code) == "False\n"
