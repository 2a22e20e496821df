"""Bad input gives one clear line and a code that is not 0, and never shows a key."""

from contextlib import redirect_stdout
from pathlib import Path

import pytest
from table_test import table_test

from stormbreak.cli.main import main

CANARY = "sk-proj-c4n4ryAbCdEf1234567890"
TOKEN = "Zk39fjA0qLm2Xw7RtY5b"
PIECES = (CANARY, CANARY[3:], "c4n4ry", TOKEN, TOKEN[:8], "hunter2")

LOAD = "[load]\nrate = 1\n"


def refused(capsys, *argv):
    """Run a command that must exit with code 2; return its one line of stderr."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stormbreak: ")
    assert err.count("\n") == 1
    return err


def test_an_error_never_repeats_an_argument_that_is_a_key(capsys):
    for key in (CANARY, TOKEN):
        for argv in (
            "storm run {}",
            "storm show {}",
            "storm run calm-burst --policy {}",
            "storm run calm-burst --compare none,{}",
            "storm run calm-burst --seed {}",
            "storm run calm-burst --assert {}",
            "storm run calm-burst --assert goodput=={}",
            "storm {}",
            "storm run calm-burst --{}",
            "provider serve --scenario {}",
            "provider serve --speed {}",
            "provider serve --port {}",
            "config show {}",
            "doctor {}",
            "doctor --{}",
            "batch run in.jsonl --output out.jsonl --timeout {}",
            "batch run in.jsonl --output out.jsonl --concurrency {}",
            "batch run in.jsonl --output out.jsonl --fallback-api-key-env {}",
            "batch run in.jsonl --output out.jsonl --policy {}",
            "batch run in.jsonl --output out.jsonl --provider {}",
            "{}",
        ):
            err = refused(capsys, *[word.format(key) for word in argv.split()])
            assert not [piece for piece in PIECES if piece in err]


def test_an_error_never_repeats_a_key_in_a_scenario(tmp_path, monkeypatch, capsys):
    for toml, message in (
        (f"api_key = '{CANARY}'", "line 1 looks like it contains an API key"),
        (f"# {CANARY}", "line 1 looks like it contains an API key"),
        (f"\n{CANARY} = 1", "line 2 looks like it contains an API key"),
        ("api_key = 'hunter2'", "unknown key api_key = (not shown)"),
        ("[provider]\nauth = { token = 'hunter2' }", "unknown key provider.auth = a table"),
        (f"{TOKEN} = 1", "unknown key (what looks like a key, not like a name) = 1"),
        (f"speed = '{TOKEN}'", "speed must be a number, got what looks like a key"),
        (f"a = {{{TOKEN} = 1, {TOKEN} = 2}}", "invalid TOML: a key that looks like a secret"),
        (f"{LOAD}preset = '{TOKEN}'", "load.preset: no policy or file is named what looks"),
        (f"{LOAD}arrivals = '{TOKEN}'", "load.arrivals must be one of poisson, even, got what"),
        (f"{LOAD}preset = 'batsh'", "load.preset: no policy or file is named 'batsh'; did"),
    ):
        monkeypatch.chdir(tmp_path)
        Path("mine.toml").write_text(toml)
        err = refused(capsys, "storm", "run", "mine.toml")
        assert err.startswith(f"stormbreak: mine.toml: {message}")
        assert not [piece for piece in PIECES if piece in err]


def test_an_invalid_scenario_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    for toml, message in (
        ("load=" + "[" * 5000, "nested too deeply"),
        ("duration = " + "1" * 6000, "a number is too long"),
        ("duration = 0x" + "f" * 6000, "must be a number below 1e308, got a number of thousands"),
        ("duration = 1" + "0" * 400, "duration must be a number below 1e308, got 1000"),
        ("duration = 1e300", "duration must be at most 1,000,000, got 1e+300"),
        ("duration = 1e-320", "duration must be at least 1e-06, got 1e-320"),
        (f"{LOAD}processes = 1{'0' * 400}", "load.processes must be at most 1,000,000,000, got"),
        (f"{LOAD}deadline = 1e300", "load.deadline must be at most 1,000,000, got 1e+300"),
        (f"{LOAD}steps = [{{ at = 1, rate = 2, ramp = 1e9 }}]", "ramp must be at most 86,400"),
        (
            f"{LOAD}bursts = [{'{ at = 1, calls = 1 },' * 1001}]",
            "load.bursts must be at most 1000 i",
        ),
        (f"duration = 1000000\n{LOAD}[provider]\nservice = 0.001", "duration and load.deadline"),
        ("speed = 1e-9", "speed must be at least 0.001, got 1e-09"),
        ("#" * 1_100_000, "too large for a scenario: more than 1048576 bytes"),
        ("x = '\0'", "invalid TOML"),
        (f"duration = 60\n{LOAD}trigger_until = 31", "load.trigger_until must be 30 s before the"),
        (f"duration = 60\n{LOAD}trigger_at = 60", "load.trigger_at must be before the end (dur"),
        (f"{LOAD}trigger_at = 50\ntrigger_until = 50", "load.trigger_until must be after trigger_"),
    ):
        monkeypatch.chdir(tmp_path)
        Path("mine.toml").write_text(toml)
        err = refused(capsys, "storm", "run", "mine.toml")
        assert message in err
        assert len(err) < 400


def test_an_impossible_file_name_is_an_error_of_one_line(capsys):
    for command in (("storm", "run"), ("storm", "show"), ("config", "show")):
        for name in ("n" * 300, "n" * 5000, "a\0b", ""):
            assert len(refused(capsys, *command, name)) < 500


def test_the_error_for_a_huge_number_in_a_policy_is_short(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in ("0x" + "f" * 6000, "1" + "0" * 400):
        for key in (
            "[retry]\nmax_attempts",
            "deadline",
            "[rate_limit]\nrpm",
            "[breaker]\nopen_duration_jitter",
        ):
            Path("policy.toml").write_text(f"{key} = {number}\n")
            err = refused(capsys, "config", "check", "policy.toml")
            assert f"{key.split()[-1]} must " in err
            assert len(err) < 200


COMMANDS = (  # one for each way to write output
    "cost compare --prices article-2025 --tokens 1M --csv",
    "doctor --json",
    "storm list",
    "storm run tiny.toml",
    "--help",
    "--version",
)


@table_test("command", COMMANDS)
def test_a_full_standard_output_is_one_line_and_code_2(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    (tmp_path / "tiny.toml").write_text(f"duration = 5\n{LOAD}")
    (tmp_path / "policy.toml").write_text("")
    with full.open("w") as stdout, redirect_stdout(stdout):
        code = main(command.split())
    assert (code, capsys.readouterr().err) == (2, "stormbreak: standard output: disk full\n")
