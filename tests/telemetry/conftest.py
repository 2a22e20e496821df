import pytest
from stormy import played

from stormbreak.telemetry import Metrics


@pytest.fixture(scope="package")
def run():
    """A run with everything in it, its metrics, and what the listeners heard."""
    metrics, heard = Metrics(), []
    return played(metrics, heard.append), metrics, heard
