"""Samples of the processes in every second; sampling changes nothing."""

from dataclasses import replace

from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import INTERACTIVE, OFF
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Burst, Fault, Load, Provider, Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate
from stormbreak.storm.result import Sample
from stormbreak.storm.simulation import Sampler


def herd(*, calls=6, slots=2, processes=1, timeout=30.0, faults=(), at=2.0):
    """Calls at one instant to a provider that needs exactly two seconds for each."""
    return Scenario(
        name="herd",
        duration=20.0,
        provider=Provider(slots=slots, service=2.0, variation=0.0),
        faults=faults,
        load=Load(
            bursts=(Burst(at=at, calls=calls),), processes=processes, deadline=40.0, timeout=timeout
        ),
    )


NOTHING = Sample(0, 0, None, 0, 0, 0, 0.0)
LIMITED = replace(OFF, limit=FixedLimit(max_in_flight=3))


def test_the_series_counts_calls_in_flight_and_in_both_queues():
    """Six calls: three may leave, two of those are served."""
    samples = simulate(herd(), LIMITED).series

    assert samples.in_flight == (0, 0, 3, 3, 3, 3, 2, 2, 0)
    assert samples.queued == (0, 0, 3, 3, 1, 1, 0, 0, 0)
    assert samples.queued_at_provider == (0, 0, 1, 1, 1, 1, 0, 0, 0)
    assert sum(samples.answers) == 6


def test_processes_are_summed_up():
    """Twelve calls of four processes with a limit of three each; the provider serves two."""
    samples = simulate(herd(calls=12, processes=4), LIMITED, seed=1).series

    assert samples.in_flight[2] + samples.queued[2] == 12
    assert samples.in_flight[2] > 3
    assert samples.queued_at_provider[2] == samples.in_flight[2] - 2


def test_a_sample_is_taken_just_before_the_second_ends():
    """A call at 2.0 is counted in second 2, not in second 1."""
    samples = simulate(herd(at=3.0), LIMITED).series

    assert samples.in_flight[:4] == (0, 0, 0, 3)


def test_the_limit_is_the_sum_over_all_processes_also_idle_ones():
    samples = simulate(herd(processes=4), LIMITED).series

    assert set(samples.limit) == {12}
    assert set(samples.limited) == {4}


@table_test("policy", [OFF, INTERACTIVE])
def test_without_a_binding_limit_the_limit_is_none(policy):
    samples = simulate(herd(calls=2), policy).series

    assert set(samples.limit) == {None}
    assert set(samples.limited) == {0}


def test_an_automatic_limit_is_shown_only_during_congestion():
    samples = simulate(replace(load("dip"), duration=70.0), INTERACTIVE, seed=1).series

    assert set(samples.limit[:30]) == {None}
    assert max(samples.limit[36:50]) < 256
    assert set(samples.limited[36:50]) == {1}


def test_the_limit_is_none_if_only_some_processes_are_limited():
    storm = load("brownout")  # 20 processes
    storm = replace(storm, load=replace(storm.load, trigger_until=50.0), duration=81.0)
    samples = simulate(storm, INTERACTIVE, seed=1).series

    shares = [
        limit
        for limited, limit in zip(samples.limited, samples.limit, strict=True)
        if 0 < limited < 20
    ]
    assert set(shares) == {None}
    assert max(samples.limited) == 20


def test_open_circuits_are_counted_also_without_calls():
    """Each process opens at its first failure, and stays open for longer than the simulation."""
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=100.0, open_duration_jitter=0.0
    )
    policy = replace(OFF, breaker=breaker, fail_fast=True)
    scenario = herd(calls=40, slots=40, processes=4, faults=(Fault(kind=Kind.S503),))
    samples = simulate(replace(scenario, duration=10.0), policy, seed=1).series
    assert samples.open_circuits[-1] == 4

    later = replace(
        scenario,
        load=replace(scenario.load, bursts=(Burst(at=2.0, calls=40), Burst(at=9.0, calls=1))),
    )
    samples = simulate(later, policy, seed=1).series
    assert samples.open_circuits == (0, 0, *(4,) * 8)


def test_wasted_work_is_counted_when_it_ends():
    """Two of six are answered in time; the clients of the others left, but each is served for two seconds."""
    scenario = herd(timeout=3.0)
    result = simulate(scenario, OFF)

    assert result.series.wasted == (0.0,) * 6  # all calls have ended by second 5
    longer = replace(
        scenario,
        load=replace(scenario.load, bursts=(Burst(at=2.0, calls=6), Burst(at=15.0, calls=1))),
    )
    samples = simulate(longer, OFF).series
    assert {second: work for second, work in enumerate(samples.wasted) if work} == {6: 4.0, 8: 4.0}


def test_sampling_changes_nothing(monkeypatch):
    """The events stored in test_simulation.py are from before samples existed."""
    storm = replace(load("dip"), duration=70.0)
    events = {True: [], False: []}
    seen = simulate(storm, INTERACTIVE, seed=1, listener=events[True].append)
    monkeypatch.setattr(Sampler, "sample", lambda *_: NOTHING)
    unseen = simulate(storm, INTERACTIVE, seed=1, listener=events[False].append)

    assert events[True] == events[False]
    assert seen.measures == unseen.measures
    assert set(unseen.series.in_flight) == {0}
