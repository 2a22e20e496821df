"""The content of a survey report."""

import re
from html import unescape
from math import inf

from surveyed import a_survey

from stormbreak.cli.main import main
from stormbreak.report.survey_report import survey_page


def section(page, title):
    return next(each for each in page.sections if each.title == title)


def test_the_worst_storms_are_listed_first():
    found = a_survey(
        {"ours": 90.0, "a": 80.0}, {"ours": 60.0, "a": 70.0}, {"ours": 70.0, "a": 99.5}
    )
    page = survey_page(found)
    assert page.sections[0].title == "The worst storms"
    assert page.sections[0].lead == "ours is the best of all in 1 of 3."
    assert [row[:5] for row in page.sections[0].table.rows] == [
        ["2 slow", "29.5", "70.0", "99.5", "a"],
        ["1 dip", "10.0", "60.0", "70.0", "a"],
    ]
    assert "slots of" in page.sections[0].table.rows[0][5]
    assert page.verdict == found.sentence


def test_policies_are_shown_as_bars_and_families_as_a_table():
    page = survey_page(a_survey({"ours": 90.0, "a": 45.0}, {"ours": 90.0, "a": 45.0}))
    bars = section(page, "Mean goodput").bars
    assert [(bar.name, bar.share, bar.figure) for bar in bars] == [
        ("ours", 1.0, "90.0 %"), ("a", 0.5, "45.0 %"),
    ]  # fmt: skip
    rows = section(page, "By family").table.rows
    assert [row[:2] for row in rows] == [["dip", "1"], ["spike", "1"], ["all", "2"]]
    assert rows[-1][2:] == ["0.0", "0.0", "0.0", "0.0", "100 %", "100 %"]


def test_a_survey_without_losses_has_no_table():
    assert survey_page(a_survey({"ours": 90.0, "a": 80.0})).sections[0].table is None


def test_batches_that_never_end_are_shown_as_never():
    page = survey_page(a_survey({"ours": inf, "a": 20.0}, {"ours": 30.0, "a": inf}, preset="batch"))
    assert page.sections[0].table.rows[0][1:4] == ["never", "never", "20.0"]
    assert [bar.figure for bar in page.sections[1].bars] == ["never", "never"]
    assert "sends failed rows again" in page.sections[-1].notes[-1][1]


def test_the_survey_command_writes_a_page(tmp_path, capsys):
    path = tmp_path / "survey.html"
    few = [
        "--storms",
        "1",
        "--runs",
        "1",
        "--families",
        "luck",
        "--seed",
        "197",
        "--policy",
        "none",
    ]
    assert main(["storm", "survey", *few, "--report", str(path)]) == 0
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", path.read_text(), flags=re.DOTALL)
    words = " ".join(unescape(text).split())
    assert "a survey of random storms none" in words
    assert "The worst storms" in words
    assert capsys.readouterr().out
