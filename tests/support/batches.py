"""Batches for tests: inputs, scenarios, the command in this or a child process, and checks of the results."""

import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from unittest.mock import patch
from urllib.request import urlopen

from fork_server import ForkedPopen

from stormbreak.batch.running.snapshot import RunSnapshot
from stormbreak.cli.main import main
from stormbreak.cost.accounts import Cost
from stormbreak.llm.providers import PRESETS
from stormbreak.testing import answer_text

KEYS = [preset.key_env for preset in PRESETS.values() if preset.key_env]
OWN = ("STORMBREAK_", *(name.removesuffix("API_KEY") for name in KEYS))
PATIENCE = 180.0  # seconds; longer counts as a hang, also beside eight busy processes


def chat_row(number, **more):
    """One row in the OpenAI Batch format."""
    messages = [{"role": "user", "content": f"document {number}"}]
    body = {"model": "storm-1", "messages": messages, **more}
    return {
        "custom_id": f"row-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


def chat_rows(count, **more):
    return [chat_row(number, **more) for number in range(count)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    """The lines of a file of the batch; none if there is no such file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def scenario(*faults, service=0.0, variation=0.0, **provider):
    """A scenario in TOML, in real seconds; a fault is a dict."""
    lines = ["duration = 3600", "[provider]", f"service = {service}", f"variation = {variation}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in provider.items()]
    for fault in faults:
        lines.append("[[faults]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in fault.items()]
    return "\n".join(lines) + "\n"


def assert_answered(rows, output):
    """Check that each custom_id has exactly one line, with the answer to its request."""
    lines = read(output)
    counted = Counter(line["custom_id"] for line in lines)
    assert counted == Counter(row["custom_id"] for row in rows)
    bodies = {row["custom_id"]: row["body"] for row in rows}
    for line in lines:
        response = line["response"]
        assert line["error"] is None
        assert response["status_code"] == 200
        text = response["body"]["choices"][0]["message"]["content"]
        assert text == answer_text(bodies[line["custom_id"]])


def environment(**more):
    """The environment of this process without variables about providers."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OWN)}
    return clean | {"COLUMNS": "100", "TERM": "xterm-256color"} | more


def command(*args):
    return [sys.executable, "-W", "error", "-m", "stormbreak", *map(str, args)]


def run(*args, **env):
    """Run the command in this process; return its exit code, stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, environment(**env), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main([*map(str, args)])
    printed = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(args, code, *printed)


@contextmanager
def started(*args, **options):
    """Start the command; it is killed when the context ends."""
    env = environment(**options.pop("env", {}))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with ForkedPopen(command(*args), env=env, **pipes) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def wait_until(fact, what="it"):
    """Wait until `fact()` is true."""
    give_up_at = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < give_up_at, f"{what} did not happen in {PATIENCE:g} s"
        time.sleep(0.005)


def size_of(path):
    return path.stat().st_size if path.exists() else 0


@contextmanager
def provider_process(*args):
    """Run the embedded provider in a child process; yield its base URL."""
    with started("provider", "serve", "--port", "0", *args) as process:
        yield process.stdout.readline().split()[-1]


def line_size(output):
    """The bytes of the first line; infinite without a line."""
    if not size_of(output):
        return float("inf")
    with output.open("rb") as file:
        return len(file.readline())


def stats(url):
    """The counts of a provider in another process."""
    with urlopen(url.removesuffix("/v1") + "/_provider/stats") as answer:
        return json.load(answer)


def run_args(source, output, url):
    """The arguments of a batch run, for `run` and `started`."""
    return ("batch", "run", source, "--output", output, "--base-url", url)


def one_line(errors):
    """The error message of a command; fails unless it is exactly one line."""
    assert errors.startswith("stormbreak: ")
    assert errors.count("\n") == 1
    assert errors.endswith("\n")
    return errors[len("stormbreak: ") : -1]


def a_snapshot(at=0.0, **changes):
    """A snapshot of an idle run with these changes."""
    counts = (
        "total", "done", "failed", "in_flight", "width", "limit", "waiting", "retries", "open_circuits", "cooling",
        "input_tokens", "output_tokens",
    )  # fmt: skip
    calm = {"circuit": "closed", "stopping": False, "interrupted": False, "slow": ""}
    spend = {"cost": Cost(), "cost_limit": None}
    return RunSnapshot(**dict.fromkeys(counts, 0) | calm | spend | {"at": at} | changes)
