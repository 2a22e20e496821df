"""Bad input of `stormbreak batch run`: one line, exit code 2, and no file changed."""

import json

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    chat_row,
    chat_rows,
    one_line,
    read,
    run_args,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from odd_servers import socket_server
from table_test import table_test

from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cli.main import main

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

WRONG = [
    (["--no-such-flag"], "--no-such-flag"),
    (["--concurrency", "0"], "--concurrency"),
    (["--concurrency", "many"], "'many'"),
    (["--rpm", "0"], "--rpm"),
    (["--tpm", "lots"], "must be a number above 0, got 'lots'"),
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
    (["--fallback-api-key-env", "KEY"], "--fallback-api-key-env: give --fallback-base-url too"),
    (
        ["--base-url", "http://127.0.0.1:1/v1", "--fallback-base-url", "ftp://x"],
        "fallback.targets[0]: base_url must look like https://host/v1",
    ),
    (["--provider", "holysheep"], "HOLYSHEEP_API_KEY"),
    (["--provider", "holysheep", "--api-key-env", "MY_KEY"], "MY_KEY"),
    ([], "STORMBREAK_BASE_URL"),
]


def test_a_wrong_flag_is_named_and_no_file_is_created(batch_run, tmp_path):
    for flags, named in WRONG:
        code, out, errors = batch_run(*flags)
        assert code == 2
        assert named in one_line(errors)
        assert out == ""
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_missing_or_extra_arguments_are_a_usage_error(capsys):
    for args in ([], ["in.jsonl"], ["--output", "out.jsonl"], ["a", "b", "--output", "c"]):
        assert main(["batch", "run", *args]) == 2
        assert one_line(capsys.readouterr().err)


# ------------------------------------------------------------ INPUT


GOOD = json.dumps(chat_row(1)).encode() + b"\n"

BROKEN = [
    (b"", "no rows"),
    (b"\n\n", "no rows"),
    (GOOD + b'{"custom_id": "x", "body"\n', "in.jsonl:2"),
    (GOOD + b"\n[1]\n", "in.jsonl:3"),
    (GOOD + b"\xff\xfe\n", "in.jsonl:2"),
    (
        GOOD + json.dumps(chat_row(2)).encode() + b"\n" + GOOD,
        "in.jsonl:3: custom_id 'row-1' is already on line 1",
    ),
    (GOOD + b'{"custom_id": "y", "prompt": "no model"}\n', "in.jsonl:2: has no model"),
]


def test_a_missing_key_is_an_error_before_the_input_is_read(batch_run, source):
    source.write_bytes(b"no row")
    code, _, errors = batch_run("--provider", "holysheep")
    assert code == 2
    assert one_line(errors) == "no API key: set HOLYSHEEP_API_KEY"


def test_a_broken_input_is_an_error_with_its_line(batch_run, source, tmp_path):
    for content, named in BROKEN:
        source.write_bytes(content)
        code, out, errors = batch_run("--base-url", "http://127.0.0.1:1/v1")
        assert (code, out) == (2, "")
        assert named in one_line(errors)
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_missing_input_is_named(batch_run, source):
    source.unlink()
    code, _, errors = batch_run("--base-url", "http://127.0.0.1:1/v1")
    assert code == 2
    assert f"{source}: cannot read the input: no such file" in one_line(errors)


# ------------------------------------------------------------ OUTPUT


def test_an_output_of_another_input_is_rejected(
    batch_run, source, output, tmp_path, stormbreak_provider
):
    provider = stormbreak_provider(scenario())
    assert batch_run(provider=provider)[0] == 0
    write(source, chat_rows(31))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = batch_run(provider=provider)
    assert code == 2
    assert f"{output}: belongs to a run of" in one_line(errors)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert provider.stats()["arrivals"] == 30


@table_test("stream", ["stdout", "stderr"])
def test_an_output_that_is_a_standard_stream_is_rejected(source, output, stream):
    words = ["batch", "run", str(source), "--output", str(output)]
    with (
        output.open("w") as file,
        started(*words, "--base-url", "http://127.0.0.1:1/v1", **{stream: file}) as process,
    ):
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "is standard output or error; choose another" in (err or output.read_text())


def test_an_output_that_is_no_batch_output_is_rejected(batch_run, output, tmp_path):
    output.write_bytes(b"my thesis\n")
    code, _, errors = batch_run("--base-url", "http://127.0.0.1:1/v1")
    assert code == 2
    assert str(output) in one_line(errors)
    assert output.read_bytes() == b"my thesis\n"
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_an_output_that_is_the_input_is_rejected(source, capsys):
    before = source.read_bytes()
    args = ["batch", "run", str(source), "--output", str(source)]
    assert main([*args, "--base-url", "http://127.0.0.1:1/v1"]) == 2
    assert "is the input" in one_line(capsys.readouterr().err)
    assert source.read_bytes() == before


def test_a_second_run_at_the_same_time_is_rejected(batch_run, source, output, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.5))
    args = run_args(source, output, provider.base_url)
    with started(*args, "--concurrency", "10") as process:
        wait_until(lambda: size_of(output), "a first answer")
        code, _, errors = batch_run(provider=provider)
        assert code == 2
        assert f"another run is writing to {output}" in one_line(errors)
        assert process.wait(PATIENCE) == 0
    assert_answered(chat_rows(30), output)
    assert provider.stats()["arrivals"] == 30


def test_a_full_disk_is_one_line_and_the_next_run_resumes(
    batch_run, source, output, file_limit, stormbreak_provider
):
    with file_limit(8_000):
        code, _, errors = batch_run("--quiet", provider=stormbreak_provider(scenario()))
    assert code == 2
    assert f"{output}: cannot write: " in one_line(errors)
    assert 0 < len(read(output)) < 30
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert_answered(chat_rows(30), output)


# ------------------------------------------------------------ the address


def test_a_refused_connection_is_an_error_of_one_line(batch_run, output, free_port):
    url = f"http://127.0.0.1:{free_port}/v1"
    code, out, errors = batch_run("--base-url", url, "--connect-grace", "0.4", "--quiet")
    assert (code, out) == (2, "")
    assert one_line(errors) == f"{url}: nothing answers there: connection refused"
    assert size_of(output) == 0


def test_a_server_that_does_not_use_http_is_an_error_of_one_line(batch_run):
    with ssh_server() as url:
        code, _, errors = batch_run("--base-url", url, "--connect-grace", "0.4", "--quiet")
    assert code == 2
    assert one_line(errors) == f"{url}: nothing answers there: not HTTP"


def ssh_server():
    def greet(peer):
        peer.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
        peer.recv(1 << 16)

    return socket_server(greet)


# ------------------------------------------------------------ checks before INPUT is read


def test_errors_of_the_output_come_before_the_input_is_read(
    source, output, batch_run, stormbreak_provider, tmp_path
):
    provider = stormbreak_provider("calm")
    source.write_text("no request\n")  # an error if it is read
    files = BatchPaths.of(output)
    with locked(files):
        assert "another run is writing to" in one_line(batch_run(provider=provider)[2])
    output.write_text("precious\n")
    assert "exists, and no out.jsonl.run says" in one_line(batch_run(provider=provider)[2])
    elsewhere = ("--output", str(tmp_path / "none" / "out.jsonl"))
    assert "no such directory" in one_line(batch_run(*elsewhere, provider=provider)[2])
