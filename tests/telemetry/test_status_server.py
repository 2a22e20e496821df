"""The status server over real HTTP: pages, allowed hosts, and robustness against slow clients."""

import http.client
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time

import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.status_server import MAX_REQUESTS, PageUnavailableError, StatusServer


def hello():
    return "text/plain", b"hello"


def fails():
    raise ValueError("of all things")


def not_there():
    raise PageUnavailableError("install the extra")


PAGES = {"/hello": hello, "/fails": fails, "/not-there": not_there}


@pytest.fixture
def port():
    with StatusServer(PAGES) as port:
        yield port


def ask(port, path="/hello", method="GET", **headers):
    """Send one request; return status, headers and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            for each in value if isinstance(value, list) else [value]:
                connection.putheader(name, each)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def raw(port, sent):
    """Send these bytes; return the whole response."""
    with socket.create_connection(("127.0.0.1", port.port), 30) as connection:
        connection.sendall(sent)
        got = b""
        while piece := connection.recv(1 << 16):
            got += piece
        return got


def test_a_page_is_the_current_result_of_its_function(port):
    status, headers, text = ask(port, "/hello?and=more")
    assert (status, text) == (200, "hello")
    assert headers["Content-Type"] == "text/plain"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "stormbreak"
    assert port.address == f"http://127.0.0.1:{port.port}"


def test_a_missing_page_is_an_error_of_one_line(port):
    assert ask(port, "/")[::2] == (404, "no such page; pages: /fails, /hello, /not-there\n")
    assert ask(port, "/not-there")[::2] == (501, "install the extra\n")


def test_methods_other_than_get_are_rejected(port):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, text = ask(port, method=method)
        assert (status, headers["Allow"], text) == (405, "GET", "only GET\n")
    assert ask(port, method="HEAD")[::2] == (405, "")
    assert ask(port, method="BREW")[0] == 501


# ------------------------------------------------------------ allowed hosts


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9100", "[::1]", "[::1]:9100"]
)
def test_names_of_this_machine_are_accepted_as_host(port, host):
    assert ask(port, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "",
     "evil.example:localhost", "localhost@evil.example", "0.0.0.0", "[::2]", ":80", "localhost:80:80",
     ["localhost", "evil.example"], ["evil.example", "localhost"], []],
)  # fmt: skip
def test_another_host_name_is_rejected(port, host):
    status, _, text = ask(port, Host=host)
    assert status == 403
    assert "hello" not in text


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET /hello HTTP/1.0\r\n\r\n", 200), (b"GET /hello HTTP/1.0\r\nHost: evil.example\r\n\r\n", 403),
     (b"GET /hello HTTP/1.0\r\nHost:\r\n\r\n", 403)],
)  # fmt: skip
def test_http_1_0_may_omit_the_host(port, sent, status):
    assert raw(port, sent).startswith(b"HTTP/1.0 %d " % status)


def test_the_server_listens_on_the_loopback_address(port):
    assert port._server.socket.getsockname()[0] == "127.0.0.1"


# ------------------------------------------------------------ errors


def test_a_page_that_fails_is_logged_once(port, caplog):
    for _ in range(3):
        assert ask(port, "/fails")[::2] == (500, "the page failed; see the log\n")
    assert len(caplog.records) == 1
    assert "of all things" in caplog.text


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"GET /hello HTTP/9.9\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
     b"GET /<script> HTTP/\xff\r\n\r\n", b"GET /hello HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n"],
)  # fmt: skip
def test_a_malformed_request_gets_an_error_and_is_not_logged(port, sent, capfd, caplog):
    caplog.set_level(logging.INFO)
    assert raw(port, sent).startswith(b"HTTP/1.0 4") or raw(port, sent).startswith(b"HTTP/1.0 5")
    assert ask(port)[0] == 200
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_client_that_disconnects_causes_no_error(port, capfd):
    for sent in (b"", b"GET /hel", b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port.port), 30) as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask(port)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_silent_connections_use_a_bounded_number_of_threads(port):
    clients = [
        socket.create_connection(("127.0.0.1", port.port), 30) for _ in range(3 * MAX_REQUESTS)
    ]
    try:
        rejected = 0
        for client in reversed(clients):
            client.settimeout(30.0)
            if rejected < MAX_REQUESTS and client.recv(1) == b"":
                rejected += 1
        assert rejected == MAX_REQUESTS
        served = [thread for thread in threading.enumerate() if "process_request" in thread.name]
        assert len(served) <= MAX_REQUESTS
    finally:
        for client in clients:
            client.close()


def test_a_client_that_sends_slowly_is_cut_off(port, monkeypatch):
    monkeypatch.setattr("stormbreak.telemetry.status_server.REQUEST_TIMEOUT", 0.5)
    with socket.create_connection(("127.0.0.1", port.port), 30) as slow:
        cut_off, began = False, time.monotonic()
        while not cut_off and time.monotonic() < began + 30:
            try:
                slow.sendall(b"G")
            except OSError:
                cut_off = True
            time.sleep(0.1)
    assert cut_off
    assert ask(port)[0] == 200


# ------------------------------------------------------------ beginning and end


def test_a_port_in_use_is_one_line(port):
    with pytest.raises(ConfigurationError) as caught:
        StatusServer(PAGES, port=port.port)
    message = str(caught.value)
    assert message == f"cannot listen on 127.0.0.1 port {port.port}: Address already in use"


@table_test("number", [-1, 65536, 1 << 40])
def test_an_invalid_port_is_rejected(number):
    with pytest.raises(ConfigurationError, match=f"port {number}: a port is from 0 to 65535"):
        StatusServer(PAGES, port=number)


def test_close_frees_the_port_at_once():
    began = time.monotonic()
    with StatusServer(PAGES) as port:
        number = port.port
    port.close()
    assert time.monotonic() - began < 10.0
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    with StatusServer(PAGES, port=number) as again:
        assert ask(again)[0] == 200


def test_a_closed_server_leaves_no_thread():
    before = {*threading.enumerate()}  # some of which may end meanwhile
    with StatusServer(PAGES) as port:
        ask(port)
    for thread in {*threading.enumerate()} - before:  # one that has answered may not have ended yet
        thread.join(30)
        assert not thread.is_alive()


def test_pages_may_change_while_the_server_runs():
    pages = {}
    with StatusServer(pages) as port:
        assert ask(port)[0] == 404
        pages["/hello"] = hello
        assert ask(port)[0] == 200


FORKED = """
import os, socket, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
from pathlib import Path
from stormbreak.telemetry.status_server import StatusServer
path = Path(sys.argv[1])
looked, has_looked = os.pipe()
with StatusServer({}, port=0) as port, StatusServer({}, path=path) as beside:
    child = os.fork()
    if not child:
        port.close()
        beside.close()
        assert path.is_socket(), "removed by the child"
        os.write(has_looked, b".")
        sys.stdin.read()  # until the parent has ended
        try:
            with socket.create_connection(("127.0.0.1", port.port), 1) as to:
                to.settimeout(2)
                to.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                to.recv(1)  # another process may have the port by now
        except TimeoutError:
            os._exit(0)  # this process still listens and does not accept
        except OSError:
            pass
        path.with_name("refused").touch()
        os._exit(0)
    print(child, port.port, flush=True)
    os.close(has_looked)
    assert os.read(looked, 1) == b"."  # before the parent removes it
    socket.create_connection(("127.0.0.1", port.port), 1).close()
