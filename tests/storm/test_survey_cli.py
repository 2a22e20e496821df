"""`stormbreak storm survey`: its output, files and exit codes."""

import json
import re

import pytest

from stormbreak.cli.main import main

FEW = ["--storms", "2", "--runs", "1", "--families", "luck,cut", "--seed", "197"]  # small ones


def run(capsys, *args):
    """Exit code, output, errors."""
    code = main(["storm", "survey", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_tables_fit_80_columns_and_a_failed_assertion_exits_with_1(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    more = ("--output", str(tmp_path), "--assert", "regret_worst <= 0.1")
    code, out, err = run(capsys, *FEW, "--policy", "none", *more)
    assert code == 1
    assert err.startswith(
        "stormbreak: --assert does not hold: regret_worst <= 0.1; regret_worst is "
    )
    assert err.count("\n") == 1
    tables, again = out.rsplit("Run the worst again: ", 1)
    assert max(map(len, tables.splitlines())) <= 80
    assert again.startswith("stormbreak storm run ")
    heads = (
        r"^ policy +mean $",
        r"^ draw +family +best policy +best % +ours % +lost $",
        r"^ family +storms +mean +median +p90 +worst +<= 1 +<= 5 $",
        r"^ calls/s of a process +storms +mean +median +p90 +worst +<= 1 +<= 5 $",
    )
    for head in heads:
        assert re.search(head, tables, re.MULTILINE), head
    for title in ("Mean goodput in %", "Regret in points, by family"):
        assert re.search(f"^{title} *$", tables, re.MULTILINE)


def test_json_is_the_only_output_and_saved_storms_reproduce_the_figures(capsys, tmp_path):
    folder = tmp_path / "new" / "worst"
    options = ("--policy", "none", "--compare", "fixed", "--json")
    code, out, err = run(
        capsys, *FEW, *options, "--assert", "regret_worst >= 0", "--output", str(folder)
    )
    document = json.loads(out)  # an assertion that holds prints nothing
    assert (code, err) == (0, "")
    assert document["draws"] == len(document["scores"]) == 2
    assert document["others"] == [
        "naive",
        "full_jitter",
        "openai_sdk",
        "article",
        "budget",
        "aimd",
        "fixed",
    ]
    assert set(document["families"]) == {"luck", "cut"}
    assert {"mean", "median", "p90", "worst", "within_1", "within_5"} < set(document)
    scores = sorted(document["scores"], key=lambda score: -score["regret"])
    saved = sorted(folder.iterdir())
    assert [path.name for path in saved] == [
        f"{place:02d}-{score['family']}.toml" for place, score in enumerate(scores, 1)
    ]
    for path, score in zip(saved, scores, strict=True):
        flags = ["--policy", "none", "--compare", score["best"], "--seed", "1"]
        assert main(["storm", "run", str(path), *flags, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["goodput"] * 100 == pytest.approx(score["values"]["none"], abs=0.01)
        best = again["policies"][score["best"]]["measures"]["goodput"]["mean"]
        assert best * 100 == pytest.approx(score["values"][score["best"]], abs=0.01)


def test_the_help_explains_that_failed_rows_are_sent_again(capsys):
    assert main(["storm", "survey", "--help"]) == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert "failed rows are sent again, as `batch run` does" in help_text


def test_invalid_input_is_one_line_before_anything_runs(capsys, tmp_path, monkeypatch):
    for args, message in (
        (
            ["--storms", "1", "--families", "dip,dib"],
            "no family of storms is named 'dib'; families: spike, dip",
        ),
        (["--preset", "batch", "--families", "herd"], "no family of batches is named 'herd'"),
        (["--policy", "interactiv"], "no policy or file is named 'interactiv'; did you mean"),
        (["--policy", "./gone.toml"], "gone.toml"),
        (["--policy", "broken.toml"], "broken.toml"),
        (["--compare", "nobody"], "no policy or file is named 'nobody'"),
        (["--output", "broken.toml"], "--output broken.toml: "),
        (["--output", "broken.toml/in"], "--output broken.toml/in: not a directory"),
        (["--output", "/proc"], "--output /proc: "),
        (["--output", "a\0b"], "--output "),
        (["--report", "survey.png"], "--report must end in .html, got 'survey.png'"),
        (["--report", "gone/survey.html"], "gone/survey.html: cannot write: no such file"),
        (["--assert", "makespan < 1"], "--assert: 'makespan' is not a measure; did you mean"),
        (["--storms", "0"], "--storms"),
        (["--preset", "article"], "--preset"),
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "broken.toml").write_text("retry = [")
        code, out, err = run(capsys, *args)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
