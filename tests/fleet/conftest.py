"""Stores for the tests of the fleet."""

import pytest
from fleet_stores import KINDS, Server


@pytest.fixture(scope="module", params=KINDS)
def server(request, tmp_path_factory):
    """Yield a running server of each kind, for a module."""
    server = Server(request.param, tmp_path_factory.mktemp(request.param)).start()
    yield server
    server.kill()


@pytest.fixture
def own_server(tmp_path):
    """Yield a Valkey server that the test may freeze or kill."""
    server = Server("valkey", tmp_path).start()
    yield server
    server.thaw()
    server.kill()
