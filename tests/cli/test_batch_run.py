"""`stormbreak batch run` as its users meet it: exit codes, what is said where, every flag, every bad input."""

import fcntl
import json
import os
import pty
import re
import socket
import struct
import termios
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from batches import (
    OWN,
    assert_answered,
    chat_row,
    chat_rows,
    read,
    run,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from sockets import BODY

from stormbreak.cli.main import main

HOSTILE = "\x1b[31mcanary\x1b]0;canary\x07[bold]canary[/bold]\r\n"


@pytest.fixture(autouse=True)
def no_words_about_providers(monkeypatch):
    for name in list(os.environ):
        if name.startswith(OWN):
            monkeypatch.delenv(name)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", chat_rows(30))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def failed(tmp_path):
    return tmp_path / "out.failed.jsonl"


@pytest.fixture
def batch_run(source, output, capsys):
    """Run it in this process; return the exit code, stdout and stderr."""

    def call(*flags, provider=None):
        url = ("--base-url", provider.base_url) if provider else ()
        code = main(["batch", "run", str(source), "--output", str(output), *url, *flags])
        return code, *capsys.readouterr()

    return call


def one_line(errors):
    """The complaint; fails if it is not just one clear line."""
    assert errors.startswith("stormbreak: ")
    assert errors.count("\n") == 1
    assert errors.endswith("\n")
    return errors[len("stormbreak: ") : -1]


# ------------------------------------------------------------ exit codes, and what is said where


def test_all_done_is_0(batch_run, output, stormbreak_provider):
    code, said, errors = batch_run(provider=stormbreak_provider(scenario()))
    assert code == 0
    assert_answered(chat_rows(30), output)
    lines = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert lines["answered"] == "30 of 30 rows"
    assert lines["failed"] == "0"
    assert lines["answers"] == str(output)
    assert errors.splitlines()[-1].startswith("30 done, 0 failed, 0 left, ")


def test_some_rows_failed_is_1_and_each_is_explained(
    batch_run, output, failed, stormbreak_provider
):
    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.3}), seed=2)
    code, said, _ = batch_run("--json", "--quiet", provider=provider)
    summary = json.loads(said)
    assert code == 1
    assert summary["successful"] + summary["failed"] == 30
    assert summary["failed"] == summary["verdicts"]["invalid"] > 0
    explained = read(failed)
    assert {line["custom_id"] for line in explained}.isdisjoint(
        line["custom_id"] for line in read(output)
    )
    assert len(explained) == summary["failed"]
    for line in explained:
        assert line["response"]["status_code"] == 400
        assert line["error"]["verdict"] == "invalid"
        assert line["error"]["attempts"] == 1


def test_json_is_the_only_thing_on_stdout_and_progress_stays_on_stderr(source, output):
    with provider_process() as url:
        done = run("batch", "run", source, "--output", output, "--base-url", url, "--json")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary.keys() >= {
        "total", "successful", "failed", "elapsed", "throughput", "attempts", "verdicts",
    }  # fmt: skip
    assert (summary["total"], summary["successful"], summary["failed"]) == (30, 30, 0)
    assert summary["throughput"] == pytest.approx(30 / summary["elapsed"], rel=0.1)
    assert "30 done" in done.stderr


@contextmanager
def provider_process():
    with started("provider", "serve", "--port", "0") as process:
        yield process.stdout.readline().split()[-1]


def test_quiet_shows_no_progress(batch_run, stormbreak_provider):
    code, said, errors = batch_run("--quiet", provider=stormbreak_provider(scenario()))
    assert (code, errors) == (0, "")
    assert "30 of 30" in said


def test_again_after_the_end_sends_nothing(batch_run, output, stormbreak_provider):
    provider = stormbreak_provider(scenario())
    assert batch_run(provider=provider)[0] == 0
    before = output.read_bytes()
    assert batch_run(provider=provider)[0] == 0
    assert provider.stats()["arrivals"] == 30
    assert output.read_bytes() == before


def test_no_words_of_ours_are_wider_than_a_terminal(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.3}))
    _, said, errors = batch_run(provider=provider)
    lines = [line for line in said.splitlines() if "/" not in line] + errors.splitlines()
    assert max(map(len, lines)) <= 100


# ------------------------------------------------------------ resuming


