"""The status server on a Unix socket: only for its owner, replaces stale sockets, keeps foreign files."""

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


def test_the_socket_is_private_and_removed_at_the_end(path):
    with StatusServer(PAGES, path=path) as port:
        assert ask(path) == b"hello"
        assert port.address == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_cannot_open_the_socket(path):
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
        # The other user cannot enter the folders above. From within, only the socket itself denies access.
        done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
    assert done.stdout == "kept out\n", done.stderr


def test_a_stale_socket_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.is_socket()
    with StatusServer(PAGES, path=path):
        assert ask(path) == b"hello"
    assert not path.exists()


def test_a_socket_in_use_is_not_replaced(path):
    with StatusServer(PAGES, path=path):
        with pytest.raises(ConfigurationError) as caught:
            StatusServer(PAGES, path=path)
        assert str(caught.value) == f"{path}: in use"
        assert ask(path) == b"hello"


def test_a_file_that_is_no_socket_is_not_replaced(path):
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists and is not a socket"):
        StatusServer(PAGES, path=path)
    assert path.read_text() == "mine"


def test_a_symbolic_link_is_not_replaced(path, tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    path.symlink_to(target)
    with pytest.raises(ConfigurationError, match="exists and is not a socket"):
        StatusServer(PAGES, path=path)
    assert target.read_text() == "mine"


def test_close_keeps_a_file_that_replaced_the_socket(path):
    port = StatusServer(PAGES, path=path)
    path.unlink()
    path.write_text("mine")
    port.close()
    assert path.read_text() == "mine"


def test_a_socket_in_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        StatusServer(PAGES, path=tmp_path / "none" / "s")


def test_a_path_too_long_for_a_socket_is_rejected(tmp_path):
    path = tmp_path / ("n" * (MAX_SOCKET_PATH - len(str(tmp_path)))) / "s"
    with pytest.raises(
        ConfigurationError, match=f"too long for a socket: at most {MAX_SOCKET_PATH} bytes"
    ):
        StatusServer(PAGES, path=path)


def test_a_long_path_in_the_working_directory_works(tmp_path, monkeypatch):
    folder = tmp_path / ("n" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with StatusServer(PAGES, path=folder / "s"):
        assert ask(folder / "s") == b"hello"
    assert not (folder / "s").exists()


def test_close_works_after_a_change_of_the_working_directory(tmp_path, monkeypatch):
    folder = tmp_path / ("n" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    port = StatusServer(PAGES, path=folder / "s")
    monkeypatch.chdir("/")
    port.close()
    assert not (folder / "s").exists()
    assert not [each for each in threading.enumerate() if each.name == "stormbreak port"]


def test_an_absolute_path_works_without_a_working_directory(path, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with StatusServer(PAGES, path=path):
        assert ask(path) == b"hello"
    with pytest.raises(ConfigurationError, match=r"^s: no such file or directory$"):
        StatusServer(PAGES, path=Path("s"))


def test_too_many_open_files_is_an_error_of_one_line(path, monkeypatch):
    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(ConfigurationError, match=r"^cannot listen: Too many open files$"):
        StatusServer(PAGES, path=path)
