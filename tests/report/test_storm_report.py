"""The content of a storm report."""

import re
from dataclasses import replace

import pytest
from small_storm import small_storm

from stormbreak.provider.scenario_file import load
from stormbreak.report.picture import HEADLINE_LETTERS
from stormbreak.report.storm_report import storm_page, storm_picture
from stormbreak.report.storm_series import ANSWERS, ATTEMPTS, IN_FLIGHT, Comparison
from stormbreak.report.theme import STROKES
from stormbreak.storm import simulate
from stormbreak.storm.policies import find
from stormbreak.storm.verdict import verdict


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    path = tmp_path_factory.mktemp("storms") / "small.toml"
    path.write_text(small_storm(duration=200, down=(20, 25), processes=2))
    return load(str(path))


@pytest.fixture(scope="module")
def results(storm):
    """Two policies, each with the same two seeds."""
    return [
        simulate(storm, find(name), seed=seed)
        for name in ("interactive", "naive")
        for seed in (1, 2)
    ]


def section(page, title):
    return next((each for each in page.sections if each.title == title), None)


def test_a_storm_page_starts_with_the_verdict(storm, results):
    page = storm_page(storm, results)
    assert page.verdict.replace("\xa0", " ") == verdict(storm, results[:2])
    assert page.verdict.startswith("small under interactive (seeds 1-2) recovers ")
    assert "\xa0% of what was possible" in page.verdict
    assert dict(page.facts)["seeds"] == "1-2"
    assert dict(page.facts)["trigger"] == "from 20 s to 25 s"


def test_a_short_trigger_gets_a_close_view(storm, results):
    whole, near = Comparison(storm, results).views
    assert (whole.start, whole.end) == (0, 200)
    assert (near.start, near.end) == (10, 55)


def test_a_long_trigger_gets_only_the_whole_view(storm, results):
    long = replace(storm, load=replace(storm.load, trigger_until=100.0))
    assert [view.name for view in Comparison(long, results).views] == ["The whole run"]


def test_a_line_is_the_mean_of_seeds_in_a_band_of_extremes(storm, results):
    comparison = Comparison(storm, results)
    panel = comparison.panel(comparison.views[1], ATTEMPTS, ["naive"])
    calls, naive = panel.lines
    runs = [result.series.attempts[10:55] for result in results if result.policy == "naive"]
    assert list(naive.ys) == [(a + b) / 2 for a, b in zip(*runs, strict=True)]
    assert list(naive.low) == [min(both) for both in zip(*runs, strict=True)]
    assert list(naive.high) == [max(both) for both in zip(*runs, strict=True)]
    assert calls.stroke is None
    assert panel.xs[0] == 10
    assert panel.shaded == (20, 25)


def test_a_line_of_one_seed_has_no_band(storm, results):
    comparison = Comparison(storm, results[::2])
    lines = comparison.panel(comparison.views[0], ANSWERS, comparison.drawn).lines
    assert [line.name for line in lines] == ["the ideal: what was possible", "interactive", "naive"]
    assert all(line.low is None for line in lines)
    page = storm_page(storm, results[::2])
    assert dict(page.facts)["seed"] == "1"
    assert "use --seeds" in section(page, "Measures").lead


def test_the_table_shows_each_policy_with_the_spread_over_seeds(storm, results):
    table = section(storm_page(storm, results), "Measures").table
    assert list(table.heads) == ["", "interactive", "naive"]
    rows = {row[0]: row[1:] for row in table.rows}
    attempts = [result.measures.amplification for result in results if result.policy == "naive"]
    assert rows["attempts per call"][1].startswith(f"{sum(attempts) / 2:.2f}")
    assert re.fullmatch(r"\d+ ±\d+", rows["calls"][0])
    assert len({row[0] for row in table.rows}) == 17


def test_a_recovery_that_never_happens_is_shown_as_never(storm, results):
    gone = [
        replace(result, measures=replace(result.measures, recovery=None))
        if result.policy == "naive" or result.seed == 1
        else result
        for result in results
    ]
    rows = section(storm_page(storm, gone), "Measures").table.rows
    (row,) = [row for row in rows if row[0].startswith("recovered")]
    assert row[1] == "never in 1 of 2"
    assert row[2] == "never"


