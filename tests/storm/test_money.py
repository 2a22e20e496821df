import pytest

from stormbreak.provider.loader import load
from stormbreak.storm.money import ARTICLE, Story, loss, watched


def test_to_lose_all_for_as_long_as_the_article_was_down_costs_what_it_says():
    lost = loss(0.0, 23 * 60)
    assert (lost.share, lost.seconds, lost.usd) == (1.0, 1380.0, pytest.approx(180_000.0))


def test_a_share_of_the_answers_is_that_share_of_the_downtime():
    lost = loss(0.75, 400.0, Story(seconds=10.0, usd=50.0))
    assert (lost.share, lost.seconds, lost.usd) == (0.25, 100.0, 500.0)


@pytest.mark.parametrize("goodput", [1.0, 1.2])
def test_whoever_loses_nothing_pays_nothing(goodput):
    assert loss(goodput, 1000.0).usd == 0.0


def test_a_storm_is_watched_from_its_trigger_on():
    assert watched(load("incident")) == 1457 - 30
    assert watched(load("calm-burst")) is None
    assert ARTICLE.usd_per_second == pytest.approx(130.43, abs=0.01)
