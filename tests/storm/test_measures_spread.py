"""The spread of measures over seeds: mean, standard deviation, and the worst."""

from dataclasses import replace

import pytest
from measured import MEASURES
from table_test import table_test

from stormbreak.storm.assertions import NAMES
from stormbreak.storm.measures import Spread, plain, spread


def test_one_run_has_no_deviation():
    assert spread([MEASURES])["goodput"] == Spread(
        mean=0.98, deviation=None, worst=0.98, never=0, seeds=1
    )
    assert set(spread([MEASURES])) == set(NAMES)


def test_the_deviation_is_that_of_a_sample():
    found = spread([replace(MEASURES, p99=value) for value in (1.0, 2.0, 6.0)])["p99"]

    assert found.mean == 3.0
    assert found.deviation == pytest.approx(7**0.5)


@table_test(
    ("name", "worst"),
    [
        ("goodput", 0.2),
        ("trigger_goodput", 0.2),
        ("success", 0.2),
        ("recovery", 0.9),
        ("wasted", 0.9),
    ],
)
def test_the_worst_value_depends_on_the_measure(name, worst):
    runs = [replace(MEASURES, **{name: value}) for value in (0.5, 0.2, 0.9)]

    assert spread(runs)[name].worst == worst


def test_a_time_that_never_came_is_the_worst_and_has_no_mean():
    found = spread([MEASURES, replace(MEASURES, recovery=None), replace(MEASURES, recovery=None)])[
        "recovery"
    ]

    assert found == Spread(mean=None, deviation=None, worst=None, never=2, seeds=3)


def test_a_spread_is_written_rounded():
    runs = [replace(MEASURES, p50=value) for value in (1.0, 1.0, 1.1)]

    assert plain(spread(runs))["p50"] == {
        "mean": 1.033333,
        "deviation": 0.057735,
        "worst": 1.1,
        "never": 0,
        "seeds": 3,
    }


def test_a_share_of_nothing_has_no_mean_and_is_not_the_worst():
    nothing = replace(MEASURES, goodput=None)

    assert spread([MEASURES, nothing])["goodput"] == Spread(
        mean=None, deviation=None, worst=0.98, never=1, seeds=2
    )
    assert spread([nothing])["goodput"].worst is None
