"""Law 19: a key and a prompt appear only where they must, whatever a hostile server does with them.

The server puts the key and the prompt into every part of a response: messages, codes, types, headers, redirects, status
lines, cut bodies. Everything is logged and printed.
"""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from urllib.parse import quote

import httpx2
import openai
import pytest
from canary import KEY, PROMPT, SHOW_KEYS, WORD, assert_clean, everything_logged_to, shown_by
from exporters import Exporters
from sdk_clients import SDKS
from sockets import End, answer, served

from stormbreak import AsyncClient, Policy, explain
from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import StormbreakError
from stormbreak.httpx2 import wrap


def hostile(form, status):
    """A response of this form that repeats the request."""

    async def play(request, writer):
        key = next(request.headers[name] for name in SHOW_KEYS if name in request.headers)
        prompt = json.loads(request.body)["messages"][0]["content"]
        writer.write(_FORMS[form](status, key, prompt))
        await writer.drain()

    return play


def _error(code):
    def form(status, key, prompt):
        error = {"message": f"{key} said {prompt}", "type": f"{key}", "param": prompt, "code": code}
        return answer(json.dumps({"error": error}).encode(), status, **_headers(key, prompt))

    return form


def _headers(key, prompt):
    bare = key.removeprefix("Bearer ")
    return {
        "x_request_id": bare,
        "x_echo": key,
        "x_said": prompt,
        "set_cookie": f"key={bare}; prompt={quote(prompt)}",
        "location": f"//{bare}.evil.example/{quote(prompt)}?{quote(key)}",
        "retry_after": prompt,
        "www_authenticate": key,
    }


def _answer(status, key, prompt):
    message = {"content": f"{key} asked: {prompt}", "role": "assistant"}
    body = {"id": key, "model": prompt, "choices": [{"message": message, "finish_reason": "stop"}]}
    body |= {"content": [{"type": "text", "text": message["content"]}], "stop_reason": "end_turn"}
    return answer(
        json.dumps(body).encode(), status, **_headers(key, prompt) | {"x_request_id": WORD}
    )


_FORMS = {
    "key as code": _error(KEY),
    "word as code": _error(WORD),
    "prompt as code": _error(PROMPT),
    "both in plain text": lambda status, key, prompt: answer(f"{key} {prompt}".encode(), status),
    "both in html": lambda status, key, prompt: answer(f"<html>{key} {prompt}".encode(), status),
    "no HTTP": lambda _, key, prompt: f"{key} {prompt}\r\n\r\n".encode(),
    "broken header": lambda _, key, prompt: f"HTTP/1.1 200 OK\r\n{key} {prompt}\r\n\r\n".encode(),
    "headers without an end": lambda _, key, prompt: (
        f"HTTP/1.1 200 OK\r\nx: {key} {prompt}\r\n".encode()
    ),
    "broken chunk": lambda _, key, prompt: (
        f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{key} {prompt}\r\n".encode()
    ),
    "cut": lambda status, key, prompt: _answer(status, key, prompt)[:-5],
    "an answer": _answer,
}
SCRIPTS = [
    [hostile(form, status), End.CLOSE]
    for form, statuses in {
        "key as code": (200, 307, 400, 401, 402, 403, 404, 418, 429, 500, 503, 529),
        "word as code": (200, 400, 429, 500),
        "prompt as code": (400, 503),
        "both in plain text": (200, 400, 502),
        "both in html": (200, 502),
        "no HTTP": (200,),
        "broken header": (200,),
        "headers without an end": (200,),
        "broken chunk": (200,),
        "cut": (200, 500),
        "an answer": (200,),
    }.items()
    for status in statuses
]
WAYS = [
    ("", "chat/completions"),
    ("", "messages"),
    ("x.openai.azure.com", "chat/completions"),
    ("api.anthropic.com", "messages"),
]
SAY = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def everything_logged(tmp_path):
    with everything_logged_to(tmp_path / "log.txt") as path:
        yield path


