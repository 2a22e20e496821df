"""The socket folder of the store of a parent process."""

import os
import tempfile
from pathlib import Path

import pytest

from stormbreak.fleet.parent_store import ParentClient, ParentStore


@pytest.fixture
def folder(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="sb-") as name:  # the path of a socket must be short
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_the_next_store_removes_the_socket_folder_of_a_killed_parent(folder):
    killed = ParentStore().__enter__()
    killed._server.shutdown()
    killed._server.server_close()
    os.close(killed._lock)
    starting = ParentStore()
    with ParentStore() as alive, ParentStore() as last:
        assert {each.folder.name for each in (starting, alive, last)} == names_in(folder)
        client = ParentClient(alive.url)
        assert client.beat([]) == []
        client.close()
    assert names_in(folder) == {starting.folder.name}
