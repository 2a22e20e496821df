import json
import time
from pathlib import Path

import pytest
from model_server import KEY, running

from stormbreak import AsyncClient

FIGURES = Path("bench-results") / "real.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A server with default settings: a new request interrupts the running stream."""
    with running(tmp_path_factory.mktemp("model") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def patient_model(tmp_path_factory):
    """A server that queues requests."""
    with running(tmp_path_factory.mktemp("model") / "log", interrupts=False) as server:
        yield server


@pytest.fixture
def client_of():
    """Make clients with the key of the server."""

    def make(server, **more):
        return AsyncClient(base_url=server.base_url, api_key=KEY, model="smollm2", **more)

    return make


@pytest.fixture(scope="session")
def figure():
    """Record a measurement; the end of the session writes all of them to a file."""
    figures = {}
    yield figures.__setitem__
    if figures:
        FIGURES.parent.mkdir(exist_ok=True)
        figures["date"] = time.strftime("%Y-%m-%d")
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
