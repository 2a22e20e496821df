"""`stormbreak provider serve`, as a process."""

import http.client
import signal
import socket
import subprocess

import pytest
from fork_server import PROGRAM, ForkedPopen

from stormbreak.cli.main import main


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_provider_serve_prints_its_address_and_stops_on_a_signal(number, tmp_path):
    answers = tmp_path / "answers.toml"
    answers.write_text('[[answers]]\ntext = "as the file says"\n')
    command = [*PROGRAM, "provider", "serve", "--port", "0"]
    command += ["--answers", str(answers), "--speed", "100"]
    with ForkedPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        assert line.endswith("/v1\n")
        port = int(line.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
        connection.request("POST", "/v1/responses", b'{"model": "m", "input": "hi"}')
        assert b"as the file says" in connection.getresponse().read()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        connection.close()
    assert (process.returncode, out, err) == (0, "", "")


def test_bad_usage_is_one_line_and_exit_code_2(capsys):
    for arguments, message in (
        (
            ["--scenario", "tempest"],
            "no scenario or file has the name 'tempest'; scenarios: bench,",
        ),
        (
            ["--speed", "0"],
            "Invalid value for '--speed': must be a number from 0.001 to 1,000,000, got '0'",
        ),
        (
            ["--speed", "nan"],
            "Invalid value for '--speed': must be a number from 0.001 to 1,000,000, got 'nan'",
        ),
        (["--answers", "none.toml"], "none.toml: cannot be read: No such file or directory"),
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
