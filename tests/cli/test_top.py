"""`stormbreak top` on real batches in child processes, printed and on a terminal."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from batches import (
    PATIENCE,
    chat_rows,
    one_line,
    run,
    run_args,
    scenario,
    started,
    wait_until,
    write,
)
from canary import KEY, PROMPT, WORD, assert_clean
from watching import STORM, batch_at_work, http_get, on_terminal, port_of, state_at

from stormbreak.telemetry.state import Counts, State, encoded
from stormbreak.telemetry.status_server import MAX_REQUESTS, StatusServer
from stormbreak.testing import serve

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


@contextmanager
def in_a_storm(folder):
    """Run a batch with retries behind it; yield its process and OUTPUT."""
    with serve(STORM, seed=1) as provider, batch_at_work(provider, folder) as (process, output):
        wait_until(lambda: state_at(sock(output))["counts"]["retries"] > 5, "a retry")
        yield process, output


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A batch that tests only watch, shared by them."""
    with in_a_storm(tmp_path_factory.mktemp("batch")) as batch:
        yield batch


@pytest.fixture
def batch(tmp_path):
    """A batch that a test may stop."""
    with in_a_storm(tmp_path) as batch:
        yield batch


def sock(output):
    return output.with_name(output.name + ".sock")


def ended(output):
    """Wait until the batch has removed its socket."""
    wait_until(lambda: not sock(output).exists(), "the end of the batch")


def run_in(folder, *args):
    with started(*args, cwd=folder) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


# ------------------------------------------------------------ printed


