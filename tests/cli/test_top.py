"""`stormbreak top` on real batches in processes of their own, printed and on a terminal."""

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
from watching import STORM, asked, batch_at_work, on_terminal, port_of, state_at

from stormbreak.telemetry.state import Counts, State, encoded
from stormbreak.telemetry.status_server import MAX_REQUESTS, StatusServer
from stormbreak.testing import serve

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


@contextmanager
def in_a_storm(folder):
    """A batch that has been through something: its process, and OUTPUT."""
    with serve(STORM, seed=1) as provider, batch_at_work(provider, folder) as (process, output):
        wait_until(lambda: state_at(sock(output))["counts"]["retries"] > 5, "a retry")
        yield process, output


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """One for all who only look."""
    with in_a_storm(tmp_path_factory.mktemp("batch")) as batch:
        yield batch


@pytest.fixture
def batch(tmp_path):
    """One to be stopped."""
    with in_a_storm(tmp_path) as batch:
        yield batch


def sock(output):
    return output.with_name(output.name + ".sock")


def ended(output):
    """Wait for the end of what was watched, as its user sees it."""
    wait_until(lambda: not sock(output).exists(), "the end of the batch")


def run_in(folder, *args):
    with started(*args, cwd=folder) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


# ------------------------------------------------------------ printed


