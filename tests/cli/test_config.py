"""`stormbreak config` from its user's side: one line, and an exit code."""

import pytest

from stormbreak.cli.main import main
from stormbreak.config import describe, load_policy
from stormbreak.core.presets import BATCH, PRESETS


@pytest.fixture
def policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.toml"
    path.write_text('preset = "batch"\n[retry]\nattempts = 3\n')
    return path


def test_check_says_ok(policy, capsys):
    assert main(["config", "check", "policy.toml"]) == 0
    assert capsys.readouterr() == ("policy.toml: ok\n", "")


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_mistake_is_one_line_and_exit_code_2(policy, capsys, command):
    policy.write_text("[retry.backoff]\nbase = -3")
    assert main(["config", command, "policy.toml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "stormbreak: policy.toml: retry.backoff.base must be positive, got -3\n"


@pytest.mark.parametrize("argv", [["check", "nowhere.toml"], ["show", "nobody"], ["check", "."]])
def test_what_is_not_there_is_one_line_and_exit_code_2(policy, capsys, argv):
    assert main(["config", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert argv[1] in err


@pytest.mark.parametrize("name", PRESETS)
def test_show_prints_a_preset(capsys, name):
    assert main(["config", "show", name]) == 0
    out, err = capsys.readouterr()
    words, _, values = out.partition("\n\n")
    assert (values, err) == (describe(PRESETS[name]), "")
    assert all(line.startswith("#") for line in words.splitlines())
    assert "# Its priority is" in words
    assert "# here: " in words


def test_show_prints_what_a_file_comes_to(policy, capsys):
    assert main(["config", "show", "policy.toml"]) == 0
    shown = capsys.readouterr().out
    policy.write_text(shown)
    assert load_policy(policy).retry.attempts == 3
    assert load_policy(policy).queue == BATCH.queue


@pytest.mark.parametrize(
    "argv", [["check"], ["frobnicate"], ["show", "--in-words", "batch"], ["check", "a", "b"]]
)
def test_bad_usage_is_one_line_and_exit_code_2(capsys, argv):
    assert main(["config", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_without_a_command_it_shows_help(capsys):
    assert main(["config"]) == 2
    assert "check" in capsys.readouterr().err
