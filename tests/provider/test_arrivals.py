"""When calls arrive: rates, steps and ramps."""

import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.provider.arrivals import Even, Poisson, rate_segments
from stormbreak.provider.scenario import Step
from stormbreak.provider.scenario_file import parse


def drawn(stream, until):
    times, at = [], stream.next_after(0.0)
    while at is not None and at < until:
        times.append(at)
        at = stream.next_after(at)
    return times


def between(times, start, end):
    return sum(start <= at < end for at in times)


def test_even_arrivals_keep_their_distance():
    assert drawn(Even(2.0, ()), 3.0) == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_an_even_stream_carries_a_part_of_a_call_over_a_step():
    """Three quarters of a call by second 1.5; the rest arrives at the new rate."""
    assert drawn(Even(0.5, (Step(at=1.5, rate=1.0),)), 3.0) == [1.75, 2.75]


def test_an_even_stream_pauses_at_rate_zero_and_ends_after_the_last_step():
    steps = (Step(at=1.0, rate=0.0), Step(at=5.0, rate=1.0), Step(at=7.5, rate=0.0))

    assert drawn(Even(1.0, steps), 100.0) == [1.0, 6.0, 7.0]


def test_a_ramp_becomes_short_steps_with_the_same_number_of_calls():
    rates = rate_segments(10.0, (Step(at=20.0, rate=30.0, ramp=1.0),))

    assert rates == [
        (0.0, 10.0),
        (20.0, 12.5),
        (20.25, 17.5),
        (20.5, 22.5),
        (20.75, 27.5),
        (21.0, 30.0),
    ]


@table_test("stream", [Even, lambda rate, steps: Poisson(rate, steps, 7)])
def test_a_ramp_raises_the_rate_of_arrivals_linearly(stream):
    times = drawn(stream(10.0, (Step(at=100.0, rate=110.0, ramp=100.0),)), 300.0)

    assert between(times, 0, 100) == pytest.approx(1_000, rel=0.1)
    assert between(times, 100, 200) == pytest.approx(6_000, rel=0.05)
    assert between(times, 100, 110) == pytest.approx(150, rel=0.25)
    assert between(times, 200, 300) == pytest.approx(11_000, rel=0.04)


def test_a_scenario_file_may_contain_a_ramp():
    scenario = parse("[load]\nrate = 1\nsteps = [{ at = 5, rate = 9, ramp = 20 }]")

    assert scenario.load.steps == (Step(at=5.0, rate=9.0, ramp=20.0),)


def test_a_step_during_a_ramp_is_rejected():
    toml = "[load]\nrate = 1\nsteps = [{ at = 5, rate = 9, ramp = 20 }, { at = 15, rate = 1 }]"
    with pytest.raises(ConfigurationError, match=r"load\.steps must not begin during a ramp, got"):
        parse(toml)
