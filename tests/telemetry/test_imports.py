"""Logs need nothing but Python; metrics say what they need."""

import subprocess
import sys


def said_by(code):
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_logs_load_nothing_heavy():
    code = "import sys; from stormbreak.telemetry import log_to, words_for; print(*sys.modules)"
    loaded = set(said_by(code).split())

    assert "stormbreak.telemetry.logs" in loaded
    assert not loaded & {"aiohttp", "asyncio", "prometheus_client", "pydantic", "opentelemetry"}


def test_without_the_extra_metrics_say_what_is_missing():
    code = """
import sys
sys.modules["prometheus_client"] = None  # as if it were not installed
from stormbreak import ConfigurationError
from stormbreak.telemetry import log_to
try:
    from stormbreak.telemetry import Metrics
except ConfigurationError as error:
    print(error)
"""
    assert said_by(code) == (
        "metrics need prometheus_client, which comes with stormbreak[metrics]\n"
    )
