"""Any content of a file argument gives one line that names the file and code 2, never a traceback."""

import os
import re
import stat
from pathlib import Path

import pytest

from stormbreak import file_reader
from stormbreak.cli.main import main
from stormbreak.config import load_settings
from stormbreak.errors import ConfigurationError

RUN = "--base-url http://127.0.0.1:9/v1 --quiet"
COMMANDS = {
    "config check {}",
    "config check {} --profile a",
    "config show {}",
    f"batch run {{}} --output out.jsonl {RUN}",
    f"batch run ok.jsonl --output out.jsonl {RUN} --policy {{}}",
    f"batch run ok.jsonl --output out.jsonl {RUN} --max-cost 1 --prices {{}}",
    "batch estimate {} --provider openai",
    "batch estimate ok.jsonl --provider openai --prices {}",
    f"batch retry {{}} {RUN}",
    "cost compare --from {}",
    "cost prices gpt-4.1 --prices {}",
    "cost report {}",
    "cost roi --storm {}",
    "storm show {}",
    "storm run {}",
    "storm run calm-burst --policy {}",
    "storm run calm-burst --arrivals {}",
    "storm run calm-burst --arrivals {} --time-field a",
    "storm run calm-burst --batch-input {}",
    "storm fit {}",
    "storm tune --policy {}",
    "provider serve --port 0 --scenario {}",
}


def dotted(parts, prefix=""):
    return f"{prefix}{'.'.join(['a'] * parts)} = 1\n".encode()


WRITTEN = {
    "parts-600": dotted(600),
    "table-600": b"[" + dotted(600)[:-5] + b"]\nx = 1\n",
    "profile-600": dotted(600, "profiles."),
    "policy-600": dotted(600, "targets.a.policy."),
    "limit-300": dotted(300, "limit."),
    "prices-600": b"[[prices]]\n" + dotted(600, "batch."),
    "load-600": dotted(600, "load."),
    "inline": b"a = " + b"{a = " * 300 + b"1" + b"}" * 300,
    "lists": b"limit = " + b"[" * 300 + b"]" * 300,
    "half-json": b'{"a":' * 5000,
    "json-lists": b'{"model": "m", "messages": ' + b"[" * 100_000,
    "json-number": b'{"model": "m", "messages": [], "n": ' + b"9" * 5000 + b"}\n",
    "json-kinds": b'1\n[1]\nnull\n"x"\n{"a": [1]}\n',
    "huge-key": b"k" * 100_000 + b" = 1\n",
    "huge-value": b"preset = '" + b"v" * 100_000 + b"'\n",
    "huge-number": b"deadline = " + b"9" * 5000,
    "null": b"a = 'x\0y'\n",
    "two-marks": b"\xef\xbb\xbf\xef\xbb\xbfa = 1\n",
    "utf-16": "a = 1\n".encode("utf-16"),
    "latin-1": b"a = '\xe9'\n",
    "table-is-1": b"targets = 1\nload = 1\nprices = 1\n",
    "kind-is-list": b"[limit]\nkind = [1]\n",
    "list-in-list": b"fallback = [[1]]\nprices = [[1]]\nprofiles = [[1]]\n",
    "key": b"# sk-proj-c4n4ryAbCdEf1234567890\n",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The folder, and the names of the files in it."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in WRITTEN.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "unreadable").write_bytes(b"a = 1\n")
    (folder / "unreadable").chmod(0)
    (folder / "ok.jsonl").write_text('{"model": "m", "messages": []}\n')
    return folder, [
        *WRITTEN,
        "folder",
        "loop",
        "pipe",
        "unreadable",
        "gone",
        "n" * 300,
        "ok.jsonl/x",
    ]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_hostile_file_is_one_line_and_code_2(command, hostile, monkeypatch, capsys):
    folder, names = hostile
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(file_reader, "PIPE_PATIENCE", 0.01)
    wrong = []
    for name in names:
        code = main([word.format(f"./{name}") for word in command.split()])
        out, err = capsys.readouterr()
        one_line = err.startswith("stormbreak: ") and err.count("\n") == 1 and len(err) < 1000
        if (code, out, one_line, "c4n4ry" in err) != (2, "", True, False):
            wrong.append((name, code, out[:80], err[:200]))
    assert wrong == []


def test_a_deeply_nested_key_is_named(tmp_path, capsys):
    for parts in (600, 2000):
        path = tmp_path / "policy.toml"
        path.write_bytes(dotted(parts, "limit."))

        assert main(["config", "check", str(path)]) == 2
        # a recursive parser fails before it knows the key
        assert re.fullmatch(
            f"stormbreak: {path}: ('limit' is nested too deeply: more than 32 levels|nested too deeply)\n",
            capsys.readouterr().err,
        )


def test_a_deeply_nested_variable_is_rejected(tmp_path):
    for name, value in (
        ("STORMBREAK__" + "__".join(["A"] * 600), "1"),
        ("STORMBREAK__LIMIT", "[" * 90 + "]" * 90),
    ):
        path = tmp_path / "policy.toml"
        path.touch()
        with pytest.raises(ConfigurationError, match=r"STORMBREAK__.*(nested too deeply|32 parts)"):
            load_settings(path, environ={name: value})


def test_a_pipe_with_a_writer_is_read_like_a_file():
    """For example `<(...)` of a shell."""
    out, into = os.pipe()
    try:
        os.write(into, b"deadline = 7\n")
        os.close(into)
        assert stat.S_ISFIFO(os.fstat(out).st_mode)
        assert file_reader.read_text(Path(f"/dev/fd/{out}"), what="a policy") == "deadline = 7\n"
    finally:
        os.close(out)