@pytest.mark.parametrize(("host", "endpoint"), WAYS)
async def test_key_and_prompt_appear_nowhere_in_a_process_with_a_client(
    everything_logged, stormbreak_provider, capfd, recwarn, monkeypatch, host, endpoint
):
    asyncio.get_running_loop().set_debug(True)
    policy = Policy(
        retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.0)),
        breaker=None,
        retry_budget=None,
    )
    seen, exporters = [], Exporters()
    async with served(*SCRIPTS * 4) as server:
        if host:
            monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{server.port}")  # to every host
        base_url = f"http://{host}/v1" if host else server.base_url
        given = {"base_url": base_url, "api_key": KEY, "model": "m", "policy": policy}
        async with AsyncClient(**given, allow_http=True) as client:
            exporters.attach(client)
            while len(server.requests) < 2 * len(SCRIPTS):
                seen += [text async for text in shown_of(client, endpoint)]
            seen += [repr(client.snapshot()), repr(client), repr(vars(client))]
            seen += [
                repr(vars(part)) for part in vars(client).values() if hasattr(part, "__dict__")
            ]
    provider = stormbreak_provider("chaos", speed=100)
    async with AsyncClient(**given | {"base_url": provider.base_url}) as client:
        exporters.attach(client)
        for _ in range(8):
            seen += [text async for text in shown_of(client, endpoint)]
    seen += [*exporters.shown(), *(str(warning.message) for warning in recwarn)]
    assert_clean("\n".join(seen), "output")
    assert_clean(everything_logged.read_text(), "the log")
    assert "again after 0.0 s" in everything_logged.read_text()
    assert_clean("".join(capfd.readouterr()), "the terminal")
    assert len(seen) > 100


async def shown_of(client, endpoint):
    for options in ({}, {"stream": True}):
        log = logging.getLogger("app")
        try:
            got = await client.request(endpoint, {"messages": SAY, "max_tokens": 9, **options})
        except StormbreakError as error:
            log.exception("failed")
            log.warning("%s %r", error, error)
            yield shown_by(error)
        else:
            log.warning("%s %r", got, got)
            yield f"{got} {got!r} {got.target} {got.request_id}"


async def test_no_frame_of_a_traceback_contains_the_key():
    """Tools that show the local variables of a traceback find no key in it."""
    policy = Policy(retry=RetryPolicy(max_attempts=1), breaker=None, attempt_timeout=0.1)
    async with served(*SCRIPTS, End.HANG) as server:
        given = {"base_url": server.base_url, "model": "m", "policy": policy}
        async with AsyncClient(api_key=KEY, **given) as client:
            while len(server.requests) <= len(SCRIPTS):
                error = await caught_from(client)
                found = traceback.TracebackException.from_exception(error, capture_locals=True)
                assert KEY not in "".join(found.format())


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("inner", [False, True])
async def test_key_and_prompt_appear_nowhere_in_a_process_with_a_transport(
    everything_logged, capfd, recwarn, blocks, inner
):
    """The loggers of openai and httpx2 are excluded."""
    asyncio.get_running_loop().set_debug(True)
    for theirs in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(theirs).setLevel(logging.WARNING)
    policy = Policy(
        retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.0)),
        breaker=None,
        retry_budget=None,
    )
    sdk = SDKS[2 if blocks else 0]
    http = (httpx2.Client if blocks else httpx2.AsyncClient)()
    under = wrap(http, policy)._transport if inner else sdk.transport(policy)
    http._transport = under
    seen, exporters = [], Exporters()
    exporters.attach(under)
    async with served(*SCRIPTS * 2) as server:
        client = openai_over(sdk, server.base_url, http)
        while len(server.requests) < len(SCRIPTS):
            for more in ({}, {"stream": True}):
                seen += await shown_by_sdk(sdk, client, more)
        seen += [repr(under.snapshot()), repr(under), repr(vars(under))]
        seen += [repr(vars(part)) for part in vars(under).values() if hasattr(part, "__dict__")]
        await sdk.close(client)
    seen += [*exporters.shown(), *(str(warning.message) for warning in recwarn)]
    assert_clean("\n".join(seen), "output")
    assert_clean(everything_logged.read_text(), "the log")
    assert_clean("".join(capfd.readouterr()), "the terminal")
    assert len(seen) > 100


