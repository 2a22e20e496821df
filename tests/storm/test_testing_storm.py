"""`stormbreak.testing.storm` and `survey`, for the tests of users."""

import os
import sys
from dataclasses import replace

import pytest
from forking import in_child

from stormbreak.core.presets import OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import parse
from stormbreak.storm.policies import BASELINES
from stormbreak.testing import storm, survey

FEW = {"draws": 1, "runs": 1, "families": ["luck"], "seed": 197}
SMALL = """
name = "small"
duration = 40
[provider]
slots = 5
service = 1
[load]
rate = 3
preset = "off"
"""


def test_storm_gives_a_result_for_each_seed():
    results = storm(SMALL, policy="naive", seed=3, seeds=2)

    assert [(one.scenario, one.policy, one.seed) for one in results] == [
        ("small", "naive", 3),
        ("small", "naive", 4),
    ]
    assert sum(results[0].series.answers) > 100


def test_the_policy_may_be_a_file_a_value_or_that_of_the_scenario(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("preset = 'off'\n")
    given = replace(OFF, retry=RetryPolicy(max_attempts=2))
    scenario = parse(SMALL)

    named = [storm(scenario, policy=each)[0].policy for each in (None, path, str(path), given)]
    assert named == ["off", str(path), str(path), "the policy"]
    assert storm(scenario, policy=BASELINES["fixed"])[0].policy == "fixed"


def test_a_check_that_holds_prints_nothing():
    assert storm(SMALL, check="goodput > 0.9 and openings == 0")


def test_a_failed_check_raises_with_the_verdict_and_the_values():
    with pytest.raises(AssertionError) as caught:
        storm(SMALL, seeds=2, check="amplification > 1 or shed > 0")

    sentence_line, values = str(caught.value).splitlines()
    assert sentence_line.startswith("small under off (seeds 0-1) answers ")
    assert values == (
        "amplification > 1 or shed > 0 does not hold: amplification is 1.0, shed is 0"
    )


def test_a_check_is_parsed_before_anything_is_simulated():
    with pytest.raises(ConfigurationError, match="check: 'godput' is not a measure; did you mean"):
        storm("incident", check="godput > 1")


def test_a_failed_check_in_a_test_of_a_user_hides_our_frames(tmp_path, capfd):
    (tmp_path / "test_mine.py").write_text(
        f"""
from stormbreak.testing import storm, survey

def test_mine():
    storm({SMALL!r}, check="shed > 0")
"""
    )

    def failed():
        os.chdir(tmp_path)
        code = pytest.main(["-q", "-p", "no:cacheprovider", "test_mine.py"])
        sys.stdout.flush()
        return code == 1

    assert in_child(failed, seconds=60)
    shown = capfd.readouterr().out
    assert "AssertionError: small under off answers " in shown
    assert "does not hold: shed is 0" in shown
    assert "simulate_all" not in shown  # our own lines are hidden


def test_survey_takes_the_options_of_storm(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("preset = 'off'\n")
    found = survey(path, compare=["fixed", OFF], check="regret_worst >= 0 and ahead <= 0", **FEW)
    assert found.policy == str(path)
    assert found.others[-2:] == ("fixed", "the policy")


def test_a_failed_check_of_a_survey_raises_with_its_sentence_and_the_values():
    """Without a policy it is the default."""
    with pytest.raises(AssertionError) as caught:
        survey(check="regret_p90 < 0", **FEW)

    sentence, values = str(caught.value).splitlines()
    assert sentence.startswith("interactive in 1 random storms (seed 197) has a mean goodput of ")
    assert values.startswith("regret_p90 < 0 does not hold: regret_p90 is ")


def test_a_check_of_a_survey_is_parsed_before_anything_is_simulated():
    with pytest.raises(
        ConfigurationError, match="check: 'regret_p9' is not a measure; did you mean"
    ):
        survey(check="regret_p9 <= 3")
    with pytest.raises(ConfigurationError, match="'makespan' is not a measure"):
        survey(check="makespan <= 3")
