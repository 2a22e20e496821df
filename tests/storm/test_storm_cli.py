"""`stormbreak storm`: what is printed, and the exit codes."""

import io
import json
import os
import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from fork_server import PROGRAM, ForkedPopen
from measured import MEASURES
from rich.console import Console
from small_storm import small_storm

from stormbreak.batch.input.index import Rows
from stormbreak.cli.main import main
from stormbreak.cli.storm import run as storm_run
from stormbreak.cli.storm.output import table
from stormbreak.cli.storm.run import storm_of
from stormbreak.llm.tokens import estimate
from stormbreak.storm.assertions import NAMES

SMALL = small_storm('description = "a herd, and an outage"', herd=20, processes=2)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def run(capsys, *args):
    """Exit code, output, errors."""
    code = main(["storm", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_names_every_scenario_with_a_load(capsys):
    code, out, _ = run(capsys, "list")

    assert code == 0
    for name in ("incident", "dip", "mixed-lengths", "calm-burst"):
        assert f"\n {name} " in out
    assert " bench " not in out


def test_show_prints_a_file_that_can_be_changed_and_run(capsys, tmp_path):
    code, out, _ = run(capsys, "show", "dip")
    assert code == 0
    assert tomllib.loads(out)["load"]["timeout"] == 6

    path = tmp_path / "mine.toml"
    path.write_text(out.replace("duration = 340", "duration = 80"))
    code, out, _ = run(capsys, "run", str(path), "--policy", "none")
    assert code == 0
    assert out.startswith("mine under none does not recover in the 40 s after the trigger ")


def test_run_prints_a_sentence_and_a_table(capsys, small):
    code, out, err = run(capsys, "run", small, "--compare", "naive, none", "--seeds", "2")
    first, *rest = out.splitlines()

    assert (code, err) == (0, "")
    assert first.startswith(
        "small under interactive (seeds 0-1) recovers 0 s after the trigger and "
    )
    assert " % of what was possible, " in first
    assert rest[1].split() == ["interactive", "naive", "none"]
    shown = [line.split()[0] for line in rest if line.split()]
    assert set(NAMES) <= set(shown)


def test_json_has_the_measures_by_name_and_is_deterministic(capsys, small):
    args = ("run", small, "--compare", "none", "--seed", "3", "--seeds", "2", "--json")
    code, out, _ = run(capsys, *args)
    document = json.loads(out)

    assert code == 0
    assert set(NAMES) < set(document)
    assert (document["scenario"], document["policy"]) == ("small", "interactive")
    runs = [(one["policy"], one["seed"]) for one in document["runs"]]
    assert runs == [("interactive", 3), ("interactive", 4), ("none", 3), ("none", 4)]
    goodput = [one["goodput"] for one in document["runs"][:2]]
    assert document["goodput"] == pytest.approx(sum(goodput) / 2, abs=1e-6)
    assert run(capsys, *args)[1] == out


def test_several_seeds_show_the_spread(capsys, small):
    code, out, _ = run(capsys, "run", small, "--seeds", "3")
    assert code == 0
    assert re.search(r"^ success +\d+\.\d ±\d+\.\d % $", out, re.MULTILINE), out
    assert out.count("  the worst") == 4

    document = json.loads(run(capsys, "run", small, "--seeds", "3", "--json")[1])
    found = document["policies"]["interactive"]["measures"]["success"]
    runs = [one["success"] for one in document["runs"]]
    assert found["mean"] == pytest.approx(fmean(runs), abs=1e-6)
    assert found["deviation"] == pytest.approx(stdev(runs), abs=1e-6)
    assert (found["worst"], found["seeds"]) == (min(runs), 3)
    assert f"±{100 * found['deviation']:.1f} %" in out


def test_one_seed_has_no_spread(capsys, small):
    _, out, _ = run(capsys, "run", small)

    assert "±" not in out
    assert "the worst" not in out


def test_the_document_has_the_verdict_and_the_weakest_moment(capsys, small):
    sentence = run(capsys, "run", small)[1].splitlines()[0]
    document = json.loads(run(capsys, "run", small, "--compare", "none", "--json")[1])

    assert document["verdict"] == document["policies"]["interactive"]["verdict"] == sentence
    assert list(document["policies"]) == ["interactive", "none"]
    weakest = document["policies"]["none"]["weakest"]
    assert list(weakest) == ["start", "end", "missing", "possible", "seed"]


def test_a_recovery_that_never_comes_in_some_seeds_is_shown():
    measures = [MEASURES, replace(MEASURES, recovery=None)]
    console = Console(file=io.StringIO(), width=80)
    console.print(table({"a": measures, "b": [replace(MEASURES, recovery=None)] * 2}))
    lines = console.file.getvalue().splitlines()
    recovery = next(place for place, line in enumerate(lines) if line.startswith(" recovery"))

    assert lines[recovery].split() == ["recovery", "never", "in", "1", "of", "2", "never"]
    assert lines[recovery + 1].split() == ["the", "worst", "never", "never"]


def test_parallel_jobs_print_the_same(capsys, small):
    args = ("run", small, "--compare", "none", "--json", "--series")

    assert run(capsys, *args, "--jobs", "2") == run(capsys, *args)


def test_plot_draws_the_answers(capsys, small, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    plain, drawn = (run(capsys, "run", small, *more)[1] for more in ([], ["--plot"]))

    assert drawn.startswith(plain)
    picture = drawn.removeprefix(plain).splitlines()
    assert picture[0].strip() == "answers per second: o in time, - what was possible"
    assert picture[-1].strip().startswith("interactive: seconds, of ")
    assert max(map(len, picture)) == 70


def test_a_terminal_gets_a_plot_without_the_option(small):
    reader, writer = os.openpty()
    command = [*PROGRAM, "storm", "run", small]
    environ = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
    with ForkedPopen(command, stdout=writer, stderr=subprocess.DEVNULL, env=environ) as process:
        assert process.wait() == 0
    os.close(writer)
    shown = os.read(reader, 100_000).decode()
    os.close(reader)

    assert "answers per second: o in time" in shown
    assert "\x1b[38" not in shown


# ------------------------------------------------------------ user traffic


def test_duration_ends_a_run_early(capsys, small, tmp_path):
    log = tmp_path / "peak.csv"
    log.write_text("".join(f"{at}\n" for at in (5, 11, 42.5, 43, 44)))  # seconds 0, 6, 37.5, ...
    command = ("run", small, "--arrivals", str(log), "--duration", "38", "--json", "--series")
    code, out, _ = run(capsys, *command)
    document = json.loads(out)
    calls = document["runs"][0]["series"]["calls"]

    assert (code, document["duration"]) == (0, 38)
    assert [second for second, count in enumerate(calls) if count] == [0, 6, 37]


def test_a_log_replaces_the_calls_of_the_scenario(capsys, small, tmp_path):
    log = tmp_path / "peak.csv"
    log.write_text("user,at\n" + "".join(f"x,{5 + place / 10}\n" for place in range(60)))
    args = ("run", small, "--arrivals", str(log), "--time-field", "at", "--json", "--series")
    code, out, _ = run(capsys, *args, "--seeds", "2")
    document = json.loads(out)

    assert code == 0
    for one in document["runs"]:
        assert one["series"]["calls"][:6] == [10, 10, 10, 10, 10, 10]


def test_a_batch_replaces_the_calls_of_the_scenario_under_its_own_preset(capsys, small, tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "hello", "max_tokens": 10}\n{"prompt": "you", "model": "x"}\n')
    code, out, _ = run(capsys, "run", small, "--batch-input", str(rows), "--json", "--series")
    document = json.loads(out)

    assert (code, document["policy"], document["calls"]) == (0, "batch", 2)
    assert (document["trigger_at"], document["trigger_until"]) == (None, None)
    assert document["runs"][0]["series"]["calls"][0] == 2


def test_rows_have_the_tokens_that_a_batch_would_reserve(tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "hello", "max_tokens": 10}\n{"prompt": "you", "n": 2}\n')
    storm = storm_of("dip", arrivals=None, batch_input=rows)
    with Rows.read(rows, model="storm-1") as read:
        bodies = [read.row_at(0).body, read.row_at(1).body]

    assert storm.load.arrival_tokens == (
        estimate(bodies[0], bound=10),
        estimate(bodies[1], choices=2),
    )


def test_json_has_null_for_a_time_that_never_came(capsys, tmp_path):
    path = tmp_path / "dead.toml"
    path.write_text(SMALL.replace("until = 8\n[load]", "[load]"))
    code, out, _ = run(capsys, "run", str(path), "--policy", "none", "--json")

    assert code == 0
    assert json.loads(out)["recovery"] is None
    _, out, _ = run(capsys, "run", str(path), "--policy", "none")
    assert out.startswith("dead under none does not recover in the 32 s after the trigger and ")


def test_a_policy_may_be_a_file(capsys, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("[mine].toml").write_text("preset = 'off'\n[retry]\nmax_attempts = 4\n")
    code, out, _ = run(capsys, "run", small, "--policy", "[mine].toml", "--json")

    assert code == 0
    assert json.loads(out)["amplification"] > 1
    assert "[mine]" in run(capsys, "run", small, "--policy", "[mine].toml")[1].splitlines()[2]


def test_processes_in_a_fleet_share_a_rate(capsys, tmp_path, small):
    path = tmp_path / "policy.toml"
    path.write_text("patience = 0.5\n[rate_limit]\nrpm = 60\nburst_seconds = 1\n")
    apart, shared = (
        json.loads(run(capsys, "run", small, "-p", str(path), "--json", *more)[1])
        for more in ([], ["--fleet"])
    )

    assert (apart["fleet"], shared["fleet"]) == (False, True)
    assert shared["success"] < 0.7 * apart["success"]  # one request a second for all


def test_a_scenario_names_its_preset(capsys, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace("rate = 3", "rate = 3\npreset = 'batch'"))

    assert run(capsys, "run", str(path))[1].startswith("small under batch recovers ")


def test_processes_may_share_one_engine(capsys, small):
    apart, shared = (
        json.loads(run(capsys, "run", small, "--json", *more)[1])
        for more in ([], ["--shared-engine"])
    )

    assert (apart["shared"], shared["shared"]) == (False, True)
    assert apart["first_output"] is False
    assert apart["calls"] == shared["calls"]


def test_an_assertion_that_holds_exits_with_0(capsys, small):
    assert run(capsys, "run", small, "--assert", "calls > 100 and p99 < never")[0] == 0


def test_an_assertion_that_fails_prints_the_value(capsys, small):
    code, out, err = run(
        capsys, "run", small, "--policy", "none", "--assert", "amplification > 1", "--json"
    )

    assert code == 1
    assert json.loads(out)["amplification"] == 1.0
    assert err == ("stormbreak: --assert does not hold: amplification > 1; amplification is 1.0\n")


def test_invalid_input_is_one_line_and_exit_code_2(capsys, small):
    for args, message in (
        (["--assert", "godput > 1"], "--assert: 'godput' is not a measure; did you mean goodput?"),
        (["--report", "x.pdf"], "--report must end in .html or .png, got 'x.pdf'"),
        (["--policy", "navie"], "no policy or file is named 'navie'; did you mean naive?"),
        (["--compare", ", ,"], "'--compare': must be names with commas between them, got ', ,'"),
        (["--compare", "none,xyzzy"], "is named 'xyzzy'; policies: interactive, batch, article"),
        (["--policy", "./none.toml"], "./none.toml: cannot be read"),
        (["--duration", "37"], "--duration must be at least 38, 30 s after the trigger of small"),
        (["--duration", "41"], "--duration must be at most the duration of small, 40, got 41"),
        (["--seeds", "0"], "'--seeds'"),
        (["--jobs", "0"], "'--jobs'"),
        (["--plot", "--json"], "--plot and --json: give one of them, not both"),
        (["--series"], "--series needs --json"),
        (
            ["--arrivals", "a", "--batch-input", "b"],
            "--arrivals and --batch-input: give one of them, not both",
        ),
        (["--time-field", "at"], "--time-field needs --arrivals"),
        (["--arrivals", "none.log"], "none.log: cannot be read: No such file or directory"),
        (["--batch-input", "none.jsonl"], "none.jsonl: cannot read the input: no such file"),
    ):
        code, out, err = run(capsys, "run", small, *args)

        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_an_unknown_scenario_or_one_without_load_is_rejected(capsys):
    assert run(capsys, "run", "storm-of-the-century")[0] == 2
    assert run(capsys, "show", "storm-of-the-century")[0] == 2
    code, _, err = run(capsys, "run", "bench")
    assert code == 2
    assert "bench: a simulation needs a [load], got none" in err


def test_policies_that_do_not_fit_are_shown_in_further_tables(capsys, small, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = tmp_path / ("a policy with a long name " * 4 + ".toml")
    long.write_text("preset = 'off'\n")
    names = ["none", "naive", "fixed", "exponential", "openai_sdk", "article", str(long)]
    _, out, _ = run(capsys, "run", small, "--compare", ",".join(names), "--seeds", "2")

    tables = out.partition("\n")[2]
    heads = " ".join(line for line in tables.splitlines() if line.startswith("     ")).split()
    assert heads[: len(names)] == ["interactive", *names[:-1]]
    assert tables.count("\N{HORIZONTAL ELLIPSIS}") == 1  # the last head keeps its end
    assert heads[-1] == ".toml"
    rows = [line for line in tables.splitlines() if line.startswith(" attempts_per_sent_call")]
    assert len(re.findall(r" \d\.\d\d", " ".join(rows))) == len(names) + 1
    assert max(map(len, tables.splitlines())) <= 80


@pytest.mark.parametrize("as_json", [True, False])
def test_a_report_that_cannot_be_written_does_not_lose_the_output(
    capsys, small, tmp_path, monkeypatch, as_json
):
    report = tmp_path / "gone" / "report.html"
    report.parent.mkdir()

    def simulate_all(*args, **options):
        report.parent.rmdir()
        return simulated(*args, **options)

    simulated = storm_run.simulate_all
    monkeypatch.setattr(storm_run, "simulate_all", simulate_all)
    more = ("--json",) if as_json else ()
    code, out, err = run(capsys, "run", small, "--report", str(report), *more)

    assert code == 2
    assert "goodput" in out
    assert "cannot write" in err


def test_an_undefined_share_is_shown_as_a_dash_and_fails_every_assertion(capsys, tmp_path):
    """No answer is possible during the outage; 100 % would be a good figure for a bad minute."""
    path = tmp_path / "down.toml"
    path.write_text(
        SMALL.replace("service = 1", "service = 0.1").replace("trigger_at = 5", "trigger_at = 6")
    )
    assertion = "trigger_goodput >= 0.5"
    code, out, err = run(capsys, "run", str(path), "--assert", assertion)
    document = json.loads(run(capsys, "run", str(path), "--json")[1])

    assert code == 1
    assert "nothing being possible while the trigger lasts" in out
    assert next(line.split()[1] for line in out.splitlines() if "trigger_goodput" in line) == "-"
    assert err == (
        f"stormbreak: --assert does not hold: {assertion}; trigger_goodput is undefined\n"
    )
    assert document["trigger_goodput"] is None