def openai_over(sdk, base_url, http):
    return sdk.over(base_url, http).with_options(api_key=KEY, max_retries=0)


async def shown_by_sdk(sdk, client, more):
    """The texts of stormbreak about the end of a call. The response of the provider belongs to the caller."""
    log = logging.getLogger("app")
    try:
        got = await sdk.ask(client, messages=SAY, **more)
        if more:
            await sdk.read(got)
    except openai.APIError as error:
        shown = [explain(error)]
        for link in (error.__cause__, error.__context__):
            if type(link).__module__.startswith("httpx2") and not hasattr(link, "response"):
                shown += [*traceback.format_exception(link, chain=False), *link.__notes__]
        log.warning("%s", shown)
        return shown
    return [explain(getattr(got, "response", got))]


async def caught_from(client):
    try:
        await client.chat(SAY)
    except StormbreakError as error:
        return error
    return StormbreakError()


# ------------------------------------------------------------ the command line


@contextlib.contextmanager
def hostile_server():
    """Run the hostile server in a thread."""
    ready, stop = threading.Event(), []
    port = []

    async def main():
        async with served(*SCRIPTS * 2, [hostile("an answer", 200), End.CLOSE]) as server:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            stop.append(lambda: loop.call_soon_threadsafe(over.set))
            port.append(server.port)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{port[0]}/v1"
    stop[0]()
    thread.join(60)


COMMAND = """
import logging, os, sys
logging.basicConfig(filename={log!r}, level=logging.DEBUG)
from stormbreak.cli.main import main
for base_url, shape in zip(sys.argv[1:3], ([], ["--json"])):
    os.chdir("json" if shape else "text")
    assert main([*sys.argv[3:], "--base-url", base_url, *shape]) == 1
    os.chdir("..")
"""
POLICY = """
preset = "batch"
breaker = "none"
retry_budget = "none"
[retry]
max_attempts = 3
backoff = { kind = "constant", initial_delay = 0.01 }
"""


ASKS = ({}, {"url": "/v1/messages", "max_tokens": 9})


def test_key_and_prompt_appear_in_no_output_of_a_batch_run(tmp_path):
    rows = [{"custom_id": f"r{n}", "prompt": f"{PROMPT} {n}", **ASKS[n % 2]} for n in range(40)]
    folders = [tmp_path / name for name in ("text", "json")]
    for folder in folders:
        folder.mkdir()
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "policy.toml").write_text(POLICY)
    script = COMMAND.format(log=str(tmp_path / "log.txt"))
    with hostile_server() as one, hostile_server() as other:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", script, one, other, "batch", "run", "in.jsonl", "--output", "out.jsonl",
             "--api-key-env", "MY_KEY", "--model", "m", "--concurrency", "8",
             "--policy", "policy.toml", "--report", "report.html"],
            env={**os.environ, "MY_KEY": KEY, "PYTHONASYNCIODEBUG": "1"},
            cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_clean(done.stdout, "stdout")
    assert_clean(done.stderr, "stderr")
    assert_clean((tmp_path / "log.txt").read_text(), "log.txt")
    for folder in folders:
        assert_files_are_clean(folder)


def assert_files_are_clean(folder):
    files = {path.name for path in folder.iterdir()}
    assert {
        "in.jsonl",
        "out.jsonl",
        "out.failed.jsonl",
        "out.jsonl.run",
        "report.html",
    } <= files
    for name in files - {"in.jsonl", "out.jsonl"}:
        assert_clean((folder / name).read_text(), name)
    assert KEY not in (folder / "in.jsonl").read_text()
    assert KEY in (folder / "out.jsonl").read_text()  # a successful answer is never changed
    lines = [
        json.loads(line)
        for name in ("out.jsonl", "out.failed.jsonl")
        for line in (folder / name).read_text().splitlines()
    ]
    assert len(lines) == 40
    for line in lines:
        if line["response"] is not None:
            del line["response"]["body"]
        assert_clean(json.dumps(line), "a line, apart from the provider's body")
