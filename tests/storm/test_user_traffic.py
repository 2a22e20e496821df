"""User traffic: arrivals from a log, batches, and their scaling."""

from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from table_test import table_test

from stormbreak.core.presets import OFF
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Load, Provider, Scenario, Step
from stormbreak.provider.scenario_file import load, parse
from stormbreak.storm import simulate
from stormbreak.storm.traffic import scaled, scaled_arrivals, traffic, with_arrivals, with_batch

# ------------------------------------------------------------ in a scenario


def test_listed_calls_arrive_at_their_times_with_every_seed():
    storm = with_arrivals(load("dip"), [0.0, 0.25, 0.25, 70.0])

    assert traffic(storm.load, storm.duration, seed=1).times == [0.0, 0.25, 0.25, 70.0]
    assert traffic(storm.load, storm.duration, seed=2).times == [0.0, 0.25, 0.25, 70.0]
    result = simulate(storm, OFF, seed=1)
    assert (result.series.calls[0], result.series.calls[70]) == (3, 1)
    assert sum(result.series.answers) == 4


def test_listed_calls_replace_all_calls_of_the_scenario():
    storm = load("herd")
    assert storm.load.bursts
    ours = with_arrivals(storm, [0.0, 90.0])
    assert traffic(ours.load, ours.duration, seed=1).times == [0.0, 90.0]


def test_calls_of_which_none_would_be_measured_are_rejected():
    """Else every measure would be perfect."""
    short = with_arrivals(load("dip"), [0.0, 29.9])
    with pytest.raises(
        ConfigurationError, match="dip: no call arrives from the trigger at 30 s on"
    ):
        simulate(short, OFF)
    assert simulate(with_arrivals(load("dip"), [0.0, 30.0]), OFF).measures.calls == 1

    rare = Scenario(name="rare", duration=1.0, provider=Provider(), load=Load(rate=1e-6))
    with pytest.raises(ConfigurationError, match="rare: no call arrives in 1 s"):
        simulate(rare, OFF)


def test_listed_calls_keep_the_scenario_and_extend_its_duration():
    dip = load("dip")
    storm = with_arrivals(dip, [0.0, 400.0])

    assert storm.duration == 401.0
    assert with_arrivals(dip, [0.0, 1.0]).duration == dip.duration
    assert (storm.provider, storm.faults) == (dip.provider, dip.faults)
    assert storm.load == replace(dip.load, rate=0.0, arrival_times=(0.0, 400.0))


def test_a_scenario_without_a_load_can_play_listed_calls():
    storm = with_arrivals(load("calm"), [0.0, 1.0])

    assert storm.load == Load(arrival_times=(0.0, 1.0))
    assert simulate(storm, OFF).measures.calls == 2


def test_a_batch_is_one_process_whose_rows_are_all_measured():
    storm = with_batch(load("outage"), [100, 300])

    assert storm.load == Load(
        arrival_times=(0.0, 0.0),
        arrival_tokens=(100, 300),
        tokens=200.0,
        preset="batch",
        deadline=3600.0,
        timeout=60.0,
    )
    calls = traffic(storm.load, storm.duration, seed=1)
    assert (calls.times, calls.tokens) == ([0.0, 0.0], [100, 300])
    assert simulate(storm, OFF).measures.calls == 2


def test_the_scenario_sets_deadline_and_timeout_of_batch_rows():
    gather = load("gather")
    storm = with_batch(gather, [10])

    assert (storm.load.deadline, storm.load.timeout) == (gather.load.deadline, gather.load.timeout)


# ------------------------------------------------------------ more calls, or fewer


def variation(times):
    """The coefficient of variation of the gaps: 1 for a Poisson process."""
    gaps = [after - before for before, after in pairwise(times)]
    return pstdev(gaps) / fmean(gaps)


POISSON = traffic(Load(rate=10.0), 1000.0, seed=3).times


