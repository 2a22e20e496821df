"""A port on a Unix socket: for its owner alone, stale ones are taken over, others' things are left alone."""

import errno
import http.client
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.status_server import MAX_SOCKET_PATH, SocketFile, StatusServer

PAGES = {"/hello": lambda: ("text/plain", b"hello")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl.sock"


def ask(path):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = SocketFile(path).connected(5)
    connection.request("GET", "/hello")
    try:
        return connection.getresponse().read()
    finally:
        connection.close()


def test_it_serves_its_owner_and_is_gone_at_the_end(path):
    with StatusServer(PAGES, path=path) as port:
        assert ask(path) == b"hello"
        assert port.address == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_may_not_open_it(path):
    path.parent.chmod(0o755)
    code = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect("{path.name}")
except PermissionError:
    print("kept out")
"""
    with StatusServer(PAGES, path=path):
        command = [sys.executable, "-c", code]
        # The folders above are not theirs: from within, only the socket itself is in the way.
        said = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
    assert said.stdout == "kept out\n", said.stderr


def test_a_stale_one_is_taken_over(path):
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    assert path.is_socket()
    with StatusServer(PAGES, path=path):
        assert ask(path) == b"hello"
    assert not path.exists()


def test_one_in_use_is_left_alone(path):
    with StatusServer(PAGES, path=path):
        with pytest.raises(ConfigurationError) as caught:
            StatusServer(PAGES, path=path)
        assert str(caught.value) == f"{path}: in use"
        assert ask(path) == b"hello"


def test_what_is_no_socket_is_left_alone(path):
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists and is not a socket"):
        StatusServer(PAGES, path=path)
    assert path.read_text() == "mine"


def test_a_link_is_not_followed(path, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("mine")
    path.symlink_to(theirs)
    with pytest.raises(ConfigurationError, match="exists and is not a socket"):
        StatusServer(PAGES, path=path)
    assert theirs.read_text() == "mine"


def test_what_took_its_place_is_left_alone(path):
    port = StatusServer(PAGES, path=path)
    path.unlink()
    path.write_text("mine")
    port.close()
    assert path.read_text() == "mine"


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        StatusServer(PAGES, path=tmp_path / "none" / "s")


def test_too_long_a_path_is_said(tmp_path):
    path = tmp_path / ("n" * (MAX_SOCKET_PATH - len(str(tmp_path)))) / "s"
    with pytest.raises(
        ConfigurationError, match=f"too long for a socket: {MAX_SOCKET_PATH} bytes at most"
    ):
        StatusServer(PAGES, path=path)


def test_in_the_working_directory_no_path_is_too_long(tmp_path, monkeypatch):
    folder = tmp_path / ("n" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with StatusServer(PAGES, path=folder / "s"):
        assert ask(folder / "s") == b"hello"
    assert not (folder / "s").exists()


def test_it_closes_where_its_path_has_become_too_long(tmp_path, monkeypatch):
    folder = tmp_path / ("n" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    port = StatusServer(PAGES, path=folder / "s")
    monkeypatch.chdir("/")
    port.close()
    assert not (folder / "s").exists()
    assert not [each for each in threading.enumerate() if each.name == "stormbreak port"]


def test_without_a_working_directory_a_whole_path_is_enough(path, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with StatusServer(PAGES, path=path):
        assert ask(path) == b"hello"
    with pytest.raises(ConfigurationError, match=r"^s: no such file or directory$"):
        StatusServer(PAGES, path=Path("s"))


def test_where_no_file_is_left_to_open_that_is_said(path, monkeypatch):
    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(ConfigurationError, match=r"^cannot listen: Too many open files$"):
        StatusServer(PAGES, path=path)
