"""Reports to look at, and the browser to look at them with."""

import json

import pytest
from batches import chat_row, chat_rows, scenario, write
from chromium import chromium
from evil import EVIL
from small_storm import small_storm
from surveyed import a_survey

from stormbreak.cli.main import main
from stormbreak.report.destination import ReportFile
from stormbreak.testing import serve

ABOUT = """description = '''</style></svg><script>boom()</script>&amp; " $x^2$ ]]> \u202eevil'''"""


@pytest.fixture(scope="package")
def browser():
    """A real Chromium."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def places(tmp_path_factory):
    """A directory for each kind of report."""
    return {name: tmp_path_factory.mktemp(name) for name in ("storm", "batch", "cost", "survey")}


@pytest.fixture(scope="package")
def storm_report(places):
    """The report of a storm under three policies, one of them with a hostile name, with two seeds."""
    place = places["storm"]
    policy = f"{EVIL}.toml"
    (place / policy).write_text("preset = 'off'\n")
    evil, report = place / "evil <b>storm.toml", place / "report.html"
    evil.write_text(small_storm(ABOUT, duration=140, herd=20, processes=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        args = ["--compare", f"{policy},article", "--seeds", "2", "--report", str(report)]
        assert main(["storm", "run", str(evil), *args]) == 0
    return report


@pytest.fixture(scope="package")
def batch_report(places):
    """The report of a batch of which some rows fail, with hostile ids, models and error codes."""
    place = places["batch"]
    rows = [*chat_rows(40), {**chat_row(1), "custom_id": EVIL}]
    rows += [{**chat_row(2, model="<script>boom()</script>" + "m" * 200), "custom_id": "second"}]
    source = write(place / "in <script>boom()<script>.jsonl", rows)
    faults = [
        {"kind": "503", "share": 0.2},
        {"kind": "400", "match": "document 1"},
    ]
    report = place / "report.html"
    with pytest.MonkeyPatch.context() as patch, serve(scenario(*faults, service=0.05)) as provider:
        patch.delenv("STORMBREAK_BASE_URL", raising=False)
        args = ["--output", str(place / "out.jsonl"), "--base-url", provider.base_url, "--quiet"]
        assert main(["batch", "run", str(source), *args, "--report", str(report)]) == 1
    return report


@pytest.fixture(scope="package")
def cost_report(places):
    """The report of a migration and of an outage, under a policy with a hostile name."""
    place = places["cost"]
    report, storm = place / "report.html", place / "storm.json"
    runs = [{"policy": EVIL, "goodput": 0.02}, {"policy": "interactive", "goodput": 0.97}]
    times = {"duration": 90.0, "trigger_at": 30.0, "trigger_until": 40.0}
    storm.write_text(json.dumps({"scenario": "<b>", "policy": EVIL, "runs": runs, **times}))
    move = ["--current", "openai/gpt-4.1", "--candidate", "holysheep/gpt-4.1", "--tokens", "50M"]
    args = ["--prices", "article-2025", "--storm", str(storm), "--report", str(report)]
    assert main(["cost", "roi", *move, *args]) == 0
    return report


@pytest.fixture(scope="package")
def survey_report(places):
    """The report of a survey with fixed values, of a policy with a hostile name."""
    report = places["survey"] / "report.html"
    values = [{EVIL: 60.0 + 5 * number, "full_jitter": 90.0, "none": 50.0} for number in range(8)]
    ReportFile.of(str(report)).survey(a_survey(*values))
    return report
