"""`stormbreak provider serve`, as a process."""

import http.client
import signal
import socket
import subprocess
import sys

import pytest

from stormbreak.cli.main import main


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_its_address_and_stops_on_a_signal(number):
    command = [sys.executable, "-m", "stormbreak", "provider", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        line = it.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        assert line.endswith("/v1\n")
        port = int(line.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        it.send_signal(number)
        out, err = it.communicate(timeout=60)
        connection.close()
    assert (it.returncode, out, err) == (0, "", "")


def test_bad_usage_is_one_line_and_exit_code_2(capsys):
    for arguments, message in (
        (
            ["--scenario", "tempest"],
            "no scenario or file is named 'tempest'; scenarios: bench,",
        ),
        (
            ["--speed", "0"],
            "Invalid value for '--speed': must be a number from 0.001 to 1,000,000, got '0'",
        ),
        (
            ["--speed", "nan"],
            "Invalid value for '--speed': must be a number from 0.001 to 1,000,000, got 'nan'",
        ),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--seed", "x"], "Invalid value for '--seed'"),
    ):
        assert main(["provider", "serve", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"stormbreak: {message}")
        assert err.count("\n") == 1


def test_a_port_in_use_is_one_line_and_exit_code_2(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["provider", "serve", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert err == f"stormbreak: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    assert err.count("\n") == 1
