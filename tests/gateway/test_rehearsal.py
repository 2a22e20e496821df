"""`stormbreak gateway rehearse` plays a storm to the gateway of a file and counts the results of its clients."""

import json

import pytest

from stormbreak.cli.main import main

FILE = """
[targets.first]
provider = "openai"
model = "gpt-4.1"

[targets.same]
provider = "openai"
model = "gpt-4.1-mini"

[targets.spare]
base_url = "https://spare.example.com/v1"
api_key_env = "NOT_SET"
model = "large"

[pools.both]
targets = ["first", "spare"]

[retry]
max_attempts = 1

[keys.app]
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
rpm = 1
"""
STORM = """
duration = 4
[provider]
service = 0.05
[[faults]]
kind = "503"
share = 1
[load]
rate = 20
arrivals = "even"
deadline = 4
timeout = 4
"""
PATIENT = STORM.replace("= 4\ntimeout = 4", "= 120\ntimeout = 120")


@pytest.fixture
def rehearse(tmp_path, monkeypatch, capsys, no_words_about_providers):
    """Play the storm, in which the first target rejects everything; return exit code and output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.toml").write_text(FILE)
    (tmp_path / "storm.toml").write_text(STORM)

    def run(*options):
        code = main(
            [
                "gateway",
                "rehearse",
                "gateway.toml",
                "--scenario",
                "storm.toml",
                "--speed",
                "2",
                *options,
            ]
        )
        return code, capsys.readouterr()

    return run


def test_clients_of_a_target_in_a_storm_see_its_failures(rehearse):
    code, printed = rehearse("--json", "--model", "same", "--assert", "success >= 0.5")
    seen = json.loads(printed.out)
    assert code == 1
    assert (seen["success"], seen["calls"], seen["openings"]) == (0.0, 80, None)
    assert sum(seen["statuses"].values()) == 80
    assert set(seen["statuses"]) <= {"503", "504", "none"}  # the last two on a busy machine
    assert "--assert does not hold: success >= 0.5" in printed.err


def test_clients_of_a_pool_see_its_fallback(rehearse, tmp_path):
    """A rehearsal needs no provider and no key, and ignores the limits of the keys in the file."""
    (tmp_path / "storm.toml").write_text(PATIENT)
    code, printed = rehearse("--json", "--model", "both", "--assert", "success == 1")
    seen = json.loads(printed.out)
    assert (code, seen["statuses"]) == (0, {"200": 80})
    assert 1 < seen["amplification"] <= 2
    assert seen["scenario"] == "storm"


def test_a_rehearsal_calls_no_real_provider_of_policy_or_environment(
    rehearse, monkeypatch, tmp_path
):
    """`.invalid` does not resolve: a call there fails."""
    away = "https://real.invalid/v1"
    monkeypatch.setenv("STORMBREAK__TARGETS__FIRST__BASE_URL", away)
    monkeypatch.setenv("REAL_KEY", "k")
    rule = f'[[fallback]]\nkind = "targets"\ntargets = [{{ base_url = "{away}/2", api_key_env = "REAL_KEY" }}]\n'
    (tmp_path / "storm.toml").write_text(PATIENT)
    (tmp_path / "gateway.toml").write_text(
        f'{rule}\n[spend]\nmax_usd = 1\n[cache]\npath = "cache.db"\n{FILE}'
    )
    _, printed = rehearse("--json", "--model", "first", "--duration", "2")
    assert set(json.loads(printed.out)["statuses"]) == {
        "200"
    }  # by the calm provider of the fallback
    assert not (tmp_path / "cache.db").exists()


def test_the_tables_name_the_scenario_and_the_model(rehearse):
    code, printed = rehearse("--duration", "1")
    assert code == 0
    assert "storm, first" in printed.out
    assert "503" in printed.out


def test_a_rehearsal_of_an_unknown_model_lists_the_known_models(rehearse):
    code, printed = rehearse("--model", "gpt-9")
    assert code == 2
    assert (
        "gateway.toml does not serve the model 'gpt-9'; known: first, same, spare, both"
        in printed.err
    )
