"""The cost of downtime, by the article's estimate or the user's figures."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.cost.downtime import Downtime, losses, read_storm_result
from stormbreak.errors import ConfigurationError

RUNS = [
    {"policy": "none", "seed": 0, "goodput": 0.2},
    {"policy": "mine", "seed": 0, "goodput": 0.9},
    {"policy": "mine", "seed": 1, "goodput": 1.0},
]


def document(**more):
    return {"scenario": "incident", "policy": "mine", "goodput": 0.95, "runs": RUNS, **more}


@pytest.fixture
def read(tmp_path):
    def call(given):
        path = tmp_path / "storm.json"
        path.write_text(given if isinstance(given, str) else json.dumps(given))
        return read_storm_result(path)

    return call


def test_the_outage_of_the_article_costs_180_000_dollars(read):
    down = losses(
        read(document(runs=[{"policy": "mine", "goodput": 0}])), Decimal(23 * 60), Downtime()
    )
    assert [(loss.share, loss.minutes, round(loss.cost, 10)) for loss in down] == [(1, 23, 180_000)]


def test_a_run_without_goodput_loses_nothing(read):
    runs = [{"policy": "mine", "goodput": None}, {"policy": "none", "goodput": 0.5}]
    mine, none = losses(read(document(runs=runs)), Decimal(60), Downtime())

    assert (mine.share, mine.cost) == (0, 0)
    assert none.share == Decimal("0.5")


def test_each_policy_loses_its_share_and_the_chosen_one_comes_first(read):
    own = Downtime(minutes=Decimal(10), cost=Decimal(1000))
    mine, none = losses(read(document()), Decimal(600), own)
    assert (mine.policy, mine.share, mine.minutes, mine.cost) == (
        "mine", Decimal("0.05"), Decimal("0.5"), 50,
    )  # fmt: skip
    assert (none.policy, none.share, none.minutes, none.cost) == ("none", Decimal("0.8"), 8, 800)


@given(st.floats(min_value=0, max_value=2), st.integers(min_value=0, max_value=10**6))
def test_losses_are_between_zero_and_the_whole_downtime(goodput, seconds):
    storm = type("Storm", (), {"goodput": lambda _: {"p": Decimal(repr(goodput))}})()
    (loss,) = losses(storm, Decimal(seconds), Downtime())
    assert 0 <= loss.share <= 1
    assert 0 <= loss.cost <= Decimal(seconds) / 60 * Downtime().per_minute


@table_test(
    ("given", "message"),
    [
        ("", "not the output of storm run --json"),
        ("[]", "not the output of storm run --json"),
        ("[" * 9000, "not the output of storm run --json"),
        (document(runs=[]), "holds no run"),
        (document(runs=[{"policy": "p"}]), "not the output of storm run --json"),
        (document(runs=[{"policy": "p", "goodput": -0.1}]), r"runs\[0\].goodput must be a share"),
        (
            document(runs=[*RUNS, {"policy": "p", "goodput": "NaN"}]),
            r"runs\[3\].goodput .* got NaN",
        ),
        (document(runs=[{"policy": "p", "goodput": 10.1}]), r"runs\[0\].goodput .* got 10.1"),
        (document(duration="NaN"), "duration must be seconds up to 1,000,000,000, got NaN"),
        (document(duration="1e400"), r"duration must be seconds up to 1,000,000,000, got 1E\+400"),
        (document(trigger_at=-1), "trigger_at must be seconds up to 1,000,000,000, got -1"),
        (document(trigger_until="Infinity"), "trigger_until must be seconds up to"),
    ],
)
def test_an_invalid_storm_result_is_rejected(read, given, message):
    with pytest.raises(ConfigurationError, match=f"storm.json: {message}"):
        read(given)
