"""Batches on the command line against a real model server, which is killed during one."""

import json
import time
from collections import Counter

import pytest
from batches import chat_rows, read, started, wait_until, write
from model_server import KEY

pytestmark = pytest.mark.real

ROWS = 50
TOKENS = 8
PATIENCE = 120.0


def arguments(server, tmp_path):
    rows = chat_rows(ROWS, max_tokens=TOKENS)
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    env = {"REAL_KEY": KEY}
    given = ("batch", "run", source, "--output", output, "--base-url", server.base_url)
    return (*given, "--api-key-env", "REAL_KEY", "--concurrency", 4, "--quiet"), output, env


def assert_each_once(output):
    lines = read(output)
    assert {f"row-{number}": 1 for number in range(ROWS)} == Counter(
        line["custom_id"] for line in lines
    )
    for line in lines:
        body = line["response"]["body"]
        assert body["choices"][0]["finish_reason"] in ("stop", "length")
        assert 0 <= body["usage"]["completion_tokens"] <= TOKENS
    assert not read(output.with_name("out.failed.jsonl"))


def test_a_batch_answers_fifty_prompts(model, tmp_path, figure):
    given, output, env = arguments(model, tmp_path)
    began = time.perf_counter()
    with started(*given, env=env) as batch:
        assert batch.wait(PATIENCE) == 0, batch.stderr.read()
    figure("rows_per_s", round(ROWS / (time.perf_counter() - began), 2))

    assert_each_once(output)


def test_a_server_killed_during_a_batch_loses_no_row(model, tmp_path, figure):
    given, output, env = arguments(model, tmp_path)
    with started(*given, env=env) as batch:
        wait_until(lambda: len(read_whole(output)) >= 10, "the tenth row")
        model.kill()
        time.sleep(1.0)  # long enough that calls are refused
        before = len(read_whole(output))
        model.start()
        began = time.perf_counter()
        wait_until(lambda: len(read_whole(output)) > before, "a row after the restart")
        figure("first_row_after_the_restart_s", round(time.perf_counter() - began, 2))
        assert batch.wait(PATIENCE) == 0, batch.stderr.read()

    assert before < ROWS
    assert_each_once(output)


def read_whole(output):
    """Return the complete lines so far."""
    text = output.read_bytes() if output.exists() else b""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
