"""`--report`: a bad path is an error before the run, and a failed report does not fail the run."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from batches import (
    PATIENCE,
    chat_rows,
    read,
    run_args,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from evil import EVIL

from stormbreak.cli.batch import run as batch_work
from stormbreak.cli.main import main
from stormbreak.errors import ConfigurationError
from stormbreak.report.destination import ReportFile

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", "--report must end in .html or .png, got 'report.pdf'"),
        ("report", "--report must end in .html or .png, got 'report'"),
        (f"{EVIL}\n", "\\u202e\\n'"),
        ("no/such/report.html", "no/such/report.html: cannot write: no such file or directory"),
        ("taken.html", "taken.html: cannot write: not a regular file"),
        ("pipe.html", "pipe.html: cannot write: not a regular file"),
        (f"{'long' * 70}.html", "cannot write: file name too long"),
    ],
)
def test_a_bad_report_path_is_one_line_before_the_command_runs(
    tmp_path, monkeypatch, capsys, name, message
):
    monkeypatch.chdir(tmp_path)
    Path("taken.html").mkdir()
    os.mkfifo("pipe.html")
    write(Path("in.jsonl"), chat_rows(1))
    batch = ["batch", "run", "in.jsonl", "--output", "out.jsonl", "--base-url", "http://[::1]:1/v1"]
    cost = ["cost", "compare", "--models", "gpt-4.1", "--tokens", "1M"]
    for args in (["storm", "run", "incident"], batch, cost):
        code = main([*args, "--report", name])
        out, err = capsys.readouterr()

        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "pipe.html",
        "taken.html",
    ]


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_report_without_the_extra_names_the_package_to_install(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'stormbreak\[report\]'"):
        ReportFile.of(str(tmp_path / "report.html"))


def test_checking_a_report_path_changes_no_file(tmp_path):
    path = tmp_path / "report.html"
    ReportFile.of(str(path))
    assert list(tmp_path.iterdir()) == []
    path.write_text("before")
    ReportFile.of(str(path))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("taken", ["out.html", "out.failed.html", "in.html", "link.html"])
def test_a_report_may_not_replace_a_file_of_the_batch(tmp_path, monkeypatch, capsys, taken):
    monkeypatch.chdir(tmp_path)
    write(Path("in.html"), chat_rows(1))
    Path("link.html").symlink_to("in.html")
    args = ["in.html", "--output", "out.html", "--base-url", "http://127.0.0.1:1/v1"]

    assert main(["batch", "run", *args, "--report", taken]) == 2
    assert f"--report {taken}: is a file of the batch itself" in capsys.readouterr().err
    assert not Path("out.html").exists()


def test_a_report_that_cannot_be_written_does_not_fail_the_run(
    tmp_path, monkeypatch, capsys, stormbreak_provider
):
    source = write(tmp_path / "in.jsonl", chat_rows(3))
    place = tmp_path / "gone"
    place.mkdir()
    output = tmp_path / "out.jsonl"
    provider = stormbreak_provider(scenario())
    args = ["--output", str(output), "--base-url", provider.base_url, "--quiet", "--json"]
    began = batch_work.progress_on

    def begin(*args, **options):  # the folder disappears when the run has begun
        place.rmdir()
        return began(*args, **options)

    monkeypatch.setattr(batch_work, "progress_on", begin)
    code = main(["batch", "run", str(source), *args, "--report", str(place / "report.html")])
    out, err = capsys.readouterr()

    assert (code, json.loads(out)["successful"], len(read(output))) == (0, 3, 3)
    assert err.startswith("stormbreak: no report: ")
    assert err.count("\n") == 1


def test_an_interrupted_run_writes_its_report(tmp_path, stormbreak_provider):
    source, output = write(tmp_path / "in.jsonl", chat_rows(500)), tmp_path / "out.jsonl"
    report = tmp_path / "report.html"
    provider = stormbreak_provider(scenario(service=0.2))
    args = run_args(source, output, provider.base_url)
    with started(*args, "--concurrency", "4", "--report", report) as run:
        wait_until(lambda: size_of(output))
        run.send_signal(signal.SIGINT)
        assert run.wait(PATIENCE) == 130

    assert "The run was interrupted; run the same command again to resume it." in report.read_text()
