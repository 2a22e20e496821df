"""`stormbreak top` without a batch or with another server: one line and exit code 2."""

import os
import socket
import threading

import pytest
from batches import one_line

from stormbreak.cli import top
from stormbreak.cli.main import main
from stormbreak.telemetry.status_server import StatusServer


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run `top` in this process, in an empty folder; return its one line of error."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        assert main(["top", *map(str, args)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return one_line(err)

    return call


def test_an_invalid_target_is_an_error_of_one_line(refused):
    for target, message in (
        ("nothing.jsonl", "nothing.jsonl: not the OUTPUT of a batch, a socket or a port"),
        ("0", "0: a port is from 1 to 65535"),
        ("65536", "65536: a port is from 1 to 65535"),
        (
            "example.com:80",
            "example.com:80: not this machine; a status server listens on 127.0.0.1 only",
        ),
        (
            "http://10.0.0.1:80/x",
            "http://10.0.0.1:80/x: not this machine; a status server listens on 127.0.0.1 only",
        ),
        ("https://localhost:80", "https://localhost:80: use http: a status server has no TLS"),
        ("http://[::1", "http://[::1: not a URL"),
        ("http://localhost:x/", "http://localhost:x/: not a URL"),
        ("\x1b[31mx", "\\x1b[31mx: not the OUTPUT of a batch, a socket or a port"),
        ("x" * 5_000, None),
    ):
        line = refused(target)
        assert message is None or line == message


def test_a_refused_connection_is_an_error(refused, free_port):
    assert refused(free_port) == f"127.0.0.1:{free_port}: nothing answers there: connection refused"
    assert refused().startswith("no batch is running in this folder")


def test_top_needs_a_name_when_several_batches_run(monkeypatch, tmp_path):
    monkeypatch.setattr(top, "held", lambda _: True)
    for name in ("a.jsonl.sock", "b.jsonl.sock"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(tmp_path / name))
    with pytest.raises(top.ConfigurationError, match=r": .*a\.jsonl, .*b\.jsonl; give one of them"):
        top._only_one(tmp_path)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (("text/html", b"<html>secret"), "the response is not a stormbreak state"),
        (
            ("application/json", b'{"format": 7}'),
            "another version of stormbreak answered (format 7, not 1)",
        ),
        (("application/json", b" " * (5 << 20)), "the response is too large for a state"),
        (None, "/state has status 404"),
    ],
)
def test_a_server_that_is_not_stormbreak_is_an_error(refused, page, message):
    with StatusServer({} if page is None else {"/state": lambda: page}) as port:
        line = refused(port.port)
        assert line == f"127.0.0.1:{port.port}: not a stormbreak status server: {message}"


def test_a_server_that_does_not_use_http_is_an_error(refused):
    def speak():
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"220 mail.example ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=speak, daemon=True).start()
        port = server.getsockname()[1]
        assert "the response is not HTTP" in refused(port)
