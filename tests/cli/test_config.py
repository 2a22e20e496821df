"""`stormbreak config`: output and exit codes."""

import pytest

from stormbreak.cli.main import main
from stormbreak.config import describe, load_policy
from stormbreak.core.presets import BATCH, PRESETS


@pytest.fixture
def policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.toml"
    path.write_text('preset = "batch"\n[retry]\nmax_attempts = 3\n')
    return path


def test_check_prints_ok(policy, capsys):
    assert main(["config", "check", "policy.toml"]) == 0
    assert capsys.readouterr() == ("policy.toml: ok\n", "")


def test_an_invalid_policy_is_one_line_and_exit_code_2(policy, capsys):
    for command in ("check", "show"):
        policy.write_text("[retry.backoff]\ninitial_delay = -3")
        assert main(["config", command, "policy.toml"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert (
            err == "stormbreak: policy.toml: retry.backoff.initial_delay must be positive, got -3\n"
        )


def test_a_missing_file_is_one_line_and_exit_code_2(policy, capsys):
    for argv in (["check", "nowhere.toml"], ["show", "nobody"], ["check", "."]):
        assert main(["config", *argv]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert argv[1] in err


def test_show_prints_a_preset(capsys):
    for name in PRESETS:
        assert main(["config", "show", name]) == 0
        assert capsys.readouterr() == (describe(PRESETS[name]), "")


def test_show_prints_the_effective_policy_of_a_file(policy, capsys):
    assert main(["config", "show", "policy.toml"]) == 0
    shown = capsys.readouterr().out
    policy.write_text(shown)
    assert load_policy(policy).retry.max_attempts == 3
    assert load_policy(policy).queue == BATCH.queue


def test_bad_usage_is_one_line_and_exit_code_2(capsys):
    for argv in (["check"], ["frobnicate"], ["show", "--in-words", "batch"], ["check", "a", "b"]):
        assert main(["config", *argv]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1


def test_config_without_a_command_shows_help(capsys):
    assert main(["config"]) == 2
    assert "check" in capsys.readouterr().err


# ------------------------------------------------------------------ settings

SETTINGS = """
[targets.main]
provider = "openai"
model = "large"
api_key_env = "MAIN_KEY"
[targets.spare]
base_url = "https://spare.example.com/v1"
policy = "article"
[pools.chat]
targets = ["main", "spare"]
[profiles.staging.targets.main]
model = "small"
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAIN_KEY", "canary-key-0123456789")
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return path


def shown(capsys, *argv):
    assert main(["config", "show", "settings.toml", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_show_names_address_and_key_variable_of_each_target(settings, capsys):
    out = shown(capsys)
    assert "# Target main: https://api.openai.com/v1, its key from $MAIN_KEY (set).\n" in out
    assert "canary" not in out


def test_show_marks_a_key_variable_that_is_not_set(settings, capsys, monkeypatch):
    monkeypatch.delenv("MAIN_KEY")
    assert "its key from $MAIN_KEY (not set)." in shown(capsys)


def test_show_applies_profile_and_environment(settings, capsys, monkeypatch):
    monkeypatch.setenv("STORMBREAK__TARGETS__SPARE__MODEL", "tiny")
    out = shown(capsys, "--profile", "staging")
    assert 'model = "small"' in out
    assert 'model = "tiny"' in out


def test_the_output_of_show_is_a_settings_file_with_the_same_output(settings, capsys):
    first = shown(capsys)
    settings.write_text(first)
    assert shown(capsys) == first


def test_check_rejects_invalid_addresses(settings, capsys):
    for address in ("nowhere", "ftp://host/v1", "https://me:hunter2@host/v1"):
        settings.write_text(f'[targets.main]\nbase_url = "{address}"\n')
        assert main(["config", "check", "settings.toml"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("stormbreak: settings.toml: targets.main: base_url must ")
        assert "hunter2" not in err


def test_check_validates_every_profile(settings, capsys):
    assert main(["config", "check", "settings.toml"]) == 0
    settings.write_text(SETTINGS + "modle = 'x'\n")
    assert main(["config", "check", "settings.toml"]) == 2
    assert capsys.readouterr().err == (
        "stormbreak: settings.toml: unknown key profiles.staging.targets.main.modle = 'x';"
        " did you mean model?\n"
    )
    assert main(["config", "check", "settings.toml", "--profile", "staging"]) == 2
