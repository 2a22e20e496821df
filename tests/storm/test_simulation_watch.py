"""What is seen of the processes in every second, and that looking changes nothing."""

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


def herd(*, calls=6, slots=2, processes=1, timeout=30.0, trouble=(), at=2.0):
    """Calls in one instant to a provider that needs exactly two seconds for each."""
    return Scenario(
        name="herd",
        duration=20.0,
        provider=Provider(slots=slots, service=2.0, variation=0.0),
        faults=trouble,
        load=Load(
            bursts=(Burst(at=at, calls=calls),), processes=processes, deadline=40.0, timeout=timeout
        ),
    )


NOTHING = Sample(0, 0, None, 0, 0, 0, 0.0)
LIMITED = replace(OFF, limit=FixedLimit(max_in_flight=3))


def test_what_is_in_flight_and_what_waits_and_where():
    """Six calls, three may leave, two of those are worked on."""
    told = simulate(herd(), LIMITED).series

    assert told.in_flight == (0, 0, 3, 3, 3, 3, 2, 2, 0)
    assert told.queued == (0, 0, 3, 3, 1, 1, 0, 0, 0)
    assert told.queued_at_provider == (0, 0, 1, 1, 1, 1, 0, 0, 0)
    assert sum(told.answers) == 6


def test_processes_are_summed_up():
    """Twelve calls come to four processes, of which each lets three leave at most, and no more than two are worked on."""
    told = simulate(herd(calls=12, processes=4), LIMITED, seed=1).series

    assert told.in_flight[2] + told.queued[2] == 12
    assert told.in_flight[2] > 3
    assert told.queued_at_provider[2] == told.in_flight[2] - 2


def test_a_second_is_over_just_before_the_next_one():
    """Who comes at 2.0 is seen in second 2, not in second 1."""
    told = simulate(herd(at=3.0), LIMITED).series

    assert told.in_flight[:4] == (0, 0, 0, 3)


def test_the_limit_is_the_sum_over_processes_also_of_those_that_have_nothing_to_do():
    told = simulate(herd(processes=4), LIMITED).series

    assert set(told.limit) == {12}
    assert set(told.limited) == {4}


@table_test("policy", [OFF, INTERACTIVE])
def test_where_nothing_binds_there_is_no_limit(policy):
    told = simulate(herd(calls=2), policy).series

    assert set(told.limit) == {None}
    assert set(told.limited) == {0}


def test_an_automatic_limit_is_one_while_congestion_lasts():
    told = simulate(replace(load("dip"), duration=70.0), INTERACTIVE, seed=1).series

    assert set(told.limit[:30]) == {None}
    assert max(told.limit[36:50]) < 256
    assert set(told.limited[36:50]) == {1}


def test_a_share_of_the_processes_that_is_limited_makes_no_limit_of_all():
    storm = load("brownout")  # 20 processes
    storm = replace(storm, load=replace(storm.load, trigger_until=50.0), duration=81.0)
    told = simulate(storm, INTERACTIVE, seed=1).series

    shares = [
        limit for limited, limit in zip(told.limited, told.limit, strict=True) if 0 < limited < 20
    ]
    assert set(shares) == {None}
    assert max(told.limited) == 20


def test_open_circuits_are_counted_also_without_calls():
    """Each of the processes that had a call opens at its first failure, and stays open for longer than this lasts."""
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=100.0, open_duration_jitter=0.0
    )
    policy = replace(OFF, breaker=breaker, fail_fast=True)
    scenario = herd(calls=40, slots=40, processes=4, trouble=(Fault(kind=Kind.S503),))
    told = simulate(replace(scenario, duration=10.0), policy, seed=1).series
    assert told.open_circuits[-1] == 4

    later = replace(
        scenario,
        load=replace(scenario.load, bursts=(Burst(at=2.0, calls=40), Burst(at=9.0, calls=1))),
    )
    told = simulate(later, policy, seed=1).series
    assert told.open_circuits == (0, 0, *(4,) * 8)


def test_wasted_work_is_counted_when_it_ends():
    """Two of six are answered in time; the others have gone, and are worked on for two seconds each all the same."""
    scenario = herd(timeout=3.0)
    result = simulate(scenario, OFF)

    assert result.series.wasted == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # all are over by second 5
    longer = replace(
        scenario,
        load=replace(scenario.load, bursts=(Burst(at=2.0, calls=6), Burst(at=15.0, calls=1))),
    )
    told = simulate(longer, OFF).series
    assert {second: work for second, work in enumerate(told.wasted) if work} == {6: 4.0, 8: 4.0}


def test_looking_changes_nothing(monkeypatch):
    """The events that are stored in `test_simulation` are from before anybody looked, too."""
    storm = replace(load("dip"), duration=70.0)
    events = {True: [], False: []}
    seen = simulate(storm, INTERACTIVE, seed=1, listener=events[True].append)
    monkeypatch.setattr(Sampler, "sample", lambda *_: NOTHING)
    unseen = simulate(storm, INTERACTIVE, seed=1, listener=events[False].append)

    assert events[True] == events[False]
    assert seen.measures == unseen.measures
    assert set(unseen.series.in_flight) == {0}
