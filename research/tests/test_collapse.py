"""The collapse of an overloaded service: our engine beside the published program, and what prevents it."""

import pytest

from published import bare_collapse, collapse
from published.bare_collapse import BACKOFFS, LOADS, SECONDS
from published.means import apart, mean

NEAR = 3.0  # standard errors


def total(seconds, name, since=0):
    return sum(getattr(second, name) for second in seconds[since:])


def answered(seconds, since):
    """The share of the calls from then on that is answered."""
    return total(seconds, "successes", since) / total(seconds, "calls", since)


@pytest.mark.parametrize("load", LOADS)
def test_our_engine_equals_the_published_program_at_the_same_seed(load):
    ours, bare = (side.run(load, "no backoff", 1) for side in (collapse, bare_collapse))

    assert ours == bare


@pytest.mark.prove
@pytest.mark.parametrize("load", LOADS)
def test_means_with_backoff_are_within_three_standard_errors(load):
    ours = [collapse.run(load, BACKOFFS[1], seed) for seed in range(1, 21)]
    bare = [bare_collapse.run(load, BACKOFFS[1], seed) for seed in range(101, 121)]

    for name in ("calls", "successes", "retries"):
        for since in (0, SECONDS // 2):
            here, there = (
                mean(float(total(run, name, since)) for run in side) for side in (ours, bare)
            )
            assert apart(here, there) <= NEAR


def test_without_backoff_a_burst_of_five_seconds_never_ends():
    seconds = collapse.run("spike", "no backoff", 1)

    assert answered(seconds[:20], 5) > 0.95
    assert answered(seconds, 60) < 0.01
    assert total(seconds, "retries", 60) > 1.9 * total(seconds, "calls", 60)


@pytest.mark.parametrize("policy", ["backoff and jitter", "token bucket", "interactive"])
def test_jitter_or_a_budget_recovers_from_the_burst(policy):
    assert answered(collapse.run("spike", policy, 1), 50) > 0.9


def test_jitter_alone_does_not_recover_from_the_ramp():
    assert answered(collapse.run("ramp", "backoff and jitter", 1), 50) < 0.01


@pytest.mark.parametrize("seed", [1, 5])
def test_our_default_answers_most_of_the_ramp(seed):
    assert answered(collapse.run("ramp", "interactive", seed), 0) > 0.5


@pytest.mark.prove
@pytest.mark.parametrize("side", [collapse, bare_collapse])
def test_a_system_is_either_down_or_up(side):
    shares = [answered(side.run("spike", "no backoff", seed), 60) for seed in range(1, 31)]

    assert 15 <= sum(share < 0.05 for share in shares) <= 27
    assert all(share < 0.05 or share > 0.9 for share in shares)


@pytest.mark.parametrize(("ratio", "recovers"), [(0.3, True), (1.0, False)])
def test_the_law_of_the_budget_holds_in_the_published_program(ratio, recovers):
    """64 answers a second come in time, and 40 calls a second: the law draws the line at 0.6."""
    seconds = collapse.play(collapse.with_ratio(ratio), bare_collapse.spike, 1)

    assert recovers == (answered(seconds, 60) > 0.9)
