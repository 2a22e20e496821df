"""A survey: regret, its figures, and its determinism by seed."""

import json
from dataclasses import replace
from math import inf

import pytest
from surveyed import a_survey

from stormbreak.core.presets import INTERACTIVE
from stormbreak.storm.assertions import parse_assertion, values
from stormbreak.storm.policies import BASELINES, NamedPolicy
from stormbreak.storm.survey import Figures, rivals_of, survey

OURS = NamedPolicy(name="interactive", policy=INTERACTIVE)
FEW = {"draws": 2, "families": ["luck", "cut"], "runs": 2, "seed": 197}  # small ones


def by_hand():
    """Regrets 0, 10, 1 and 3."""
    return a_survey(
        {"ours": 90.0, "a": 80.0, "b": 90.0},
        {"ours": 60.0, "a": 70.0, "b": 65.0},
        {"ours": 99.0, "a": 10.0, "b": 100.0},
        {"ours": 95.0, "a": 98.0, "b": 97.0},
    )


def test_regret_is_the_lead_of_the_best_other_policy():
    scores = by_hand().scores
    assert [(score.regret, score.best) for score in scores] == [
        (0.0, "ours"), (10.0, "a"), (1.0, "b"), (3.0, "a"),
    ]  # fmt: skip


def test_a_survey_has_its_figures():
    found = by_hand()
    assert found.figures == Figures(
        goodput=0.86, ahead=-2.0, regret_mean=3.5, regret_median=2.0, regret_p90=10.0, regret_worst=10.0,
        within_1=0.5, within_5=0.75,
    )  # fmt: skip
    assert found.means == {"ours": 86.0, "a": 64.5, "b": 88.0}
    assert [score.draw.number for score in found.worst(2)] == [1, 3]
    assert len(found.worst(10)) == 3  # a storm that it wins has no loss
    assert sum(each.draws for each in found.families.values()) == 4
    assert sum(each.draws for each in found.fleets.values()) == 4
    assert found.sentence == (
        "ours in 4 random storms (seed 0) has a mean goodput of 86.0 % and loses to the best of the others,"
        " in points: mean 3.5, median 2.0, p90 10.0, worst 10.0; 75 % of the storms are within 5 points."
    )


def test_an_assertion_may_be_about_a_survey():
    figures = by_hand().figures
    assert parse_assertion("regret_p90 <= 10 and within_5 > 0.7", about=Figures).holds(figures)
    assertion = parse_assertion("goodput > 0.9 or ahead > 0", about=Figures)
    assert not assertion.holds(figures)
    assert values(assertion, figures) == "goodput is 0.86, ahead is -2.0"


def test_a_batch_is_measured_by_the_time_of_the_fastest_other():
    found = a_survey(
        {"ours": 30.0, "a": 20.0, "b": inf},
        {"ours": 10.0, "a": 40.0, "b": inf},
        {"ours": inf, "a": 40.0, "b": inf},
        {"ours": inf, "a": inf, "b": inf},
        {"ours": 30.0, "a": inf, "b": inf},
        preset="batch",
    )
    assert [(score.regret, score.best) for score in found.scores] == [
        (1.5, "a"), (0.25, "ours"), (inf, "a"), (1.0, "ours"), (1.0, "ours"),
    ]  # fmt: skip
    assert (found.figures.regret_median, found.figures.regret_worst) == (1.0, inf)
    assert [score.draw.number for score in found.worst(9)] == [2, 0]
    plain = found.plain()
    assert (plain["worst"], plain["median"], plain["means"]["ours"]) == (None, 1.0, None)
    json.dumps(plain, allow_nan=False)
    assert "worst never" in found.sentence
    # a batch has no goodput and no points: no assertion about them holds
    for assertion in ("goodput >= 0", "within_5 >= 0", "within_1 < 1", "ahead < 1 and ahead > 1"):
        assert not parse_assertion(assertion, about=Figures).holds(found.figures)


def test_a_survey_without_other_policies_has_no_regret():
    found = a_survey({"ours": 50.0})
    assert (found.figures.regret_worst, found.figures.ahead) == (0.0, 0.0)


TWIN = replace(BASELINES["naive"], name="twin")
OTHERS = [BASELINES["none"], BASELINES["naive"], OURS, TWIN, BASELINES["none"]]


@pytest.fixture(scope="module")
def alone():
    """A survey in one process, and its reported progress."""
    progress_of = {}
    found = survey(
        OURS,
        OTHERS,
        **FEW,
        progress=lambda run, share, runs: progress_of.update({(run, runs): share}),
    )
    return found, progress_of


def test_a_survey_is_the_same_in_parallel_processes(alone):
    found, _ = alone
    beside = survey(OURS, OTHERS, **{**FEW, "draws": 1}, processes=2)
    assert beside.scores == found.scores[:1]
    # without duplicates and without the policy itself
    assert beside.others == found.others == ("none", "naive", "twin")
    other = survey(BASELINES["none"], [], **{**FEW, "runs": 1, "seed": 504})
    assert [score.draw for score in other.scores] != [score.draw for score in found.scores]


def test_every_policy_meets_the_same_storm(alone):
    for score in alone[0].scores:
        assert score.values["twin"] == score.values["naive"] != score.values["none"]


def test_the_progress_of_every_run_is_reported(alone):
    assert alone[1] == {(run, 16): 1.0 for run in range(16)}


def test_a_survey_of_batches_compares_loops():
    (dip,) = survey(
        BASELINES["loop_naive"],
        rivals_of("batch"),
        draws=1,
        families=["cut"],
        preset="batch",
        runs=1,
    ).scores
    assert set(dip.values) == {"loop_naive", "loop_exponential", "loop_full_jitter"}
    assert all(value > 1.0 for value in dip.values.values())
