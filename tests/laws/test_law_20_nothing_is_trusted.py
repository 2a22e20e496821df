"""Law 20. Bad configuration fails at start and names the key path and the value; a literal key in a file is refused without
echoing it; expressions have a grammar of their own, never `eval`; no file names a command or an import path. Bodies, headers,
lines, decompressed sizes and waits are bounded, each with its verdict.
"""

import ast
import asyncio
import builtins
import json
import zlib
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from on_threads import ClientOnThreads
from sockets import End, answer, failing, served
from table_test import table_test
from types_within import parts_of

from stormbreak.cli.main import main
from stormbreak.config import load_policy
from stormbreak.config.write_policy import plain
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.http.h1 import socket_response as h1_response
from stormbreak.llm import sse, stream_reader
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.assertions import parse_assertion
from stormbreak.types import Verdict

SOURCE = Path(__file__).parents[2] / "src" / "stormbreak"
CANARY = "sk-canary-4f9a81c2d7"


# ---------------------------------------------------------------- configuration


def leaves(value, path=()):
    """The key paths of a policy file that hold one value."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    else:
        yield path


PATHS = sorted({*leaves(plain(Policy()))} - {("shadow",)})


def toml_of(path, literal):
    *tables, key = path
    header = f"[{'.'.join(tables)}]\n" if tables else ""
    return f"{header}{key} = {literal}\n"


@table_test("path", PATHS)
def test_every_policy_key_names_itself_and_an_invalid_value(path, tmp_path, capsys):
    file = tmp_path / "policy.toml"
    file.write_text(toml_of(path, '"a-wrong-word"' if path[-1] not in ("path", "name") else "7"))
    code = main(["config", "check", str(file)])
    output = capsys.readouterr()

    assert (code, output.out) == (2, "")
    assert output.err.count("\n") == 1
    assert str(file) in output.err
    assert ".".join(path) in output.err
    assert ("a-wrong-word" if path[-1] not in ("path", "name") else "7") in output.err


@table_test("path", PATHS)
def test_an_api_key_in_any_place_of_a_policy_is_refused_without_echo(path, tmp_path):
    file = tmp_path / "policy.toml"
    for text in (toml_of(path, f'"{CANARY}"'), f"{toml_of(path, '1')}# {CANARY}\n"):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match="API key") as refused:
            load_policy(file)
        assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "command",
    [
        ("config", "check", "FILE"),
        ("config", "show", "FILE"),
        ("storm", "run", "dip", "--policy", "FILE"),
        ("storm", "run", "FILE"),
        ("provider", "serve", "--scenario", "FILE"),
        ("batch", "run", "in.jsonl", "--output", "out.jsonl", "--policy", "FILE"),
        ("batch", "run", CANARY, "--output", "out.jsonl"),
        ("storm", "run", CANARY),
        ("storm", "run", "dip", "--assert", f"goodput > {CANARY}"),
        ("storm", "run", "dip", "--policy", CANARY),
    ],
    ids=" ".join,
)
def test_no_command_runs_with_an_api_key_in_its_arguments_or_files(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello", "model": "m"}\n')
    (tmp_path / "policy.toml").write_text(f'api_key = "{CANARY}"\n')
    args = ["policy.toml" if arg == "FILE" else arg for arg in command]
    code = main(args)
    output = capsys.readouterr()

    assert (code, output.out, output.err.count("\n")) == (2, "", 1)
    assert CANARY not in output.err
    assert not (tmp_path / "out.jsonl").exists()


# ---------------------------------------------------------------- nothing is executed

FORBIDDEN = ("eval", "exec", "compile", "__import__", "open", "input", "breakpoint")
CODE = (
    "__import__('os').system('true')",
    "().__class__.__base__.__subclasses__()",
    "goodput >= 0.9 and open('x', 'w')",
    "goodput >= (lambda: 1)()",
    "goodput >= 0.9 if True else 0",
    "[x for x in ()]",
    "goodput.__class__ == 1",
    "${HOME} == 1",
    "`id` == 1",
    "$(id) == 1",
    "goodput >= 0.9; import os",
    "exec('1')",
    "f'{goodput}' == 1",
    "goodput := 1",
    "{{7*7}} == 49",
)
code_like = st.lists(
    st.sampled_from([*CODE, "goodput", "and", "or", "(", ")", ">", "0.9", "lambda", "import os"]),
    max_size=6,
).map(" ".join)


@given(st.one_of(st.text(max_size=200), code_like))
@example("goodput >= 0.9 and p99 <= 10")
@example("(" * 500)
def test_an_assertion_is_parsed_or_refused_and_never_executed(text):
    with ExitStack() as stack:
        traps = [stack.enter_context(mock.patch.object(builtins, name)) for name in FORBIDDEN]
        try:
            parse_assertion(text)
        except ConfigurationError as error:
            message = str(error)
        else:
            message = ""
        assert "\n" not in message
        for trap in traps:
            trap.assert_not_called()


@table_test("text", CODE)
def test_code_in_an_assertion_exits_with_2_and_one_line(text, capsys):
    code = main(["storm", "run", "dip", "--assert", text])
    output = capsys.readouterr()

    assert (code, output.out, output.err.count("\n")) == (2, "", 1)


EXECUTES = frozenset(
    {"eval", "exec", "compile", "__import__", "system", "popen", "spawnv", "execv"}
)
IMPORTS = frozenset(
    {"pickle", "marshal", "shelve", "subprocess", "code", "runpy", "yaml", "ctypes"}
)
BY_NAME = frozenset({"lazy_import.py", "cli/command.py"})
"""These import a module by a name from a table in the code."""

OWN_COMMANDS = frozenset({"demo.py", "gateway/workers.py"})
"""These start this program with fixed arguments."""


def test_no_source_file_can_execute_what_it_reads():
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                found = IMPORTS & {each.partition(".")[0] for each in modules}
                assert found == ({"subprocess"} & found if name in OWN_COMMANDS else set()), name
                assert name in BY_NAME or "importlib" not in modules, name
            if isinstance(node, ast.Call):
                called = node.func
                word = getattr(called, "id", None)
                if isinstance(called, ast.Attribute):
                    base = getattr(called.value, "id", "")
                    word = called.attr if base in ("os", "builtins") else None
                assert word not in EXECUTES, name


FREE_TEXTS = {
    "Place": {"provider", "base_url", "api_key_env", "model", "models"},
    "CachePolicy": {"path"},
    "ToDegraded": {"text"},
    "FleetPolicy": {"url", "name"},
    "QueuePolicy": {"tenant_weights"},
    "Provider": {"models"},
    "Fault": {"match"},
    "CannedAnswer": {"match", "text", "choices", "reasoning"},
    "ToolCall": {"name", "arguments"},
    "Load": {"preset"},
    "Scenario": {"name", "description"},
}
"""Every free text in a file, by its part: addresses, names of models and variables, texts to look for or to
answer, one file of data. None of them names anything to run, to import or to include.
"""


def parts(part):
    found = {part}
    for hint in get_type_hints(part).values():
        found |= {below for kind in (*parts_of(hint), *nested(hint)) for below in parts(kind)}
    return found


def nested(hint):
    if is_dataclass(hint):
        yield hint
    for inner in get_args(hint):
        yield from nested(inner)


def has_text(hint):
    return hint is str or any(has_text(inner) for inner in get_args(hint) if inner is not hint)


@table_test("root", [Policy, Scenario])
def test_no_file_names_a_command_or_an_import_path(root):
    for part in parts(root):
        hints = get_type_hints(part)
        texts = {field.name for field in fields(part) if has_text(hints[field.name])}
        assert FREE_TEXTS.get(part.__name__, set()) == texts, part


# ---------------------------------------------------------------- bounds, each with its verdict

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
JSON = b"content-type: application/json\r\n\r\n"
EVENTS = b"content-type: text/event-stream\r\n\r\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content):
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@cache
def bomb(form):
    packer = zlib.compressobj(1, wbits=31 if form == "gzip" else 15)
    packed = packer.compress(bytes(2**24)) + packer.flush()
    return answer(packed, content_encoding=form)


def endless(data, count=200):
    return [CHUNKED + JSON, *(chunk(data) for _ in range(count)), End.HANG]


PINGS = [item for _ in range(60) for item in (chunk(b": ping\n\n"), 0.02)]
ONCE = replace(OFF, attempt_timeout=5.0)
HASTY = replace(OFF, attempt_timeout=0.3)
STALLS = replace(OFF, stall_timeout=0.2)
IDLE = replace(OFF, idle_timeout=0.2)
WAITS = replace(OFF, retry=RetryPolicy(max_attempts=3))
NARROW = replace(OFF, limit=FixedLimit(max_in_flight=1), queue=QueuePolicy(max_size=1))
LATER = failing(429, retry_after="1000")

BOUNDS = [  # the bound, the behaviour of the server, the policy, streamed, verdict, part of the detail
    ("body", endless(b" " * 2**14), ONCE, False, Verdict.BROKEN, "larger than"),
    ("unpacked gzip", bomb("gzip"), ONCE, False, Verdict.BROKEN, "larger than"),
    ("unpacked deflate", bomb("deflate"), ONCE, False, Verdict.BROKEN, "larger than"),
    ("body of a stream", bomb("gzip"), ONCE, True, Verdict.BROKEN, "larger than"),
    ("trailer", [CHUNKED + JSON, chunk(b"{}"), b"0\r\nX: ", *[b"x" * 2**15] * 9, End.HANG], ONCE, False, Verdict.BROKEN, "body was cut"),
    ("chunk extension", [CHUNKED + JSON, b"2;", *[b"x" * 2**15] * 9, End.HANG], ONCE, False, Verdict.BROKEN, "body was cut"),
    ("header line", answer(x="x" * 10**5), ONCE, False, Verdict.BROKEN, "not HTTP"),
    ("headers", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9000, ONCE, False, Verdict.BROKEN, "not HTTP"),
    ("line", [CHUNKED + EVENTS, chunk(b"data: " + b"x" * 2**21), End.HANG], ONCE, True, Verdict.BROKEN, "line"),
    ("stream", [CHUNKED + EVENTS, *[chunk(event("x" * 999))] * 200, End.HANG], ONCE, True, Verdict.BROKEN, "longer than"),
    ("nesting", answer(b'{"x":' + b"[" * 10**5), ONCE, False, Verdict.BROKEN, "invalid json"),
    ("nesting of a stream", [CHUNKED + EVENTS, chunk(b"data: " + b"[" * 10**5 + b"\n\n"), End.CLOSE], ONCE, True, Verdict.BROKEN, "json"),
    ("time for an answer", [End.HANG], HASTY, False, Verdict.TIMEOUT, None),
    ("time for a body", [answer()[:-9], End.HANG], HASTY, False, Verdict.TIMEOUT, None),
    ("time for pings", [CHUNKED + EVENTS, *PINGS, End.HANG], HASTY, True, Verdict.TIMEOUT, None),
    ("silence", [answer()[:-9], End.HANG], IDLE, False, Verdict.TIMEOUT, "went silent"),
    ("stall", [CHUNKED + EVENTS, chunk(event("x")), End.HANG], STALLS, True, Verdict.TIMEOUT, "went silent"),
    ("named wait", failing(429, retry_after="9" * 300), WAITS, False, Verdict.THROTTLED, None),
    ("named wait of a 503", failing(503, retry_after="99999999"), WAITS, False, Verdict.OVERLOADED, None),
]  # fmt: skip


@pytest.mark.parametrize("kind", [AsyncClient, ClientOnThreads], ids=["awaits", "blocks"])
@pytest.mark.parametrize(
    ("script", "policy", "streamed", "verdict", "detail"),
    [row[1:] for row in BOUNDS],
    ids=[row[0] for row in BOUNDS],
)
async def test_every_unbounded_response_has_a_bound_and_a_verdict(
    script, policy, streamed, verdict, detail, kind, monkeypatch
):
    """The bounds of bytes are lowered, so that the test is quick; the real ones are in `test_faults`."""
    for module in (h1_response,):
        monkeypatch.setattr(module, "BODY_LIMIT", 2**22 if detail == "line" else 2**20)
    monkeypatch.setattr(sse, "LINE_LIMIT", 2**20)
    monkeypatch.setattr(stream_reader, "TOTAL_LIMIT", 2**16 if detail == "longer than" else 2**22)
    async with (
        served(script) as server,
        kind(base_url=server.base_url, model="m", policy=policy) as client,
    ):
        body = json.dumps({"model": "m", "messages": [], "stream": streamed}).encode()
        ended = await client.ask("chat/completions", body)
    outcome = ended.outcome

    assert (verdict, 1) == (outcome.verdict, ended.attempts)
    assert detail is None or detail in outcome.detail


async def test_a_wait_beyond_the_bound_ends_the_call_with_the_time_to_retry():
    async with (
        served(LATER) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=WAITS) as client,
    ):
        ended = await client.ask("chat/completions", b'{"model":"m"}')
        again = await client.ask("chat/completions", b'{"model":"m"}', deadline=1.0)

    assert (ended.attempts, ended.stopped) == (1, "max_wait")
    assert ended.retry_at is not None
    assert (again.outcome.verdict, again.attempts) == (Verdict.THROTTLED, 1)


async def test_the_number_of_waiting_calls_is_bounded():
    async with (
        served(End.HANG) as server,
        AsyncClient(base_url=server.base_url, model="m", policy=NARROW) as client,
    ):
        tasks = [
            asyncio.ensure_future(client.ask("chat/completions", b'{"model":"m"}'))
            for _ in range(3)
        ]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    (refused,) = (task.result() for task in done)
    assert (
        refused.outcome.verdict,
        refused.stopped,
        refused.attempts,
    ) == (Verdict.REJECTED, "queue", 0)