def test_one_frame(watched):
    _, output = watched
    done = run("top", output, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("stormbreak top", "rows", "of 5.0 k", "rows/s", "done", "left", "/storm-1", "closed",
                 "in flight", "of 8", "queue", "retry budget", "overloaded", "throttled", "again after"):  # fmt: skip
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_it_is_found_in_its_folder_and_printed_where_there_is_no_terminal(watched):
    _, output = watched
    code, out = run_in(output.parent, "top")
    assert code == 0
    assert " stormbreak top  out.jsonl " in out


def test_the_state_as_json(watched):
    process, output = watched
    wait_until(lambda: state_at(sock(output))["cost"]["unpriced"], "a look at what it costs")
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
    assert state["cost"]["min_usd"] == state["cost"]["max_usd"] == 0  # nobody sells this model
    assert state["cost"]["unpriced"] > 0
    decisions = {"retry.scheduled", "cooldown.started", "circuit.changed"}
    assert {it["name"] for it in state["decisions"]} <= decisions
    # Of itself, the socket serves nothing that needs an extra.
    assert asked(sock(output), "/metrics")[0] == 404


def test_a_picture(watched, tmp_path):
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
def test_live_until_its_user_leaves(watched, keys):
    process, output = watched
    with on_terminal("top", output) as terminal:
        first = terminal.wait_for("q quits")
        assert len(first) == 24
        done = [line for line in first if " done " in line]
        wait_until(lambda: terminal.read() and done[0] not in terminal.frame, "another frame")
        terminal.press(keys)
        assert terminal.wait_for_end() == 0
        assert terminal.modes == terminal.before
        assert terminal.text.endswith("\x1b[?1049l")  # back to what was there before
        assert "\x1b[?25h" in terminal.text  # with a cursor
        assert "Traceback" not in terminal.text
    assert process.poll() is None


def test_a_signal_leaves_the_terminal_as_it_was(watched):
    _, output = watched
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 0
        assert terminal.modes == terminal.before
        assert terminal.text.endswith("\x1b[?1049l")


def test_it_goes_along_with_the_size(watched):
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


def test_without_colour(watched):
    _, output = watched
    with on_terminal("top", output, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("q quits")
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0
        assert "\x1b[3" not in terminal.text  # no colour of any kind


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_does_not_know_every_letter(watched, encoding):
    _, output = watched
    env = {"PYTHONIOENCODING": encoding, "COLUMNS": "30"}  # some lines are cut, with an ellipsis
    with on_terminal("top", output, env=env) as terminal:
        assert "?" in "".join(terminal.wait_for("q quits"))
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0
        assert "Traceback" not in terminal.text


def test_the_end_of_what_is_watched(batch):
    process, output = batch
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 0
        last = terminal.text.split("\x1b[?1049l")[-1].strip()
    assert last.startswith(f"{output} has ended; last seen: ")
    assert last.endswith(" of 5,000 rows done")
    ended(output)


def test_what_is_killed_has_ended_too(batch):
    process, output = batch
    with on_terminal("top", output) as terminal:
        terminal.wait_for("q quits")
        process.kill()
        assert terminal.wait_for_end() == 0
        assert "has ended" in terminal.text
    assert sock(output).exists()  # left over
    refused = run("top", output)
    assert refused.returncode == 2
    assert one_line(refused.stderr) == f"{output}: no run is active"


def test_what_is_stopped_is_silent_and_comes_back(batch):
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


def test_a_left_over_socket_is_taken_over_and_removed_at_the_end(tmp_path):
    """By a run that goes on where another was killed."""
    with serve(scenario(service=0.05)) as provider:
        with batch_at_work(provider, tmp_path) as (process, output):
            process.kill()
        assert sock(output).exists()
        with batch_at_work(provider, tmp_path) as (process, output):
            wait_until(lambda: run("top", output, "--once").returncode == 0, "a state")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 130
        assert not sock(output).exists()


def test_a_batch_without_a_socket_runs_all_the_same(stormbreak_provider, tmp_path):
    sock(tmp_path / "out.jsonl").write_text("mine")
    provider = stormbreak_provider(scenario(service=0.05))
    with batch_at_work(provider, tmp_path, "--metrics-port", "0") as (process, output):
        refused = run("top", output)
        assert refused.returncode == 2
        assert "has no socket here; start that run with --metrics-port" in one_line(refused.stderr)
        assert run("top", port_of(process), "--once").returncode == 0
    assert sock(output).read_text() == "mine"


# ------------------------------------------------------------ the port of a batch


def test_a_port_with_metrics(stormbreak_provider, tmp_path):
    provider = stormbreak_provider(STORM)
    with batch_at_work(provider, tmp_path, "--metrics-port", "0", "--quiet") as (process, _):
        port = port_of(process)
        wait_until(lambda: 'verdict="overloaded"' in asked(port, "/metrics")[1], "a verdict")
        for where in (port, f"localhost:{port}", f"http://127.0.0.1:{port}/state"):
            assert run("top", where, "--once").returncode == 0
        assert state_at(port)["pid"] == process.pid


def test_metrics_for_other_machines(stormbreak_provider, tmp_path):
    provider = stormbreak_provider(STORM)
    flags = ("--metrics-port", "0.0.0.0:0", "--quiet")
    with batch_at_work(provider, tmp_path, *flags) as (process, _):
        said = process.stderr.readline()
        assert "every machine that reaches this address can read it" in said
        assert asked(port_of(process), "/health") == (200, "ok\n")


def test_a_port_in_use_is_one_line_before_anything_is_read(tmp_path):
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


def test_without_the_extra_the_page_of_metrics_says_so(stormbreak_provider, tmp_path):
    provider = stormbreak_provider(scenario(service=0.02))
    source = write(tmp_path / "in.jsonl", chat_rows(5_000))
    args = map(str, run_args(source, tmp_path / "out.jsonl", provider.base_url))
    without = [sys.executable, "-c", WITHOUT_THE_EXTRA, *args, "--metrics-port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(without, **pipes) as batch:
        try:
            port = port_of(batch)
            status, said = asked(port, "/metrics")
            assert status == 501
            assert "stormbreak[metrics]" in said
            assert said.count("\n") == 1
            wait_until(lambda: state_at(port)["batch"], "the first row")
        finally:
            batch.kill()


def test_a_port_with_too_many_visitors_has_not_ended():
    state = State(pid=1, watched=1.0, counts=Counts(calls=12, answered=11), targets=())
    page = {"/state": lambda: ("application/json", encoded(state))}
    with (
        StatusServer(page) as port,
        on_terminal("top", port.port) as terminal,
        ExitStack() as crowd,
    ):
        terminal.wait_for("watched for")
        for _ in range(2 * MAX_REQUESTS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port.port), 5))
        terminal.wait_for("no answer for 1 s")
        crowd.close()
        terminal.wait_for("watched for")
        terminal.press(b"q")
        assert terminal.wait_for_end() == 0


def test_an_application_ends():
    """What is not a batch is told of by its calls."""
    state = State(pid=1, watched=1.0, counts=Counts(calls=12, answered=11), targets=())
    page = {"/state": lambda: ("application/json", encoded(state))}
    with StatusServer(page) as port, on_terminal("top", port.port) as terminal:
        terminal.wait_for("no request sent yet")
        port.close()
        assert terminal.wait_for_end() == 0
        assert "has ended; last seen: 11 of 12 calls answered" in terminal.text


# ------------------------------------------------------------ secrets


def test_no_key_and_no_prompt_anywhere(stormbreak_provider, tmp_path):
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
        shown = [terminal.text, asked(port)[1], asked(port, "/metrics")[1], asked(sock(output))[1]]
        for more in ("--once", "--json"):
            done = run("top", output, more)
            assert (done.returncode, done.stderr) == (0, "")
            shown.append(done.stdout)
    for text in shown:
        assert f"{urlsplit(provider.base_url).netloc}/m" in text
        assert_clean(text, "what is shown")
