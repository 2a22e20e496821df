"""The socket folder of the store of a parent process."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from stormbreak.errors import ConfigurationError
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


def test_a_socket_that_somebody_serves_stays_although_its_folder_has_no_lock(folder):
    """Such as that of a parent of an older version, which still runs during an update."""
    older = folder / "stormbreak-fleet-older"
    older.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(older / "socket"))
        served.listen()
        ParentStore().folder.rmdir()
        assert (older / "socket").is_socket()
    ParentStore().folder.rmdir()
    assert not older.exists()


def test_a_folder_that_is_gone_is_a_configuration_error(folder):
    """Between the start of a batch and that of its workers, minutes may pass: INPUT is read."""
    store = ParentStore()
    store.folder.rmdir()
    with pytest.raises(ConfigurationError, match=r"no socket for the workers: .*set TMPDIR"), store:
        pass
