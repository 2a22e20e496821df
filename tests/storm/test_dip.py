"""The capacity falls to a fifth and comes back, in virtual time; `make prove` plays the same on sockets."""

from statistics import median

import pytest
from dip import GOAL, RULE, SERVICE, simulated

SEEDS = range(3)


@pytest.fixture(scope="module")
def streamed():
    return [simulated(seed) for seed in SEEDS]


def test_the_limit_follows_a_capacity_loss_within_three_service_times(streamed):
    assert all(seen.settled(RULE) <= 3 * SERVICE for seen in streamed)


def test_the_limit_then_stays_within_a_slot_of_the_goal(streamed):
    for seen in streamed:
        limits = seen.down(after=3 * SERVICE)
        assert median(limits) <= GOAL + 1


def test_the_remaining_capacity_is_used(streamed):
    assert all(seen.goodput() >= 0.95 for seen in streamed)


def test_the_limit_is_back_within_ten_service_times(streamed):
    assert all(seen.back() is not None and seen.back() <= 10 * SERVICE for seen in streamed)


def test_without_streams_the_limit_stays_higher_and_as_much_is_answered():
    """By total times a queue and a slower target look alike, and the limit keeps a floor."""
    seen = simulated(streamed=False)

    assert seen.lowest() > RULE
    assert seen.goodput() >= 0.95