def test_a_later_run_tries_again_what_was_transient_and_not_what_was_final(
    batch_run, source, output, failed, stormbreak_provider
):
    write(source, chat_rows(60))
    troubles = (
        {"kind": "400", "share": 0.2, "until": 2},
        {"kind": "slow_headers", "share": 0.3, "seconds": 60, "until": 2},
    )
    provider = stormbreak_provider(scenario(*troubles), seed=1)
    code, said, _ = batch_run("--deadline", "1", "--json", provider=provider)
    first = json.loads(said)
    verdicts = [line["error"]["verdict"] for line in read(failed)]
    assert code == 1
    assert set(verdicts) == {"invalid", "timeout"}
    final = verdicts.count("invalid")
    provider = stormbreak_provider(scenario())
    code, said, _ = batch_run("--json", provider=provider)
    second = json.loads(said)
    assert code == 1
    assert provider.stats()["arrivals"] == second["attempts"] == 60 - first["successful"] - final
    assert (second["successful"], second["failed"]) == (60 - final, final)
    assert [line["error"]["verdict"] for line in read(failed)] == ["invalid"] * final
    assert len(read(output)) == 60 - final


@pytest.mark.parametrize(
    ("kind", "verdict", "why"),
    [
        ("401", "auth", "the key was refused"),
        ("404", "not_found", "no such model or address"),
        ("quota", "billing", "no credit or quota left"),
    ],
)
def test_the_same_refusal_for_everyone_stops_early_and_after_mending_all_rows_run(
    batch_run, source, output, failed, stormbreak_provider, kind, verdict, why
):
    write(source, chat_rows(100))
    provider = stormbreak_provider(scenario({"kind": kind}))
    code, said, _ = batch_run("--concurrency", "50", provider=provider)
    assert code == 1
    assert why in said
    assert provider.stats()["arrivals"] == 20
    assert size_of(output) == 0
    assert not failed.exists()
    code, said, _ = batch_run("--json", provider=provider)
    summary = json.loads(said)
    assert (code, summary["end"], summary["refused_by"]) == (1, "refused", verdict)
    assert (summary["left"], summary["failed"]) == (100, 0)
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert_answered(chat_rows(100), output)


@pytest.mark.parametrize("flags", [("--timeout", "0.3"), ("--deadline", "0.3")])
def test_switched_off_flags_about_time_hold_all_the_same(
    batch_run, failed, stormbreak_provider, monkeypatch, flags
):
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    provider = stormbreak_provider(scenario({"kind": "slow_headers", "seconds": 60}))
    code, said, _ = batch_run(*flags, "--json", "--concurrency", "10", provider=provider)
    summary = json.loads(said)
    assert (code, summary["attempts"], summary["failed"]) == (1, 30, 30)
    assert {line["error"]["verdict"] for line in read(failed)} == {"timeout"}
    assert provider.stats()["connections"]["opened"] == 30


