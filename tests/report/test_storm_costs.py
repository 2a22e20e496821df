"""The cost of a storm: its measured time, and the rate of the article."""

import pytest

from stormbreak.cost.downtime import MINUTE
from stormbreak.provider.scenario_file import load
from stormbreak.report.storm_measures import ARTICLE, measured_seconds


def test_a_storm_is_measured_from_its_trigger():
    assert measured_seconds(load("incident")) == 1457 - 30
    assert measured_seconds(load("calm-burst")) is None


def test_a_second_of_downtime_costs_130_dollars_in_the_article():
    assert float(ARTICLE.per_minute / MINUTE) == pytest.approx(130.43, abs=0.01)
