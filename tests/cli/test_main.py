"""The `stormbreak` command: help texts, suggestions and the version."""

import gc
import re
import sys
from collections import defaultdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import COMMANDS, parse

from stormbreak.__main__ import run
from stormbreak.cli.main import main, root

ROOT = Path(__file__).parents[2]
UNNAMED = re.compile(r"\b(INTEGER|FLOAT|NUMBER|TEXT|PATH|BOOLEAN|RANGE|DIRECTORY|FILENAME)\b")


def help_of(path, columns=80):
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(root, [*path[1:], "--help"])
    assert done.exit_code == 0, done.output
    return done.output.replace("Usage: root", "Usage: stormbreak")


def test_the_help_of_every_command_fits_and_has_an_example():
    for path, command in COMMANDS.items():
        text = help_of(path)
        examples = re.findall(r"^ +(stormbreak .*)$", text, re.MULTILINE)
        assert examples, path
        for example in examples:
            called, context = parse(example)
            assert not context.args, example
            assert called == path or isinstance(command, click.Group), example
        lines = [line for line in text.splitlines() if line.strip() not in examples]
        assert max(map(len, lines)) <= 80, path
        assert not UNNAMED.search(text), path
        for param in command.params:
            assert isinstance(param, click.Argument) or param.help, (path, param.name)
        assert max(map(len, help_of(path, columns=200).splitlines())) <= 102, path


def test_an_option_has_one_short_form_in_all_commands():
    letters = defaultdict(set)
    for command in COMMANDS.values():
        for param in command.params:
            if isinstance(param, click.Option):
                long, *short = sorted(param.opts, key=len, reverse=True)
                letters[long].add(tuple(short))
    assert {long: short for long, short in letters.items() if len(short) > 1} == {}
    used = [letter for (short,) in letters.values() for letter in short]
    assert len(used) == len(set(used))


def test_the_help_of_retry_shows_no_default_of_run():
    run, retry = (help_of(("stormbreak", "batch", name)) for name in ("run", "retry"))
    assert "[default: batch]" in run
    assert "[default:" not in retry


def test_the_help_starts_with_three_commands_and_ends_with_the_exit_codes():
    text = help_of(("stormbreak",))
    start, _, rest = text.partition("Send prompts:")
    assert start.count("  stormbreak ") == 3
    assert "Test a policy:\n  demo " in rest
    assert "from stormbreak import AsyncClient" in rest
    assert "130 interrupted" in rest


def test_a_typo_gets_the_nearest_suggestion(capsys):
    for typed, meant in (
        (["bacth"], "batch"),
        (["batch", "runn", "in.jsonl"], "run"),
        (["storm", "run", "dip", "--pollicy", "x"], "--policy"),
    ):
        assert main(typed) == 2
        err = capsys.readouterr().err.replace("'", "")  # click has quotes since 8.4
        assert f"Did you mean {meant}? (see stormbreak" in err


def test_version_works_without_an_installed_package(monkeypatch, capsys):
    monkeypatch.setattr(
        "importlib.metadata.version", None
    )  # run from a folder, nothing is installed
    for argv in (["--version"], ["-V"]):
        assert main(argv) == 0
        assert capsys.readouterr().out.startswith("stormbreak, version ")


def documented():
    """Every call of a command in the code blocks of README and docs."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for block in re.findall(
            r"^```(?:sh|console)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            for line in block.replace("\\\n", " ").splitlines():
                if call := re.match(r"(?:\$ )?(stormbreak .*)", line.strip()):
                    yield page.name, call[1]


def test_the_commands_in_the_docs_have_only_options_that_exist():
    calls = list(documented())
    assert len(calls) > 50
    for page, call in calls:
        try:
            parse(call)
        except click.exceptions.Exit:  # --help
            continue
        except click.ClickException as error:
            pytest.fail(f"{page}: {call}: {error.format_message()}")


@pytest.mark.parametrize(("word", "collects"), [("--version", False), ("config show batch", True)])
def test_garbage_collection_is_enabled_when_a_command_begins(monkeypatch, word, collects):
    monkeypatch.setattr(sys, "argv", ["stormbreak", *word.split()])
    try:
        assert run() == 0
        assert gc.isenabled() is collects
    finally:
        gc.enable()
