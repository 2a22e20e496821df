"""The retries of "Fixing retries with token buckets and circuit breakers": our engine beside the published program."""

import pytest

from published import bare_retries, retries
from published.study import RATES, retried

STRATEGIES = tuple(retries.STRATEGIES)
POINT = 1.0  # percent


def assert_near(sides):
    for ours, bare in zip(sides.ours, sides.bare, strict=True):
        assert ours.value == pytest.approx(bare.value, abs=POINT)


@pytest.mark.parametrize("failing", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "token bucket"])
def test_our_engine_equals_the_published_program_at_the_same_seed(strategy, failing):
    ours, bare = (
        side.run(strategy, failing, 1, clients=10, rate=100) for side in (retries, bare_retries)
    )
    assert ours == bare


@pytest.mark.parametrize("failing", [0.05, 0.1, 0.5])
def test_our_token_buckets_nearly_equal_the_published_ones_at_the_same_seed(failing):
    """0.1 has no exact float: sometimes one side has a token one call earlier."""
    ours, bare = (side.run("token bucket", failing, 1) for side in (retries, bare_retries))

    assert ours.success == pytest.approx(bare.success, abs=POINT)
    assert ours.load == pytest.approx(bare.load, abs=POINT)


@pytest.mark.parametrize("failing", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_long_run_approaches_the_computed_value(strategy, failing):
    tally = retries.run(strategy, failing, 1, clients=1, rate=100, seconds=250)
    success, load = retries.in_the_long_run(strategy, failing)

    assert tally.success == pytest.approx(success, abs=POINT)
    assert tally.load == pytest.approx(load, abs=POINT * load / 100)


@pytest.mark.prove
@pytest.mark.parametrize("failing", RATES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_published_table_is_met_within_a_point(strategy, failing):
    assert_near(retried(strategy, failing, runs=10))


@pytest.mark.prove
@pytest.mark.parametrize("failing", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("clients", [10, 1000])
@pytest.mark.parametrize("strategy", ["token bucket", "breaker on retries"])
def test_the_published_values_hold_for_few_and_many_clients(strategy, clients, failing):
    assert_near(retried(strategy, failing, runs=10, clients=clients))


def test_many_clients_multiply_a_full_bucket_but_not_an_empty_one():
    """This is why our budget starts empty."""
    many = {"clients": 500, "rate": 500.0}  # ten calls each
    full = retries.run("token bucket", 0.5, 1, **many)
    empty = retries.run(retries.EMPTY, 0.5, 1, **many)

    assert full.load > 140
    assert empty.load <= 110
