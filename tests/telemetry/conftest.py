import pytest
from stormy import played
from traces import Traces

from stormbreak.telemetry import Metrics


@pytest.fixture(scope="session")
def play():
    """A run with everything in it, what the listeners heard, its metrics and its traces."""
    metrics, traces, heard = Metrics(), Traces(), []
    return played(metrics, heard.append, traces.listener), heard, metrics, traces


@pytest.fixture(scope="session")
def run(play):
    """The run, its metrics, and what the listeners heard."""
    told, heard, metrics, _ = play
    return told, metrics, heard