assert not path.exists()
"""


def test_a_child_of_a_fork_does_not_serve_and_removes_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, str(tmp_path / "s")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        child = int(parent.stdout.readline().split()[0])
        assert parent.wait(180) == 0, parent.stderr.read()
        pidfd = os.pidfd_open(child)
        parent.stdin.close()
        poll_until_gone(pidfd)
        assert (tmp_path / "refused").exists()
        assert parent.stderr.read() == ""


def poll_until_gone(pidfd):
    ready, _, _ = select.select([pidfd], [], [], 10)
    os.close(pidfd)
    assert ready, "the child is still there"


LEFT_OPEN = """
import sys
from pathlib import Path
from stormbreak.telemetry.status_server import StatusServer
StatusServer({}, path=Path(sys.argv[1]))
StatusServer({})
"""


def test_the_end_of_the_process_closes_the_server(tmp_path):
    path = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEFT_OPEN, str(path)],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not path.exists()


def test_a_large_page_is_sent_completely():
    large = {"/large": lambda: ("application/json", json.dumps("x" * (4 << 20)).encode())}
    with StatusServer(large) as port:
        assert len(json.loads(ask(port, "/large")[2])) == 4 << 20


def test_a_server_that_cannot_start_a_thread_leaves_no_socket(tmp_path, monkeypatch):
    """Clients used to wait, and the file stayed."""

    def full(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(ConfigurationError, match="no thread can be started"):
        StatusServer(PAGES, path=tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------ actions


def order(path, text, *, to="/do", **headers):
    """Send a POST over the socket; return status and text."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        head = {"Host": "localhost", "Content-Length": len(text)} | headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        connection.sendall(f"POST {to} HTTP/1.0\r\n{lines}\r\n{text}".encode())
        got = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    return int(got.split()[1]), got.rpartition("\r\n\r\n")[2].strip()


def test_actions_are_accepted_only_over_the_unix_socket(tmp_path, port):
    done = []

    def do(text):
        if text == "wrong":
            raise ConfigurationError("not that")
        done.append(text)
        return "done"

    path = tmp_path / "s.sock"
    with StatusServer(PAGES, path=path, actions={"/do": do}):
        assert order(path, "this") == (200, "done")
        assert order(path, "wrong") == (400, "not that")
        assert order(path, "x" * 2000)[0] == 400
        assert order(path, "x", **{"Content-Length": "-1"})[0] == 400
        assert order(path, "x", Host="evil.example")[0] == 403
        assert order(path, "x", to="/hello")[0] == 405
    assert done == ["this"]
    assert ask(port, "/do", "POST")[0] == 405
    with pytest.raises(ValueError, match="actions need a socket"):
        StatusServer(PAGES, actions={"/do": do})