@table_test("factor", [0.3, 1.0, 1.5, 3.4, 10.0])
def test_scaled_arrivals_stay_random(factor):
    more = scaled_arrivals(POISSON, factor)
    assert len(more) == pytest.approx(factor * len(POISSON), rel=0.02)
    assert more == sorted(more) == scaled_arrivals(POISSON, factor)
    assert variation(more) == pytest.approx(1.0, abs=0.07)  # duplicates: 2.4 at 3.4 times


def test_scaled_arrivals_keep_the_peak_where_it_is():
    steps = (Step(at=400.0, rate=50.0), Step(at=460.0, rate=10.0))
    peak = traffic(Load(rate=10.0, steps=steps), 1000.0, seed=3).times
    for factor in (0.5, 3.4):
        more = scaled_arrivals(peak, factor)
        share = sum(400 <= at < 460 for at in more) / len(more)
        assert share == pytest.approx(sum(400 <= at < 460 for at in peak) / len(peak), abs=0.01)


def test_a_scaled_herd_is_a_larger_herd():
    herd = [0.0] + [60.0] * 500 + [120.0]
    assert scaled_arrivals(herd, 3.0).count(60.0) > 1480


def test_a_scaled_scenario_has_more_calls_and_the_same_provider():
    storm = load("herd")
    more = scaled(storm, 3.4)
    calls = len(traffic(storm.load, storm.duration, seed=1).times)
    assert len(traffic(more.load, more.duration, seed=1).times) == pytest.approx(
        3.4 * calls, rel=0.05
    )
    assert (more.provider, more.faults) == (storm.provider, storm.faults)
    assert len(scaled(with_arrivals(storm, POISSON), 0.5).load.arrival_times) < 5200
    with pytest.raises(ConfigurationError, match=r"--scale 0.001 leaves no call of 1"):
        scaled(with_arrivals(storm, [0.0]), 0.001)
    with pytest.raises(ConfigurationError, match=r"calm: --scale needs a \[load\] or --arrivals"):
        scaled(Scenario(name="calm"), 2.0)


# ------------------------------------------------------------ in a file


def test_a_file_may_list_arrival_times_and_tokens():
    storm = parse(
        "duration = 10\n[load]\narrival_times = [0, 1.5, 1.5]\narrival_tokens = [10, 20, 30]\n"
    )

    assert traffic(storm.load, 10.0, seed=1).times == [0.0, 1.5, 1.5]
    assert traffic(storm.load, 10.0, seed=1).tokens == [10, 20, 30]


@table_test(
    ("text", "message"),
    [
        ("arrival_times = [2, 1]", "load.arrival_times must be in order, got 1.0 after 2.0"),
        (
            "arrival_times = [1]\nrate = 2",
            "load.arrival_times cannot be combined with rate, steps or bursts",
        ),
        (
            "arrival_times = [1, 2]\narrival_tokens = [3]",
            "load.arrival_tokens must have as many values as arrival_times (2), got 1",
        ),
        (
            "arrival_tokens = [3]",
            "load.arrival_tokens must have as many values as arrival_times (0), got 1",
        ),
        ("arrival_times = [-1]", "load.arrival_times must be zero or positive, got -1"),
        (
            "arrival_times = [10]",
            "load.arrival_times must be before the end (duration 10.0), got 10.0",
        ),
        ("arrival_times = []", "load.rate must be positive if there are no bursts, got 0.0"),
    ],
)
def test_invalid_arrival_lists_are_rejected(text, message):
    with pytest.raises(ConfigurationError) as caught:
        parse(f"duration = 10\n[load]\n{text}\n")
    assert message in str(caught.value)


def test_listed_tokens_keep_their_mean_and_variation():
    times = tuple(float(second) for second in range(1_000))
    listed = Load(arrival_times=times, arrival_tokens=(100, 300) * 500)
    storm = Scenario(name="tokens", duration=1_000.0, load=listed)
    thinned = scaled(storm, 0.5).load

    assert thinned.arrival_tokens == ()
    assert (thinned.tokens, thinned.tokens_variation) == (200.0, 0.5)
    assert fmean(traffic(thinned, 1_000.0, seed=1).tokens) == pytest.approx(200.0, rel=0.1)