@contextmanager
def misplaced(status):
    """An API under /v1, and `status` everywhere else."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            fine = self.path.startswith("/v1/")
            self.send_response(200 if fine else status)
            self.send_header("location", "https://elsewhere.example/login")
            self.send_header("content-length", str(len(BODY) if fine else 0))
            self.end_headers()
            self.wfile.write(BODY if fine else b"")

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("status", "verdict", "why"),
    [
        (301, "redirected", "another address is meant"),
        (307, "redirected", "another address is meant"),
        (405, "not_found", "no such model or address"),
    ],
)
def test_a_wrong_base_url_costs_no_row(batch_run, source, failed, status, verdict, why):
    write(source, chat_rows(100))
    with misplaced(status) as url:
        code, said, _ = batch_run("--base-url", url)
        assert code == 1
        assert why in said
        assert not failed.exists()
        summary = json.loads(batch_run("--base-url", url, "--json")[1])
        assert (summary["end"], summary["refused_by"]) == ("refused", verdict)
        assert (summary["attempts"], summary["left"]) == (20, 100)
        code, said, _ = batch_run("--base-url", f"{url}/v1", "--json")
    assert (code, json.loads(said)["successful"]) == (0, 100)


def test_fewer_rows_than_that_are_explained_one_by_one_and_not_sent_again(
    batch_run, source, output, failed, stormbreak_provider
):
    write(source, chat_rows(5))
    code, said, _ = batch_run(provider=stormbreak_provider(scenario({"kind": "401"})))
    assert code == 1
    assert str(failed) in said
    assert [line["error"]["verdict"] for line in read(failed)] == ["auth"] * 5
    mended = stormbreak_provider(scenario())
    assert batch_run(provider=mended)[0] == 1
    assert mended.stats()["arrivals"] == 0
    failed.unlink()
    assert batch_run(provider=mended)[0] == 0
    assert_answered(chat_rows(5), output)
    assert not failed.exists()


def test_after_a_power_cut_a_torn_line_is_mended(batch_run, output, stormbreak_provider):
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    whole = output.read_bytes()
    cut = whole.index(b"\n", len(whole) // 2) + 40
    output.write_bytes(whole[:cut])
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert_answered(chat_rows(30), output)
    assert output.read_bytes().startswith(whole[: cut - 39])


# ------------------------------------------------------------ flags


def test_ordered(batch_run, source, output, stormbreak_provider):
    write(source, chat_rows(200))
    provider = stormbreak_provider(scenario(service=0.02, cv=1.0))
    assert batch_run("--ordered", "--concurrency", "50", provider=provider)[0] == 0
    assert [line["custom_id"] for line in read(output)] == [f"row-{n}" for n in range(200)]


def test_model(batch_run, source, output, stormbreak_provider):
    write(source, [{"prompt": "one"}, {"prompt": "two", "model": "storm-1-mini"}])
    assert batch_run("--model", "storm-1", provider=stormbreak_provider(scenario()))[0] == 0
    models = {line["custom_id"]: line["response"]["body"]["model"] for line in read(output)}
    assert models == {"row-1": "storm-1", "row-2": "storm-1-mini"}


def test_a_policy_by_name_and_by_file(batch_run, output, stormbreak_provider, tmp_path):
    provider = stormbreak_provider(scenario())
    assert batch_run("--policy", "article", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] <= 10
    output.unlink()
    own = tmp_path / "own.toml"
    own.write_text('[limit]\nkind = "fixed"\nin_flight = 2\n')
    provider = stormbreak_provider(scenario())
    assert batch_run("--policy", str(own), provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] <= 2


def test_concurrency(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.05))
    assert batch_run("--concurrency", "3", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] == 3


def test_automatic_concurrency_sends_a_calm_burst_at_once(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.3))
    assert batch_run("--concurrency", "auto", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] > 3


def test_a_policy_that_would_never_send_anything_is_refused(batch_run, output, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('preset = "batch"\n[breaker]\nmode = "forced_open"')
    code, _, errors = batch_run("--policy", str(policy), "--base-url", "http://127.0.0.1:9")

    assert code == 2
    assert one_line(errors) == "breaker.mode is forced_open: no row would ever be sent"
    assert not output.exists()


@pytest.mark.parametrize("policy", ["batch", "off"])
def test_requests_per_minute(batch_run, stormbreak_provider, policy):
    provider = stormbreak_provider(scenario(service=0.01))
    code, said, _ = batch_run("--policy", policy, "--rpm", "1200", "--json", provider=provider)
    summary = json.loads(said)
    assert (code, summary["attempts"]) == (0, 30)
    assert summary["elapsed"] >= 0.45  # twenty at once, ten more within half a second


def test_tokens_per_minute(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.01))
    assert batch_run("--tpm", "60000", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] == 1  # a second of them is enough for one row


def test_timeout_and_idle_timeout(batch_run, source, stormbreak_provider):
    write(source, chat_rows(3))
    for flag in ("--timeout", "--idle-timeout"):
        hang = {"kind": "hang", "until": 0.9}
        provider = stormbreak_provider(scenario(hang))
        code, said, _ = batch_run(flag, "0.4", "--json", provider=provider)
        assert code == 0
        assert json.loads(said)["verdicts"]["timeout"] >= 3
        source.with_name("out.jsonl").unlink()


def test_deadline(batch_run, failed, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "hang", "share": 1.0}))
    code, said, _ = batch_run("--deadline", "0.5", "--json", provider=provider)
    summary = json.loads(said)
    assert code == 1
    assert summary["elapsed"] < 5
    assert summary["failed"] == len(read(failed)) == 30
    assert {line["error"]["verdict"] for line in read(failed)} <= {"timeout", "rejected"}


def test_streamed_rows_are_written_assembled(batch_run, source, output, stormbreak_provider):
    rows = [
        chat_row(n, stream=bool(n % 2), stream_options={"include_usage": True}) for n in range(40)
    ]
    write(source, rows)
    provider = stormbreak_provider(scenario({"kind": "cut_stream", "share": 0.2}))
    assert batch_run(provider=provider)[0] == 0
    assert_answered(rows, output)
    for line in read(output):
        body = line["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"]["completion_tokens"] > 0


def test_embeddings(batch_run, source, output, stormbreak_provider):
    write(
        source,
        [
            {
                "custom_id": f"e{n}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "storm-1", "input": [f"text {n}", "more"]},
            }
            for n in range(5)
        ],
    )
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert [len(line["response"]["body"]["data"]) for line in read(output)] == [2] * 5


def test_a_key_goes_to_the_provider_and_nowhere_else(
    batch_run, tmp_path, stormbreak_provider, monkeypatch
):
    monkeypatch.setenv("MY_KEY", "sk-canary-1234567890")
    provider = stormbreak_provider(scenario(require_key=True))
    code, said, errors = batch_run("--api-key-env", "MY_KEY", provider=provider)
    assert code == 0
    texts = [said, errors, *(path.read_text() for path in tmp_path.iterdir() if path.is_file())]
    assert not any("sk-canary" in text for text in texts)


def test_status_during_and_after(source, output, stormbreak_provider, capsys):
    write(source, chat_rows(60))
    provider = stormbreak_provider(scenario(service=0.2))
    args = ("batch", "run", source, "--output", output, "--base-url", provider.base_url)
    with started(*args, "--concurrency", "5") as process:
        wait_until(lambda: size_of(output), "a first answer")
        assert main(["batch", "status", str(output), "--json"]) == 0
        during = json.loads(capsys.readouterr().out)
        assert during["active"]
        assert 0 < during["done"] < 60
        assert process.wait(30) == 0
    assert main(["batch", "status", str(output), "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert (after["active"], after["done"], after["left"], after["failed"]) == (False, 60, 0, {})


# ------------------------------------------------------------ bad input: one line, 2, nothing touched

PLANNED = [
    ("--max-cost", "3"), ("--report", "x.html"),
]  # fmt: skip
WRONG = [
    (["--no-such-flag"], "--no-such-flag"),
    *((list(flag), f"{' '.join(flag)}: not built yet") for flag in PLANNED),
    (["--concurrency", "0"], "--concurrency"),
    (["--concurrency", "many"], "'many'"),
    (["--rpm", "0"], "--rpm"),
    (["--tpm", "lots"], "must be a number of tokens, got 'lots'"),
    (["--timeout", "-1"], "--timeout"),
    (["--timeout", "nan"], "nan"),
    (["--deadline", "soon"], "'soon'"),
    (["--idle-timeout", "inf"], "inf"),
    (["--policy", "no-such-preset"], "no-such-preset"),
    (["--policy", "./no/such/file.toml"], "no/such/file.toml"),
    (["--base-url", "ftp://example.com/v1"], "ftp"),
    (["--base-url", "127.0.0.1:80"], "base_url"),
    (["--base-url", "http://[::1/v1"], "base_url"),
    (["--base-url", "http://127.0.0.1:1/v1", "--provider", "openai"], "--provider"),
    (["--provider", "acme"], "acme"),
    (["--fallback-api-key-env", "KEY"], "--fallback-api-key-env: give --fallback-base-url, too"),
    (
        ["--base-url", "http://127.0.0.1:1/v1", "--fallback-base-url", "ftp://x"],
        "fallback.targets[0]: base_url must look like https://host/v1",
    ),
    (["--provider", "holysheep"], "HOLYSHEEP_API_KEY"),
    (["--provider", "holysheep", "--api-key-env", "MY_KEY"], "MY_KEY"),
    ([], "STORMBREAK_BASE_URL"),
]


@pytest.mark.parametrize(
    ("flags", "named"), WRONG, ids=lambda it: " ".join(it) if isinstance(it, list) else ""
)
def test_a_wrong_flag_is_named_and_nothing_is_touched(batch_run, tmp_path, flags, named):
    code, said, errors = batch_run(*flags)
    assert code == 2
    assert named in one_line(errors)
    assert said == ""
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    "args", [[], ["in.jsonl"], ["--output", "out.jsonl"], ["a", "b", "--output", "c"]]
)
def test_missing_or_surplus_arguments(args, capsys):
    assert main(["batch", "run", *args]) == 2
    assert one_line(capsys.readouterr().err)


GOOD = json.dumps(chat_row(1)).encode() + b"\n"
BROKEN = [
    (b"", "no rows"),
    (b"\n\n", "no rows"),
    (GOOD + b'{"custom_id": "x", "body"\n', "in.jsonl:2"),
    (GOOD + b"\n[1]\n", "in.jsonl:3"),
    (GOOD + b"\xff\xfe\n", "in.jsonl:2"),
    (
        GOOD + json.dumps(chat_row(2)).encode() + b"\n" + GOOD,
        "in.jsonl:3: custom_id 'row-1' stands on line 1",
    ),
    (GOOD + b'{"custom_id": "y", "prompt": "no model"}\n', "in.jsonl:2: names no model"),
]


@pytest.mark.parametrize(("content", "named"), BROKEN)
def test_a_broken_input_is_named_with_its_line(batch_run, source, tmp_path, content, named):
    source.write_bytes(content)
    code, said, errors = batch_run("--base-url", "http://127.0.0.1:1/v1")
    assert (code, said) == (2, "")
    assert named in one_line(errors)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_input_that_cannot_be_read(batch_run, source):
    source.unlink()
    code, _, errors = batch_run("--base-url", "http://127.0.0.1:1/v1")
    assert code == 2
    assert f"{source}: cannot read the input: no such file" in one_line(errors)


def test_an_output_of_another_input(batch_run, source, output, tmp_path, stormbreak_provider):
    provider = stormbreak_provider(scenario())
    assert batch_run(provider=provider)[0] == 0
    write(source, chat_rows(31))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = batch_run(provider=provider)
    assert code == 2
    assert f"{output}: belongs to a run of" in one_line(errors)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert provider.stats()["arrivals"] == 30


def test_an_output_that_is_something_else(batch_run, output, tmp_path):
    output.write_bytes(b"my thesis\n")
    code, _, errors = batch_run("--base-url", "http://127.0.0.1:1/v1")
    assert code == 2
    assert str(output) in one_line(errors)
    assert output.read_bytes() == b"my thesis\n"
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_an_output_that_is_the_input(source, capsys):
    before = source.read_bytes()
    args = ["batch", "run", str(source), "--output", str(source)]
    assert main([*args, "--base-url", "http://127.0.0.1:1/v1"]) == 2
    assert "is the input" in one_line(capsys.readouterr().err)
    assert source.read_bytes() == before


def test_a_second_run_at_the_same_time(batch_run, source, output, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.5))
    args = ("batch", "run", source, "--output", output, "--base-url", provider.base_url)
    with started(*args, "--concurrency", "10") as process:
        wait_until(lambda: size_of(output), "a first answer")
        code, _, errors = batch_run(provider=provider)
        assert code == 2
        assert f"another run is writing to {output}" in one_line(errors)
        assert process.wait(30) == 0
    assert_answered(chat_rows(30), output)
    assert provider.stats()["arrivals"] == 30


def test_a_full_disk(batch_run, source, output, file_limit, stormbreak_provider):
    with file_limit(8_000):
        code, _, errors = batch_run("--quiet", provider=stormbreak_provider(scenario()))
    assert code == 2
    assert f"{output}: cannot write: " in one_line(errors)
    assert 0 < len(read(output)) < 30
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert_answered(chat_rows(30), output)


def test_nobody_listens(batch_run, output, free_port):
    url = f"http://127.0.0.1:{free_port}/v1"
    code, said, errors = batch_run("--base-url", url, "--connect-grace", "0.4", "--quiet")
    assert (code, said) == (2, "")
    assert one_line(errors) == f"{url}: nothing answers there: connection refused"
    assert size_of(output) == 0


def test_what_listens_speaks_ssh(batch_run):
    with ssh_server() as url:
        code, _, errors = batch_run("--base-url", url, "--connect-grace", "0.4", "--quiet")
    assert code == 2
    assert one_line(errors) == f"{url}: nothing answers there: not HTTP"


@contextmanager
def ssh_server():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer, suppress(OSError):
                        peer.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
                        peer.recv(1 << 16)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


# ------------------------------------------------------------ a terminal


def on_a_terminal(*args, columns=100):
    """Run the command with stderr on a terminal; return its exit code and all that reached the screen."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    seen = []
    with started(*args, stdout=end, stderr=end) as process:
        os.close(end)
        with suppress(OSError):  # the other end is closed when the process is gone
            while piece := os.read(screen, 1 << 16):
                seen.append(piece)
        code = process.wait(10)
    os.close(screen)
    return code, b"".join(seen).decode()