def test_the_cost_of_a_storm_is_scaled_from_the_article(storm, results):
    half = [replace(each, measures=replace(each.measures, goodput=0.5)) for each in results]
    costs = section(storm_page(storm, half), "What it would cost")
    assert [card.figure for card in costs.cards] == ["11,700 USD", "11,700 USD"]  # 90 s of 130.4
    assert "with 50.0 % of the possible answers: like 90 s of downtime" in costs.cards[0].about
    assert "It is not a forecast" in costs.lead
    assert costs.lead.endswith("naive loses as much as interactive.")


def test_a_storm_without_a_trigger_has_no_cost_section(storm, results):
    calm = replace(storm, load=replace(storm.load, trigger_at=None, trigger_until=None))
    page = storm_page(calm, results)
    assert section(page, "What it would cost") is None
    labels = [row[0] for row in section(page, "Measures").table.rows]
    assert not any("trigger" in label for label in labels)
    assert "openings of circuits" in labels
    assert [card.figure[-1] for card in storm_picture(calm, results).cards] == ["%", "%"]


def test_the_picture_has_a_short_headline_with_display_names(storm, results):
    half = [
        replace(each, measures=replace(each.measures, goodput=0.5 if each.policy == "naive" else 1))
        for each in results
    ]
    picture = storm_picture(storm, half)
    headline = "stormbreak answers 100 % of what was possible, immediate retries 50 %"
    assert picture.verdict.replace("\xa0", " ") == headline
    assert [card.name for card in picture.cards] == ["stormbreak", "immediate retries"]
    many = [replace(each, policy=f"{number:30}") for number, each in enumerate(half)]
    assert len(storm_picture(storm, many).verdict) <= HEADLINE_LETTERS


def test_a_live_report_omits_what_was_not_observed(storm, results):
    unseen = dict.fromkeys(("in_flight", "queued", "limit", "open_circuits", "wasted"), ())
    live = [replace(each, series=replace(each.series, **unseen)) for each in results]
    page = storm_page(storm, live, live=True)
    assert page.kind == "a storm, played live"
    measured = section(page, "Measures")
    labels = [row[0] for row in measured.table.rows]
    assert "openings of circuits" not in labels
    assert "wait until a call was first asked for, median" in labels
    assert "--seeds" not in measured.lead
    assert {"played", "copies"} <= {name for name, _ in page.facts}
    assert section(page, "In flight, against the limit") is None
    titles = [chart.title.partition(":")[0] for chart in section(page, "Second by second").charts]
    assert set(titles) == {"Attempts", "Calls lost"}


def test_a_high_limit_does_not_flatten_the_in_flight_line(storm, results):
    comparison = Comparison(storm, results)
    panel = comparison.panel(comparison.views[1], IN_FLIGHT, ["naive"])
    assert panel.top == 1.5 * max(y for y in panel.lines[1].high)


def test_policies_beyond_the_strokes_appear_only_in_the_table(storm, results):
    many = [replace(results[0], policy=f"policy {number}") for number in range(9)]
    page = storm_page(storm, many)
    assert len(section(page, "Measures").table.heads) == 10
    assert len(section(page, "Answers in time").keys) == 1 + len(STROKES)
    assert "the other 3 are in the tables" in section(page, "Answers in time").lead


def test_long_policy_paths_are_cut_at_the_start(storm, results):
    """The ends of paths differ."""
    paths = [f"/home/somebody/{'policies/' * 10}{name}.toml" for name in ("calm", "bold")]
    renamed = [
        replace(each, policy=paths[each.policy == "naive"]) for each in results if each.seed == 1
    ]
    heads = section(storm_page(storm, renamed), "Measures").table.heads[1:]
    assert [head[-10:] for head in heads] == ["/calm.toml", "/bold.toml"]
    assert {len(head) for head in heads} == {64}


def test_a_series_is_zero_after_its_last_call(storm, results):
    """A series ends with its last call, the run with its duration."""
    ended = [
        replace(each, series=replace(each.series, attempts=each.series.attempts[:20]))
        for each in results
    ]
    comparison = Comparison(storm, ended)
    _, naive = comparison.panel(comparison.views[1], ATTEMPTS, ["naive"]).lines
    assert naive.ys[9] > 0
    assert set(naive.ys[10:]) == {0.0}
