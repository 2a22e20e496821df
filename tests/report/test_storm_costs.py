"""What a storm costs: over which time, and at the rate of the article."""

import pytest

from stormbreak.cost.downtime import MINUTE
from stormbreak.provider.scenario_file import load
from stormbreak.report.storm_measures import ARTICLE, measured_seconds


def test_a_storm_is_watched_from_its_trigger_on():
    assert measured_seconds(load("incident")) == 1457 - 30
    assert measured_seconds(load("calm-burst")) is None


def test_a_second_of_the_articles_downtime():
    assert float(ARTICLE.per_minute / MINUTE) == pytest.approx(130.43, abs=0.01)