def test_a_panel_is_redrawn_and_the_last_words_stay(source, output, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.1}, service=0.2))
    args = ("batch", "run", source, "--output", output, "--base-url", provider.base_url)
    _, screen = on_a_terminal(*args, "--concurrency", "5")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    for word in ("done", "failed", "left", "rows/s", "in flight", "of 5", "waiting", "retries",
                 "circuit", "closed", "tokens", "to go", "answered"):  # fmt: skip
        assert word in plain
    widths = [len(line) for line in re.split(r"[\r\n]+", plain) if "/" not in line]
    assert max(widths) <= 100


def test_nothing_of_a_stranger_reaches_the_terminal(source, tmp_path, output, stormbreak_provider):
    """Ids, models and what a provider says, with escapes and markup in them."""
    rows = [chat_row(n) | {"custom_id": f"{n}{HOSTILE}"} for n in range(30)]
    for row in rows[::2]:
        row["body"]["model"] = HOSTILE
    write(source, rows)
    with hostile_server() as url:
        args = ("batch", "run", source, "--output", output, "--base-url", url)
        code, screen = on_a_terminal(*args)
    assert code == 1
    assert "canary" not in screen
    with_lines = run(*args)
    assert "canary" not in with_lines.stdout + with_lines.stderr
    twice = write(tmp_path / "twice.jsonl", [rows[1], rows[1]])
    done = run("batch", "run", twice, "--output", tmp_path / "o.jsonl", "--base-url", url)
    assert done.returncode == 2
    assert "\x1b" not in one_line(done.stderr)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stderr)


