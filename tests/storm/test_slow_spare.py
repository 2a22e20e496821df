"""A target that gets slower with slots to spare: holding back does not help, and the limit lets go."""

from pathlib import Path

import pytest

from stormbreak.core.presets import INTERACTIVE
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate

SLOWER = Path(__file__).parents[2] / "docs" / "background" / "theory" / "slower.toml"


@pytest.mark.parametrize("first_output", [False, True])
def test_a_slower_target_answers_all(first_output):
    result = simulate(load(str(SLOWER)), INTERACTIVE, seed=1, first_output=first_output)

    assert result.measures.goodput >= 0.99
    assert result.measures.shed == 0
    assert not any(result.series.queued[120:])  # a minute after answers got slower
