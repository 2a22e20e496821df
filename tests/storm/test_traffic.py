import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Burst, Load, Step
from stormbreak.storm.traffic import traffic


def test_a_herd_arrives_at_one_instant_among_other_calls():
    herd = Burst(at=10.0, calls=50, repeat=2, every=20.0)
    calls = traffic(Load(rate=2.0, bursts=(herd,), processes=4), 40.0, seed=1)

    assert calls.times == sorted(calls.times)
    assert calls.times.count(10.0) == calls.times.count(30.0) == 50
    assert 150 < len(calls.times) < 210
    assert set(calls.processes) == {0, 1, 2, 3}


def test_no_call_arrives_after_the_end():
    load = Load(rate=5.0, bursts=(Burst(at=10.0, calls=3),))

    assert max(traffic(load, 10.0, seed=1).times) < 10.0
    assert traffic(load, 10.1, seed=1).times.count(10.0) == 3


def test_processes_of_calls_are_drawn_independently_of_arrivals():
    few = traffic(Load(rate=5.0, processes=2), 60.0, seed=3)
    many = traffic(Load(rate=5.0, processes=200), 60.0, seed=3)
    faster = traffic(Load(rate=9.0, processes=200), 60.0, seed=3)

    assert few.times == many.times
    assert many.processes == faster.processes[: len(many.processes)]
    assert traffic(Load(rate=5.0), 60.0, seed=4).times != few.times


def test_even_arrivals_need_no_chance():
    load = Load(rate=1.0, arrivals="even", steps=(Step(at=3.0, rate=2.0),))

    assert traffic(load, 4.5, seed=1).times == [1.0, 2.0, 3.0, 3.5, 4.0]


@table_test(
    ("load", "message"),
    [
        (
            Load(rate=1e9),
            "load must have at most 10000000 calls in a simulation, got about 6e\\+10",
        ),
        (Load(rate=1.0, steps=(Step(at=50.0, rate=2e6, ramp=5.0),)), "got about 1.5e"),
        (Load(bursts=(Burst(at=1.0, calls=6_000_000, repeat=2),)), "got about 1.2e"),
        (
            Load(rate=1.0, processes=100_001),
            "load.processes must be at most 100000 in a simulation",
        ),
    ],
)
def test_too_large_a_load_is_rejected_before_the_simulation(load, message):
    with pytest.raises(ConfigurationError, match=message):
        traffic(load, 60.0, seed=1)