@contextmanager
def hostile_server():
    """Refuses every request in words that a terminal might obey."""
    error = {"message": HOSTILE, "type": HOSTILE, "code": HOSTILE}
    body = json.dumps({"error": error}).encode()
    head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer, suppress(OSError):
                        peer.recv(1 << 16)
                        peer.sendall(head.encode() + body)

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("flags", "defaults"),
    [
        (("--policy", "article"), {"temperature": 0.7, "max_tokens": 1000}),
        (("--policy", "article", "--timeout", "9"), {"temperature": 0.7, "max_tokens": 1000}),
        ((), {}),
        (("--policy", "off"), {}),
        (("--policy", "FILE"), {}),
    ],
)
def test_the_article_alone_fills_in_what_a_chat_does_not_say(
    batch_run, monkeypatch, tmp_path, flags, defaults
):
    own = tmp_path / "own.toml"
    own.write_text('preset = "article"\npatience = 5\n')
    seen = []
    monkeypatch.setattr(
        "stormbreak.cli.batch_run.run_job", lambda job, _: seen.append(job) or 1 / 0
    )
    with suppress(ZeroDivisionError):
        batch_run(*(str(own) if flag == "FILE" else flag for flag in flags))

    assert defaults == seen[0].defaults


def test_the_article_sends_what_its_rows_do_not_say(batch_run, source, output):
    write(
        source, [{"model": "m", "prompt": "one"}, {"model": "m", "prompt": "two", "max_tokens": 5}]
    )
    bodies = []
    with echoing(bodies) as url:
        assert batch_run("--policy", "article", "--base-url", url)[0] == 0
    sent = sorted((body["temperature"], body["max_tokens"]) for body in bodies)

    assert sent == [(0.7, 5), (0.7, 1000)]
    assert len(read(output)) == 2


@contextmanager
def echoing(bodies):
    """A server that answers everything, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
