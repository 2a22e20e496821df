"""Logs need nothing but Python; metrics say what they need."""

import subprocess
import sys

from table_test import table_test


def said_by(code):
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_logs_load_nothing_heavy():
    code = "import sys; from stormbreak.telemetry import log_to, describe; print(*sys.modules)"
    loaded = set(said_by(code).split())

    assert "stormbreak.telemetry.logs" in loaded
    assert not loaded & {"httptools", "asyncio", "prometheus_client", "pydantic", "opentelemetry"}


@table_test(
    ("name", "library", "said"),
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
def test_without_the_extra_they_say_what_is_missing(name, library, said):
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
    assert said_by(code) == said


def test_traces_need_no_sdk():
    code = """
import sys
sys.modules["opentelemetry.sdk"] = sys.modules["opentelemetry.semconv"] = None
from stormbreak.telemetry import Tracing
Tracing()
print("prometheus_client" in sys.modules)
"""
    assert said_by(code) == "False\n"