def test_top_once_prints_one_frame(watched):
    _, output = watched
    done = run("top", output, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("stormbreak top", "rows", "of 5.0 k", "rows/s", "done", "left", "/storm-1", "closed",
                 "in flight", "of 8", "queue", "retry budget", "overloaded", "throttled", "again after"):  # fmt: skip
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_top_finds_the_batch_in_its_folder_and_prints_without_a_terminal(watched):
    _, output = watched
    code, out = run_in(output.parent, "top")
    assert code == 0
    assert " stormbreak top  out.jsonl " in out


def test_top_prints_the_state_as_json(watched):
    process, output = watched
    wait_until(lambda: state_at(sock(output))["cost"]["unpriced"], "an update of the cost")
    done = run("top", output, "--json")
    state = json.loads(done.stdout)
    assert (done.returncode, state["format"], state["pid"]) == (0, 1, process.pid)
    batch_ = state["batch"]
    assert batch_["total"] == 5_000 == batch_["done"] + batch_["failed"] + batch_["left"]
    assert batch_["rate"] > 0
    (target,) = state["targets"]
    assert set(target["verdicts"]) <= {"ok", "overloaded", "throttled"}
    assert sum(target["verdicts"].values()) <= state["counts"]["attempts"]
    assert state["counts"]["retries"] >= 5
    assert state["cost"]["min_usd"] == state["cost"]["max_usd"] == 0  # this model has no price
    assert state["cost"]["unpriced"] > 0
    decisions = {"retry.scheduled", "cooldown.started", "circuit.changed"}
    assert {it["name"] for it in state["decisions"]} <= decisions
    # By default the socket serves nothing that needs an extra.
    assert http_get(sock(output), "/metrics")[0] == 404


def test_top_writes_a_frame_as_svg(watched, tmp_path):
    _, output = watched
    done = run("top", output, "--output", tmp_path / "top.svg")
    assert (done.returncode, done.stdout) == (0, "")
    picture = (tmp_path / "top.svg").read_text()
    assert "stormbreak" in picture
    assert "http" not in picture.replace("http://www.w3.org/", "").replace(
        "https://www.textualize.io", ""
    )
    refused = run("top", output, "--output", tmp_path / "none" / "top.svg")
    assert refused.returncode == 2
    assert "no such file or directory" in one_line(refused.stderr)


# ------------------------------------------------------------ on a terminal


@pytest.mark.parametrize("keys", [b"xyQ", b"\x03"])
def test_top_on_a_terminal_redraws_until_a_key_quits(watched, keys):
    process, output = watched
    with on_terminal("top", output) as terminal:
        first = terminal.wait_for("q quits")
        assert len(first) == 24
        done = [line for line in first if " done " in line]
        wait_until(lambda: terminal.read() and done[0] not in terminal.frame, "another frame")
        terminal.press(keys)
        assert terminal.wait_for_end() == 0
        assert terminal.modes == terminal.before
        assert terminal.text.endswith("\x1b[?1049l")  # back to the previous screen
        assert "\x1b[?25h" in terminal.text  # with a cursor
        assert "Traceback" not in terminal.text
    assert process.poll() is None


def test_a_signal_restores_the_terminal(watched):
    _, output = watched
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 0
        assert terminal.modes == terminal.before
        assert terminal.text.endswith("\x1b[?1049l")


def test_top_adapts_to_the_terminal_size(watched):
    _, output = watched
    with on_terminal("top", output, columns=80, lines=24) as terminal:
        terminal.wait_for("q quits")
        terminal.resize(140, 40)
        wait_until(lambda: (terminal.read(), len(terminal.frame) == 40)[1], "a larger frame")
        terminal.resize(50, 10)
        wait_until(lambda: (terminal.read(), len(terminal.frame) == 10)[1], "a smaller frame")
        assert max(len(line) for line in terminal.frame) <= 50
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0


def test_no_color_disables_colours(watched):
    _, output = watched
    with on_terminal("top", output, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("q quits")
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0
        assert "\x1b[3" not in terminal.text  # no colour of any kind


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_top_replaces_characters_that_the_terminal_cannot_encode(watched, encoding):
    _, output = watched
    env = {"PYTHONIOENCODING": encoding, "COLUMNS": "30"}  # some lines are cut, with an ellipsis
    with on_terminal("top", output, env=env) as terminal:
        assert "?" in "".join(terminal.wait_for("q quits"))
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0
        assert "Traceback" not in terminal.text


def test_top_ends_with_a_line_when_the_batch_ends(batch):
    process, output = batch
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 0
        last = terminal.text.split("\x1b[?1049l")[-1].strip()
    assert last.startswith(f"{output} has ended; last seen: ")
    assert last.endswith(" of 5,000 rows done")
    ended(output)


def test_top_reports_a_killed_batch_as_ended(batch):
    process, output = batch
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        process.kill()
        assert terminal.wait_for_end() == 0
        assert "has ended" in terminal.text
    assert sock(output).exists()  # stale
    refused = run("top", output)
    assert refused.returncode == 2
    assert one_line(refused.stderr) == f"{output}: no run is active"


def test_top_reports_a_suspended_batch_as_silent_until_it_resumes(batch):
    process, output = batch
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        process.send_signal(signal.SIGSTOP)
        terminal.wait_for("no answer for ")
        process.send_signal(signal.SIGCONT)
        terminal.wait_for("watched for")
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0


# ------------------------------------------------------------ the socket of a batch


def test_a_resumed_batch_replaces_and_removes_a_stale_socket(tmp_path):
    """A kill leaves the socket behind."""
    with serve(scenario(service=0.05)) as provider:
        with batch_at_work(provider, tmp_path) as (process, output):
            process.kill()
        assert sock(output).exists()
        with batch_at_work(provider, tmp_path) as (process, output):
            wait_until(lambda: run("top", output, "--once").returncode == 0, "a state")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 130
        assert not sock(output).exists()


def test_a_batch_runs_when_its_socket_cannot_be_created(stormbreak_provider, tmp_path):
    sock(tmp_path / "out.jsonl").write_text("mine")
    provider = stormbreak_provider(scenario(service=0.05))
    with batch_at_work(provider, tmp_path, "--metrics-port", "0") as (process, output):
        refused = run("top", output)
        assert refused.returncode == 2
        assert "has no socket here; start it with --metrics-port" in one_line(refused.stderr)
        assert run("top", port_of(process), "--once").returncode == 0
    assert sock(output).read_text() == "mine"


# ------------------------------------------------------------ the port of a batch


def test_metrics_port_serves_metrics_and_the_state(stormbreak_provider, tmp_path):
    provider = stormbreak_provider(STORM)
    with batch_at_work(provider, tmp_path, "--metrics-port", "0", "--quiet") as (process, _):
        port = port_of(process)
        wait_until(lambda: 'verdict="overloaded"' in http_get(port, "/metrics")[1], "a verdict")
        for where in (port, f"localhost:{port}", f"http://127.0.0.1:{port}/state"):
            assert run("top", where, "--once").returncode == 0
        assert state_at(port)["pid"] == process.pid


def test_a_metrics_port_on_all_addresses_prints_a_warning(stormbreak_provider, tmp_path):
    provider = stormbreak_provider(STORM)
    flags = ("--metrics-port", "0.0.0.0:0", "--quiet")
    with batch_at_work(provider, tmp_path, *flags) as (process, _):
        message = process.stderr.readline()
        assert "every machine that reaches this address can read it" in message
        assert http_get(port_of(process), "/health") == (200, "ok\n")


def test_a_metrics_port_in_use_is_an_error_before_the_input_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("batch", "run", tmp_path / "none.jsonl", "--output", tmp_path / "out.jsonl",
                   "--base-url", "http://127.0.0.1:9/v1", "--metrics-port", port)  # fmt: skip
    assert done.returncode == 2
    assert (
        one_line(done.stderr) == f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    )
    assert not any(tmp_path.iterdir())


WITHOUT_THE_EXTRA = """
import sys
sys.modules["prometheus_client"] = None
from stormbreak.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_metrics_without_the_extra_respond_501(stormbreak_provider, tmp_path):
    provider = stormbreak_provider(scenario(service=0.02))
    source = write(tmp_path / "in.jsonl", chat_rows(5_000))
    args = map(str, run_args(source, tmp_path / "out.jsonl", provider.base_url))
    without = [sys.executable, "-c", WITHOUT_THE_EXTRA, *args, "--metrics-port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(without, **pipes) as batch:
        try:
            port = port_of(batch)
            status, message = http_get(port, "/metrics")
            assert status == 501
            assert "stormbreak[metrics]" in message
            assert message.count("\n") == 1
            wait_until(lambda: state_at(port)["batch"], "the first row")
        finally:
            batch.kill()


def test_top_survives_a_status_server_without_free_connections():
    state = State(pid=1, watched=1.0, counts=Counts(calls=12, answered=11), targets=())
    page = {"/state": lambda: ("application/json", encoded(state))}
    with (
        StatusServer(page) as port,
        on_terminal("top", port.port) as terminal,
        ExitStack() as connections,
    ):
        terminal.wait_for("watched for")
        for _ in range(2 * MAX_REQUESTS):
            connections.enter_context(socket.create_connection(("127.0.0.1", port.port), 5))
        terminal.wait_for("no answer for ")
        connections.close()
        terminal.wait_for("watched for")
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0


def test_top_reports_the_end_of_an_application_by_its_calls():
    """An application has no rows."""
    state = State(pid=1, watched=1.0, counts=Counts(calls=12, answered=11), targets=())
    page = {"/state": lambda: ("application/json", encoded(state))}
    with StatusServer(page) as port, on_terminal("top", port.port) as terminal:
        terminal.wait_for("no request sent yet")
        port.close()
        assert terminal.wait_for_end() == 0
        assert "has ended; last seen: 11 of 12 calls answered" in terminal.text


# ------------------------------------------------------------ secrets


def test_top_and_metrics_show_no_key_and_no_prompt(stormbreak_provider, tmp_path):
    rows = [
        {"custom_id": f"{WORD}-{n}", "prompt": f"{PROMPT} {n}", "model": "m"} for n in range(5_000)
    ]
    write(tmp_path / "in.jsonl", rows)
    flags = ("--metrics-port", "0", "--api-key-env", "MY_KEY")
    provider = stormbreak_provider(STORM)
    with batch_at_work(provider, tmp_path, *flags, env={"MY_KEY": KEY}) as (process, output):
        port = port_of(process)
        wait_until(lambda: state_at(port)["decisions"], "a decision")
        with on_terminal("top", output, columns=140, lines=40) as terminal:
            terminal.wait_for("q quits")
            terminal.press(b"q")
            terminal.wait_for_end()
        shown = [
            terminal.text,
            http_get(port)[1],
            http_get(port, "/metrics")[1],
            http_get(sock(output))[1],
        ]
        for more in ("--once", "--json"):
            done = run("top", output, more)
            assert (done.returncode, done.stderr) == (0, "")
            shown.append(done.stdout)
    for text in shown:
        assert f"{urlsplit(provider.base_url).netloc}/m" in text
        assert_clean(text, "output")
