import pytest
from stormy import played
from traces import Traces

from stormbreak.telemetry import Metrics


@pytest.fixture(scope="session")
def play():
    """A run with every kind of event: its facts, its events, its metrics and its traces."""
    metrics, traces, events = Metrics(), Traces(), []
    return played(metrics, events.append, traces.listener), events, metrics, traces


@pytest.fixture(scope="session")
def run(play):
    """The facts of the run, its metrics and its events."""
    facts, events, metrics, _ = play
    return facts, metrics, events
